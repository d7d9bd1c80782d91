package storetest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"mlaas.dev/mlaas/store"
)

// Killed is a store whose processes are killed while they commit, and what
// they said that they had committed. The test binary runs itself as such a
// process: a test that makes a Killed calls [Die] first.
type Killed struct {
	Test  string // the name of the test that runs itself
	Where string // the store, as Open takes it
	Open  func(t *testing.T, where string) store.Driver

	said map[int]bool
}

// killedEnv names the store to the process that is to die.
const killedEnv = "MLAAS_TEST_KILLED"

// Die commits until it is killed, where this process is the one that is to be;
// else it does nothing.
func Die(t *testing.T, open func(t *testing.T, where string) store.Driver) {
	where := os.Getenv(killedEnv)
	if where == "" {
		return
	}
	db := open(t, where)
	st, err := db.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	next := int(st.Records)
	for range 8 {
		go func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				id := fmt.Sprint(i)
				if _, err := db.Get(context.Background(), numbered(id).Key); err == nil {
					continue // committed when the one before died
				}
				if err := db.Commit(context.Background(), store.Batch{Put: []store.Row{numbered(id)}, Tell: []store.Message{{To: "inbox", Subject: id}}}); err != nil {
					panic(err)
				}
				mu.Lock()
				fmt.Fprintln(os.Stdout, i)
				mu.Unlock()
			}
		}()
	}
	select {}
}

func numbered(id string) store.Row {
	return store.Row{Key: store.Key{Kind: "thing", ID: id}, Data: []byte("{}"), Index: []string{"i"}}
}

// Rounds kills three processes, each when it has said a few hundred.
func (k *Killed) Rounds(t *testing.T) {
	for round := range 3 {
		k.run(t, 200+50*round)
		k.check(t)
	}
	if len(k.said) < 600 {
		t.Errorf("only %d commits were acknowledged: the test shows nothing", len(k.said))
	}
}

// Failpoints kills processes at each point that a store passes, early and late.
// The binary must have been built with the tag failpoints.
func (k *Killed) Failpoints(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	k.run(t, 500, "MLAAS_FAILPOINT_LIST="+list)
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	points := strings.Fields(string(text))
	if len(points) < 2 {
		t.Fatalf("points are %v", points)
	}
	for _, p := range points {
		for _, hit := range []string{"", "#2", "#50"} {
			k.run(t, 5000, "MLAAS_FAILPOINT="+p+hit)
			k.check(t)
		}
	}
	t.Logf("%d acknowledged, points %v", len(k.said), points)
}

// run starts a process that commits, and kills it when it has said so much; it
// may die before.
func (k *Killed) run(t *testing.T, much int, env ...string) {
	t.Helper()
	if k.said == nil {
		k.said = map[int]bool{}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+k.Test+"$")
	cmd.Env = append(append(os.Environ(), killedEnv+"="+k.Where), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		if i, err := strconv.Atoi(lines.Text()); err == nil {
			k.said[i] = true
		}
		if n == much {
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait() // it was killed
}

// check opens what is left: all that was said is there, whole.
func (k *Killed) check(t *testing.T) {
	t.Helper()
	db := k.Open(t, k.Where)
	defer db.Close()
	for i := range k.said {
		if _, err := db.Get(t.Context(), numbered(fmt.Sprint(i)).Key); err != nil {
			t.Errorf("acknowledged and lost: %v", err)
		}
	}
	st, err := db.Stats(t.Context())
	if err != nil || st.Records != st.Waiting {
		t.Errorf("%d records and %d messages (%v), want as many: they were committed together", st.Records, st.Waiting, err)
	}
}
