package redisstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/redistest"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/storetest"
)

// A ledger has writers that commit a record and a message each time, and knows
// what was acknowledged.
type ledger struct {
	t    *testing.T
	s    *Store
	stop context.CancelFunc
	all  sync.WaitGroup

	mu      sync.Mutex
	next    int
	said    map[int]bool
	unknown int
	more    chan struct{} // holds one: something was acknowledged
}

func newLedger(t *testing.T, s *Store) *ledger {
	return &ledger{t: t, s: s, said: map[int]bool{}, more: make(chan struct{}, 1)}
}

// write lets writers begin.
func (l *ledger) write(writers int) {
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	for range writers {
		l.all.Go(func() {
			for ctx.Err() == nil {
				l.mu.Lock()
				i := l.next
				l.next++
				l.mu.Unlock()
				id := fmt.Sprint(i)
				err := l.s.Commit(context.Background(), store.Batch{Put: []store.Row{row(id, 0, "{}")}, Tell: []store.Message{{To: "inbox", Subject: id}}})
				l.mu.Lock()
				switch {
				case err == nil:
					l.said[i] = true
				case errors.Is(err, mlaas.ErrUnavailable):
					l.unknown++
				default:
					l.t.Errorf("commit: %v", err)
				}
				l.mu.Unlock()
				select {
				case l.more <- struct{}{}:
				default:
				}
			}
		})
	}
}

// until waits for n more acknowledgements.
func (l *ledger) until(n int) {
	l.t.Helper()
	l.mu.Lock()
	want := len(l.said) + n
	l.mu.Unlock()
	late := time.After(time.Minute)
	for {
		l.mu.Lock()
		have := len(l.said)
		l.mu.Unlock()
		if have >= want {
			return
		}
		select {
		case <-l.more:
		case <-late:
			l.t.Fatalf("%d commits were acknowledged, want %d", have, want)
		}
	}
}

func (l *ledger) end() {
	l.stop()
	l.all.Wait()
}

// check wants everything that was acknowledged, and whole commits only.
func (l *ledger) check(s *Store) {
	l.t.Helper()
	there := map[string]bool{}
	q := store.Query{Kind: "thing"}
	for {
		rows, next, err := s.List(context.Background(), q)
		if err != nil {
			l.t.Fatal(err)
		}
		for _, r := range rows {
			there[r.Key.ID] = true
		}
		if next == (store.Key{}) {
			break
		}
		q.After = next
	}
	lost := 0
	for i := range l.said {
		if !there[fmt.Sprint(i)] {
			lost++
		}
	}
	if lost > 0 {
		l.t.Errorf("%d of %d acknowledged commits are lost", lost, len(l.said))
	}
	st, err := s.Stats(context.Background())
	if err != nil || st.Records != st.Waiting {
		l.t.Errorf("%d records and %d messages (%v), want as many: they were committed together", st.Records, st.Waiting, err)
	}
	if extra := len(there) - len(l.said); extra > l.unknown {
		l.t.Errorf("%d commits are there that nobody acknowledged, %d are unknown", extra, l.unknown)
	}
	l.t.Logf("acknowledged %d, unknown %d, found %d, lost %d", len(l.said), l.unknown, len(there), lost)
}

// The server is killed again and again while many write.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, &redistest.Server{})
	s := open(t, server.URL("killed"), Options{Log: slog.New(slog.DiscardHandler)})
	defer s.Close()
	l := newLedger(t, s)
	l.write(16)
	for range 5 {
		l.until(300)
		if err := server.Restart(); err != nil { // it kills first
			t.Fatal(err)
		}
	}
	l.until(300)
	l.end()
	l.check(s)
}

// The power goes while many write: what is on the disk at one instant is all
// that is left.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	redistest.Need(t)
	d := newDisk(t)
	for range 3 {
		server := &redistest.Server{}
		if err := server.Start(d.folder()); err != nil {
			t.Fatal(err)
		}
		s := open(t, server.URL("power"), Options{Log: slog.New(slog.DiscardHandler)})
		l := newLedger(t, s)
		l.next = d.next
		l.write(16)
		l.until(500)
		server.Stop()
		d.cut()
		server.Kill()
		l.end()
		s.Close()

		after := &redistest.Server{}
		if err := after.Start(d.folder()); err != nil {
			t.Fatal(err)
		}
		again := open(t, after.URL("power"), Options{})
		for i := range d.said {
			l.said[i] = true
		}
		l.unknown += d.unknown
		l.check(again)
		again.Close()
		after.Close()
		d.next, d.said, d.unknown = l.next, l.said, l.unknown
	}
}

// A disk that the power can be taken from: an image of its own where we may
// mount one, of which a copy shows what was really written; else a copy of the
// folder.
type disk struct {
	t     *testing.T
	dir   string
	loop  bool
	n     int
	mount []string

	next    int
	said    map[int]bool
	unknown int
}

