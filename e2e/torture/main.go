// Command torture kills the platform at every commit and acknowledgement, and
// at random instants, while clients use it; then it compares what was
// acknowledged with what is there.
//
// It drives the real binary (built with the tag failpoints, so that it can die
// at a named point) through the public API only, and prints acknowledged,
// found, lost, duplicated and illegal. It fails unless the last three are 0.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas/bench/rig"
)

func main() {
	t := torture{}
	flag.StringVar(&t.binary, "bin", "bin/mlaas-failpoints", "the mlaas binary, built with -tags failpoints")
	short := flag.Bool("short", false, "two crashes at each point and 15 random kills, instead of 20 and 300")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of the random instants")
	flag.Parse()
	t.hits, t.kills = 20, 300
	if *short {
		t.hits, t.kills = 2, 15
	}
	t.random = rand.New(rand.NewPCG(*seed, 0))
	fmt.Printf("seed %d\n", *seed)
	if err := t.run(); err != nil {
		tail := t.log.Bytes()
		os.Stderr.Write(tail[max(0, len(tail)-20_000):])
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

type torture struct {
	binary      string
	hits, kills int
	random      *rand.Rand
	dir         string
	ledger      *Ledger
	crashes     int
	serial      int
	mu          sync.Mutex
	again       []asked      // rounds that the platform died in, to be asked again with the same keys
	log         bytes.Buffer // what the platform wrote, shown when something is found
}

func (t *torture) run() (err error) {
	if t.dir, err = os.MkdirTemp("", "mlaas-torture-"); err != nil {
		return err
	}
	defer os.RemoveAll(t.dir)
	if t.ledger, err = openLedger(filepath.Join(t.dir, "ledger")); err != nil {
		return err
	}
	data := filepath.Join(t.dir, "data")
	defer func() { // whatever happened, nothing is left running
		if _, e := os.Stat(data); e == nil {
			err = errors.Join(err, rig.Down(t.binary, data))
		}
	}()

	points, err := t.points(data)
	if err != nil {
		return err
	}
	began := time.Now()
	for _, point := range points {
		before := t.crashes
		for hit := range t.hits {
			died, err := t.crashAt(data, fmt.Sprintf("%s#%d", point, 1+hit*(1+t.random.IntN(7))))
			if err != nil {
				return fmt.Errorf("at %s: %w", point, err)
			}
			if died {
				t.crashes++
			}
		}
		if t.crashes == before {
			return fmt.Errorf("no crash at %s: what passes it once should again", point)
		}
		fmt.Printf("  %-44s %d crashes in all, %d acknowledged, %.0f s\n", point, t.crashes, len(t.ledger.all()), time.Since(began).Seconds())
	}
	for range t.kills {
		if err := t.killSoon(data); err != nil {
			return err
		}
		t.crashes++
	}
	fmt.Printf("  %-44s %d crashes in all, %d acknowledged, %.0f s\n", "kill -9 at random instants", t.crashes, len(t.ledger.all()), time.Since(began).Seconds())

	tally, err := t.compare(data)
	if err != nil {
		return err
	}
	fmt.Printf("%d failpoints, %d crashes: acknowledged %d, found %d, lost = %d, duplicated = %d, illegal = %d\n",
		len(points), t.crashes, tally.Acknowledged, tally.Found, tally.Lost, tally.Duplicated, tally.Illegal)
	if !tally.clean() {
		for _, f := range tally.First {
			fmt.Println("  ", f)
		}
		return errors.New("what was acknowledged is not what is there")
	}
	return nil
}

func (t *torture) up(data, failpoint string, env ...string) (*rig.Platform, error) {
	return rig.Start(rig.Options{Binary: t.binary, Dir: data, Log: t, Env: append(env, "MLAAS_FAILPOINT="+failpoint)})
}

// Write keeps the platform's own log.
func (t *torture) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.log.Write(b)
}

// points runs the workload once without a crash and lists every point that it
// passed.
func (t *torture) points(data string) ([]string, error) {
	list := filepath.Join(t.dir, "points")
	p, err := t.up(data, "", "MLAAS_FAILPOINT_LIST="+list)
	if err != nil {
		return nil, err
	}
	err = t.work(p, 3)
	if err == nil {
		err = t.settle(p)
	}
	p.Kill()
	if err != nil {
		return nil, fmt.Errorf("without any crash: %w", err)
	}
	text, err := os.ReadFile(list)
	points := strings.Fields(string(text))
	slices.Sort(points)
	points = slices.Compact(points)
	if len(points) < 6 {
		return nil, fmt.Errorf("only %d failpoints were passed (%s): is the binary built with -tags failpoints?", len(points), points)
	}
	return points, err
}

// crashAt lets the platform die at a point while clients work, starts it
// again, and lets every client ask again what it got no answer to.
func (t *torture) crashAt(data, point string) (died bool, err error) {
	p, err := t.up(data, point)
	if err != nil && !ended(p) {
		return false, err
	}
	if err == nil {
		err = t.work(p, 2)
	}
	if err == nil && !ended(p) {
		err = t.settle(p) // the point may be in the life of a run
	}
	if ended(p) {
		return true, nil
	}
	if _, refused := errors.AsType[*rig.Refused](err); err != nil && !refused {
		<-p.Ended // it is dying: it has only not been waited for yet
		return true, nil
	}
	if err != nil {
		return false, err
	}
	p.Kill() // the point was not reached so often: a kill is a crash all the same
	return false, nil
}

func ended(p *rig.Platform) bool {
	if p == nil {
		return false
	}
	select {
	case <-p.Ended:
		return true
	default:
		return false
	}
}

func (t *torture) killSoon(data string) error {
	p, err := t.up(data, "")
	if err != nil {
		return err
	}
	after := time.Duration(t.random.IntN(1200)) * time.Millisecond
	go func() {
		<-time.After(after)
		p.Kill()
	}()
	if err := t.work(p, 40); err != nil && !ended(p) {
		return err
	}
	<-p.Ended
	return nil
}

// The program prints its lines one after another, slowly enough to be running
// when the platform dies.
const program = `import sys, time
import mlaas
n = int(sys.argv[sys.argv.index("--lines") + 1])
print("begin", flush=True)
for i in range(n):
    print("line", i, flush=True)
    mlaas.log({"i": i}, step=i)
    if i == n // 2:
        with open("state", "w") as f:
            f.write(str(i))
        mlaas.checkpoint("state", step=i)
    time.sleep(0.01)
`

// asked is one round of a client.
type asked struct {
	name string
	runs bool
}

// work is what clients do: first every round again that had no answer, with
// the keys of then, so that each is done once; then n rounds by four clients
// at once. It ends early when the platform dies.
func (t *torture) work(p *rig.Platform, n int) error {
	var all sync.WaitGroup
	again := t.again
	t.again = nil
	fail := make(chan error, 5+len(again))
	all.Go(func() {
		for _, a := range again {
			if err := t.round(p, a.name, a.runs); err != nil {
				fail <- err
			}
		}
	})
	for client := range 4 {
		t.serial++
		serial := t.serial
		all.Go(func() {
			for round := range n {
				if err := t.round(p, fmt.Sprintf("t-%d-%d-%d", serial, client, round), client == 0 && round < 2); err != nil {
					fail <- err
					return
				}
			}
		})
	}
	all.Wait()
	close(fail)
	for err := range fail {
		if _, refused := errors.AsType[*rig.Refused](err); refused {
			return err // the platform answered, and should not have refused
		}
	}
	return nil
}

func (t *torture) round(p *rig.Platform, name string, runs bool) error {
	err := t.ask(p, name, runs)
	if _, refused := errors.AsType[*rig.Refused](err); err != nil && !refused {
		t.mu.Lock()
		t.again = append(t.again, asked{name, runs})
		t.mu.Unlock()
	}
	return err
}

func (t *torture) ask(p *rig.Platform, name string, runs bool) error {
	var got struct{ ID string }
	if err := p.DoOnce(name+"-job", "POST", "/api/job", map[string]any{"name": name}, &got); err != nil {
		return err
	}
	job := got.ID
	if err := t.ledger.write(Entry{Kind: "job", Key: name + "-job", Job: name, ID: job}); err != nil {
		return err
	}
	if err := p.DoOnce(name+"-code", "POST", "/api/job/"+job+"/code", map[string]any{"files": map[string]string{"main.py": program + "# " + name}}, &got); err != nil {
		return err
	}
	if err := t.ledger.write(Entry{Kind: "version", Key: name + "-code", Job: job, ID: got.ID}); err != nil {
		return err
	}
	if !runs {
		return nil
	}
	lines := 20
	if err := p.DoOnce(name+"-run", "POST", "/api/job/"+job+"/run", map[string]any{"parameters": map[string]any{"lines": lines}}, &got); err != nil {
		return err
	}
	return t.ledger.write(Entry{Kind: "run", Key: name + "-run", Job: job, ID: got.ID, Lines: lines})
}

type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next_page_token"`
}