func newDisk(t *testing.T) *disk {
	d := &disk{t: t, dir: t.TempDir()}
	t.Cleanup(func() {
		for _, m := range d.mount {
			exec.Command("umount", "-l", m).Run()
		}
	})
	image := filepath.Join(d.dir, "0.img")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	f.Truncate(128 << 20)
	f.Close()
	if err := os.Mkdir(filepath.Join(d.dir, "0"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image).CombinedOutput(); err != nil {
		t.Logf("a copy of the folder stands for the disk: %v %s", err, out)
	} else if err := d.attach(); err != nil {
		t.Logf("a copy of the folder stands for the disk: %v", err)
	} else {
		d.loop = true
	}
	return d
}

func (d *disk) at(n int) string { return filepath.Join(d.dir, fmt.Sprint(n)) }

func (d *disk) folder() string { return filepath.Join(d.at(d.n), "redis") }

func (d *disk) attach() error {
	if out, err := exec.Command("mount", "-o", "loop", d.at(d.n)+".img", d.at(d.n)).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	d.mount = append(d.mount, d.at(d.n))
	return nil
}

// cut goes on from what is on the disk now.
func (d *disk) cut() {
	d.t.Helper()
	from, to := d.at(d.n), d.at(d.n+1)
	args := []string{"-r", from, to}
	if d.loop {
		if err := os.Mkdir(to, 0o700); err != nil {
			d.t.Fatal(err)
		}
		args = []string{"--sparse=always", from + ".img", to + ".img"}
	}
	if out, err := exec.Command("cp", args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	d.n++
	if d.loop {
		if err := d.attach(); err != nil {
			d.t.Fatal(err)
		}
	}
}

// The primary is killed while many write, and a replica takes over. What was
// acknowledged is there; watchers begin again, because they may have seen what
// no replica had.
func TestFailover(t *testing.T) {
	t.Parallel()
	settings := map[string]string{"min-replicas-to-write": "1"}
	servers := []*redistest.Server{redistest.Start(t, &redistest.Server{Settings: settings})}
	for range 2 {
		servers = append(servers, redistest.Start(t, &redistest.Server{Primary: servers[0], Settings: settings}))
	}
	var sentinels []*redistest.Server
	for range 3 {
		sentinels = append(sentinels, redistest.Start(t, &redistest.Server{Watches: servers[0], Quorum: 2}))
	}
	for _, one := range sentinels {
		for _, text := range []string{fmt.Sprintf("+slave slave %s", servers[1].Addr()), fmt.Sprintf("+slave slave %s", servers[2].Addr())} {
			if err := one.Await(text); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := open(t, redistest.SentinelURL("failover", sentinels...), Options{Log: slog.New(slog.DiscardHandler)})
	defer s.Close()
	put(t, s, store.Row{Key: store.Key{Kind: "other", ID: "x"}, Data: []byte("{}")})
	watched := make(chan error, 1)
	out := make(chan store.Change, 1)
	go func() { watched <- s.Watch(t.Context(), 0, []string{"other"}, out) }()
	for !wait(t, out, "watch").Synced {
	}
	l := newLedger(t, s)
	l.write(16)
	l.until(500)
	began := time.Now()
	servers[0].Kill()
	l.until(500)
	t.Logf("writing went on after %v", time.Since(began))
	l.end()
	l.said[l.next] = true // the row of the other kind and no message: it makes up for the count
	put(t, s, row(fmt.Sprint(l.next), 0, "{}"))
	if err := s.Commit(t.Context(), store.Batch{Delete: []store.Row{{Key: store.Key{Kind: "other", ID: "x"}, Rev: 1}}, Tell: []store.Message{{To: "inbox", Subject: "even"}}}); err != nil {
		t.Fatal(err)
	}
	l.check(s)
	if err := wait(t, watched, "watch"); !errors.Is(err, mlaas.ErrGone) {
		t.Errorf("watch ends with %v, want that it begins again", err)
	}
}

// What is read may be of a commit that no replica has yet: it is confirmed, or
// it is said that it may still be lost.
func TestConfirm(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, &redistest.Server{Settings: map[string]string{"min-replicas-to-write": "1", "min-replicas-max-lag": "60"}})
	replica := redistest.Start(t, &redistest.Server{Primary: primary})
	s := open(t, primary.URL("confirm")+"?wait=1", Options{Log: slog.New(slog.DiscardHandler)})
	defer s.Close()
	put(t, s, row("a", 0, "{}"))
	if err := store.Confirm(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	replica.Stop() // the primary does not know yet
	if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row("a", 1, `{"x":1}`)}}); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Fatalf("commit with a replica that is silent: %v", err)
	}
	if r, err := s.Get(t.Context(), row("a", 0, "").Key); err != nil || r.Rev != 2 {
		t.Fatalf("the primary has %+v, %v: the test shows nothing", r, err)
	}
	if err := store.Confirm(t.Context(), s); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("what only the primary has is confirmed: %v", err)
	}
	replica.Cont()
	if err := store.Confirm(t.Context(), s); err != nil {
		t.Errorf("with the replica back: %v", err)
	}
}

// Without a replica nothing is acknowledged, and it is said why.
func TestUnconfirmed(t *testing.T) {
	t.Parallel()
	primary := redistest.Start(t, &redistest.Server{Settings: map[string]string{"min-replicas-to-write": "1", "min-replicas-max-lag": "60"}})
	replica := redistest.Start(t, &redistest.Server{Primary: primary})
	s := open(t, primary.URL("alone")+"?wait=1", Options{Log: slog.New(slog.DiscardHandler)})
	defer s.Close()
	put(t, s, row("a", 0, "{}"))
	replica.Stop() // the primary does not know yet
	if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row("b", 0, "{}")}}); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("commit with a replica that is silent: %v", err)
	}
	replica.Cont()
	put(t, s, row("c", 0, "{}"))
	replica.Kill()
	if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row("d", 0, "{}")}}); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("commit without a replica: %v", err)
	}
	if _, err := s.Get(t.Context(), row("a", 0, "").Key); err != nil {
		t.Errorf("reading without a replica: %v", err)
	}
}

// The test runs itself as a process that is killed while it commits and
// handles messages.
func TestProcessKilled(t *testing.T) {
	storetest.Die(t, opened)
	newKilled(t).Rounds(t)
}

func newKilled(t *testing.T) *storetest.Killed {
	return &storetest.Killed{Test: "TestProcessKilled", Where: redistest.Start(t, &redistest.Server{}).URL("process"), Open: opened}
}

func opened(t *testing.T, url string) store.Driver { return open(t, url, Options{}) }