func list[T any](p *rig.Platform, path string) (all []T, err error) {
	token := ""
	for {
		var got page[T]
		if err := p.Do("GET", path+"?limit=500&page_token="+token, nil, &got); err != nil {
			return nil, err
		}
		all = append(all, got.Items...)
		if got.Next == "" {
			return all, nil
		}
		token = got.Next
	}
}

type run struct {
	ID     string
	Job    string
	Status struct{ State, Reason string }
}

// settle waits until every run is over.
func (t *torture) settle(p *rig.Platform) error {
	var open []string
	for range 1200 {
		runs, err := list[run](p, "/api/run")
		if err != nil {
			return err
		}
		open = nil
		for _, r := range runs {
			if !slices.Contains([]string{"succeeded", "failed", "stopped"}, r.Status.State) {
				open = append(open, fmt.Sprintf("%s %s (%s)", r.ID, r.Status.State, r.Status.Reason))
			}
		}
		if len(open) == 0 {
			return nil
		}
		<-time.After(100 * time.Millisecond)
	}
	return &rig.Refused{Text: fmt.Sprintf("%d runs are not over after two minutes: %s", len(open), strings.Join(open[:min(5, len(open))], "; "))}
}

// compare starts the platform once more, lets every run end, and looks for
// everything that was acknowledged.
func (t *torture) compare(data string) (tally Tally, err error) {
	p, err := t.up(data, "")
	if err != nil {
		return tally, err
	}
	if err := t.work(p, 0); err != nil {
		return tally, err
	}
	if err := t.settle(p); err != nil {
		return tally, err
	}
	entries := t.ledger.all()
	tally.Acknowledged = len(entries)
	jobs, err := list[struct{ ID, Name string }](p, "/api/job")
	if err != nil {
		return tally, err
	}
	names, ids := map[string]int{}, map[string]bool{}
	for _, j := range jobs {
		names[j.Name]++
		ids[j.ID] = true
		if names[j.Name] > 1 {
			tally.find(&tally.Duplicated, "job %s is there twice", j.Name)
		}
	}
	for _, e := range entries {
		switch e.Kind {
		case "job":
			if !ids[e.ID] {
				tally.find(&tally.Lost, "job %s (%s)", e.Job, e.ID)
				continue
			}
		case "version":
			versions, err := list[struct{ ID string }](p, "/api/job/"+e.Job+"/code")
			if err != nil || len(versions) == 0 {
				tally.find(&tally.Lost, "version %s of job %s: %v", e.ID, e.Job, err)
				continue
			}
			if len(versions) > 1 {
				tally.find(&tally.Duplicated, "job %s has %d versions of one upload", e.Job, len(versions))
			}
		case "run":
			if !t.compareRun(p, e, &tally) {
				continue
			}
		}
		tally.Found++
	}
	if left, err := leftover(p, data); err != nil || len(left) > 0 {
		tally.find(&tally.Illegal, "processes are left over: %v %v", left, err)
	}
	for _, c := range t.ledger.changed {
		tally.find(&tally.Duplicated, "%s", c)
	}
	p.Kill()
	return tally, nil
}

func (t *torture) compareRun(p *rig.Platform, e Entry, tally *Tally) bool {
	runs, err := list[run](p, "/api/job/"+e.Job+"/run")
	if err != nil || !slices.ContainsFunc(runs, func(r run) bool { return r.ID == e.ID }) {
		tally.find(&tally.Lost, "run %s of job %s: %v", e.ID, e.Job, err)
		return false
	}
	if len(runs) > 1 {
		tally.find(&tally.Duplicated, "job %s has %d runs for one key", e.Job, len(runs))
	}
	if s := runs[0].Status; s.State != "succeeded" {
		tally.find(&tally.Illegal, "run %s %s: %s", e.ID, s.State, s.Reason)
	}
	seen, begins, last := map[string]int{}, 0, int64(0)
	err = p.Lines("/api/run/"+e.ID+"/log?limit=10000", func(line []byte) bool {
		var l struct {
			Cursor       int64
			Stream, Line string
		}
		if err := json.Unmarshal(line, &l); err != nil || l.Cursor != last+1 {
			tally.find(&tally.Illegal, "run %s: cursor %d follows %d (%v)", e.ID, l.Cursor, last, err)
		}
		last = l.Cursor
		if l.Stream == "stdout" {
			seen[l.Line]++
			if l.Line == "begin" {
				begins++
			}
		}
		return true
	})
	if err != nil {
		tally.find(&tally.Lost, "log of run %s: %v", e.ID, err)
		return false
	}
	if begins != 1 {
		tally.find(&tally.Duplicated, "the program of run %s began %d times", e.ID, begins)
	}
	for i := range e.Lines {
		switch n := seen[fmt.Sprintf("line %d", i)]; {
		case n == 0:
			tally.find(&tally.Lost, "line %d of run %s", i, e.ID)
		case n > 1:
			tally.find(&tally.Duplicated, "line %d of run %s: %d times", i, e.ID, n)
		}
	}
	var curves page[struct {
		Key    string
		Points [][]any
	}]
	var checkpoints page[struct{ Step int }]
	err = p.Do("GET", "/api/run/"+e.ID+"/metric?key=i", nil, &curves)
	if err == nil {
		err = p.Do("GET", "/api/run/"+e.ID+"/checkpoint", nil, &checkpoints)
	}
	switch {
	case err != nil:
		tally.find(&tally.Lost, "metrics or checkpoints of run %s: %v", e.ID, err)
		return false
	case len(curves.Items) != 1 || len(curves.Items[0].Points) != e.Lines:
		tally.find(&tally.Lost, "run %s logged %d points of one curve: %v", e.ID, e.Lines, curves.Items)
	case len(checkpoints.Items) != 1 || checkpoints.Items[0].Step != e.Lines/2:
		tally.find(&tally.Lost, "run %s made one checkpoint, of step %d: %v", e.ID, e.Lines/2, checkpoints.Items)
	}
	return true
}

// leftover lists processes that belong to the data folder and are not the
// platform's own: every run is over, so there should be none.
func leftover(p *rig.Platform, data string) (left []string, err error) {
	for range 100 { // a supervisor may need a moment to leave
		left = nil
		found, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			text, err := os.ReadFile(f)
			if errors.Is(err, io.EOF) || err != nil {
				continue
			}
			line := strings.ReplaceAll(string(text), "\x00", " ")
			if strings.Contains(line, data) && filepath.Base(filepath.Dir(f)) != fmt.Sprint(p.PID) {
				left = append(left, filepath.Base(filepath.Dir(f))+" "+line)
			}
		}
		if len(left) == 0 {
			return nil, nil
		}
		<-time.After(100 * time.Millisecond)
	}
	return left, nil
}
