package sqlitestore

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/storetest"
)

func row(id string, rev int64, data string) store.Row {
	return store.Row{Key: store.Key{Kind: "thing", ID: id}, Rev: rev, Data: []byte(data), Index: []string{"i"}}
}

func put(t *testing.T, s *Store, rows ...store.Row) {
	t.Helper()
	if err := s.Commit(t.Context(), store.Batch{Put: rows}); err != nil {
		t.Fatal(err)
	}
}

// One process has the file. The sentence says which.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "odd name?#%20&.db")
	s := open(t, path, Options{})
	put(t, s, row("a", 0, "{}"))
	_, err := Open(t.Context(), path, Options{})
	if want := fmt.Sprintf("in use by process %d", os.Getpid()); !errors.Is(err, mlaas.ErrUnavailable) || !strings.Contains(err.Error(), want) {
		t.Errorf("a second Open: %v, want %q", err, want)
	}
	s.Close()
	s.Close()
	if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row("b", 0, "{}")}}); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("commit after Close: %v", err)
	}
	if _, err := s.Get(t.Context(), row("a", 0, "").Key); !errors.Is(err, mlaas.ErrUnavailable) {
		t.Errorf("get after Close: %v", err)
	}
	s = open(t, path, Options{})
	defer s.Close()
	if _, err := s.Get(t.Context(), row("a", 0, "").Key); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	newer := filepath.Join(dir, "newer")
	s := open(t, newer, Options{})
	c, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.script("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	c.close()
	s.Close()
	junk := filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, bytes.Repeat([]byte("not a database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		newer:                             "written by a newer mlaas",
		junk:                              "is damaged",
		filepath.Join(dir, "no", "where"): "no such file or directory",
	} {
		if s, err := Open(t.Context(), path, Options{}); err == nil {
			s.Close()
			t.Errorf("%s was opened", path)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	goleak.VerifyNone(t, goleak.IgnoreCurrent())
}

// Callers share the syncs, and what one does wrong is not the others' business.
func TestGroups(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"), Options{})
	defer s.Close()
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			for j := range 20 {
				if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row(fmt.Sprintf("%d/%d", i, j), 0, "{}")}}); err != nil {
					t.Error(err)
				}
				if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row("0/0", 99, "{}")}}); !errors.Is(err, mlaas.ErrConflict) {
					t.Errorf("a conflict is %v", err)
				}
			}
		})
		all.Go(func() {
			broken := errors.New("this one breaks its transaction")
			if err := s.writer.submit(t.Context(), true, func(t *txn) error {
				if err := t.put(row("broken", 0, "{}"), standing{}, 1); err != nil {
					return err
				}
				return broken
			}); !errors.Is(err, broken) {
				t.Errorf("what is broken is %v", err)
			}
		})
	}
	all.Wait()
	st, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Records != 640 || st.Commits != 640 || st.Syncs > 320 {
		t.Errorf("stats are %+v, want 640 commits that share syncs", st)
	}
}

// Where grouping is off, each commit has its own sync.
func TestUngrouped(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"), Options{Group: 1})
	defer s.Close()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row(fmt.Sprint(i), 0, "{}")}}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if st, err := s.Stats(t.Context()); err != nil || st.Commits != 20 || st.Syncs != 20 {
		t.Errorf("stats are %+v (%v), want 20 commits and as many syncs", st, err)
	}
}

// The store says that there is no room, goes on reading, and goes on writing
// when there is room again. The limit stands for the end of the disk.
func TestFull(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"), Options{})
	defer s.Close()
	put(t, s, row("a", 0, `{"n":1}`))
	limit := func(pages int) {
		t.Helper()
		if err := s.writer.submit(t.Context(), false, func(t *txn) error {
			_, err := t.conn.number(fmt.Sprintf("PRAGMA max_page_count = %d", pages))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		limit(20) // of the connection, which is not trusted after the error: a new one has no limit
		large := row("large", 0, strings.Repeat("x", 1<<20))
		err := s.Commit(t.Context(), store.Batch{Put: []store.Row{row("b", 0, "{}"), large}})
		if !errors.Is(err, mlaas.ErrDisk) || !strings.Contains(err.Error(), "no room left") {
			t.Fatalf("commit: %v", err)
		}
		if _, err := s.Get(t.Context(), row("a", 0, "").Key); err != nil {
			t.Error(err)
		}
		if _, err := s.Get(t.Context(), row("b", 0, "").Key); !errors.Is(err, mlaas.ErrNotFound) {
			t.Errorf("half of the batch is there: %v", err)
		}
	}
	put(t, s, row("b", 0, "{}"))
}

// Deletions are remembered up to a number; who asks for older ones begins
// again.
func TestGone(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"), Options{Gone: 20})
	defer s.Close()
	put(t, s, row("a", 0, "{}"))
	first := s.seq.Load()
	var recent int64
	for i := range 60 {
		if i == 50 {
			recent = s.seq.Load()
		}
		id := fmt.Sprint(i)
		put(t, s, row(id, 0, "{}"))
		if err := s.Commit(t.Context(), store.Batch{Delete: []store.Row{row(id, 1, "")}}); err != nil {
			t.Fatal(err)
		}
	}
	out := make(chan store.Change)
	if err := s.Watch(t.Context(), first, []string{"thing"}, out); !errors.Is(err, mlaas.ErrGone) {
		t.Errorf("watch from %d: %v, want gone", first, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Watch(ctx, recent, []string{"thing"}, out) }()
	<-out // synced
	for range 10 {
		if c := <-out; !c.Deleted {
			t.Errorf("%+v, want deletions", c)
		}
	}
	cancel()
	<-done
}

// A message is not to blame for the death of its process, unless it seems to
// be what kills it.
func TestOrphans(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path, Options{Log: slog.New(slog.DiscardHandler)})
	if err := s.Commit(t.Context(), store.Batch{Tell: []store.Message{{To: "inbox", Subject: "Deadly"}}}); err != nil {
		t.Fatal(err)
	}
	times := 0
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := s.Next(ctx, "inbox", time.Hour)
		cancel()
		if err != nil {
			break
		}
		times++
		s.Close()
		s = open(t, path, Options{Log: slog.New(slog.DiscardHandler)})
	}
	defer s.Close()
	if want := 5 * store.MaxDeliveries; times != want {
		t.Errorf("it killed %d processes before it was parked, want %d", times, want)
	}
	if parked, err := s.Parked(t.Context()); err != nil || len(parked) != 1 {
		t.Errorf("parked: %v, %v", parked, err)
	}
}

// The log is copied into the file when it was left alone for a while, and does
// not grow for ever while it is not.
func TestCheckpoints(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	size := func(part string) int64 {
		info, err := os.Stat(path + part)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path, Options{})
		defer s.Close()
		before := size("")
		for i := range 20 {
			put(t, s, row(fmt.Sprint(i), 0, strings.Repeat("x", 10_000)))
		}
		if size("") != before {
			t.Error("a commit wrote to the file itself")
		}
		time.Sleep(2 * restTime)
		if size("") < 200_000 {
			t.Errorf("the file has %d bytes after a rest, the log is not in it", size(""))
		}
		s.writer.long = 100
		large := strings.Repeat("x", 1<<20) // 256 pages
		for i := range 30 {
			put(t, s, row("large", int64(i), large))
		}
		if n := size("-wal"); n > (hugeLog*100+600)*4200 {
			t.Errorf("the log has %d bytes", n)
		}
	})
	if _, err := os.Stat(path + "-wal"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the log is there after Close: %v", err)
	}
}

// Processes that are killed one after the other, each before it would copy the
// log, do not make it longer and longer either.
func TestKilledAgainAndAgain(t *testing.T) {
	dir := t.TempDir()
	path, large := filepath.Join(dir, "0.db"), strings.Repeat("x", 1<<18) // 64 pages
	for i := range 30 {
		s := open(t, path, Options{long: 100})
		put(t, s, row("large", int64(i), large))
		next := filepath.Join(dir, fmt.Sprint(i+1)+".db")
		for _, part := range []string{"", "-wal"} {
			copyFile(t, path+part, next+part)
		}
		s.Close()
		path = next
	}
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() > 200*4200 {
		t.Errorf("the log has %v bytes, %v", info.Size(), err)
	}
}

// What runs often uses an index, all the way, and sorts nothing.
func TestPlans(t *testing.T) {
	s := open(t, ":memory:", Options{})
	defer s.Close()
	var asked []string
	c := <-s.readers
	defer func() { s.readers <- c }()
	for sql := range c.stmts {
		asked = append(asked, sql)
	}
	s.readers <- c
	_, _, _ = s.List(t.Context(), store.Query{Kind: "k", Index: "i", Tenant: "t", Prefix: "p"})
	_, _, _ = s.List(t.Context(), store.Query{Kind: "k", Tenant: "t", Prefix: "p", Reverse: true})
	_, _, _ = s.List(t.Context(), store.Query{Kind: "k", After: store.Key{Kind: "k", Tenant: "t", ID: "x"}})
	_, _ = s.Get(t.Context(), store.Key{Kind: "k", ID: "x"})
	_, _ = s.changes(t.Context(), 1, 1, []string{"k", "l"})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, _ = s.Next(ctx, "inbox", time.Second)
	_, _ = s.Parked(t.Context())
	c = <-s.readers
	for sql := range c.stmts {
		if strings.HasPrefix(sql, "SELECT") && !strings.Contains(strings.Join(asked, "\n"), sql) {
			asked = append(asked, sql)
			if err := c.query(func(v []driver.Value) bool {
				step := v[3].(string)
				if strings.Contains(step, "TEMP B-TREE") || strings.HasPrefix(step, "SCAN") && !strings.Contains(step, "messages_parked") {
					t.Errorf("%s\n\tdoes %s", sql, step)
				}
				return true
			}, "EXPLAIN QUERY PLAN "+sql, args(sql)...); err != nil {
				t.Error(err)
			}
		}
	}
}

func args(sql string) []any {
	return make([]any, strings.Count(sql, "?"))
}

// The test runs itself as the process that is killed while it commits.
func TestKilled(t *testing.T) {
	storetest.Die(t, opened)
	newKilled(t).Rounds(t)
}

func newKilled(t *testing.T) *storetest.Killed {
	return &storetest.Killed{Test: "TestKilled", Where: filepath.Join(t.TempDir(), "db"), Open: opened}
}

func opened(t *testing.T, path string) store.Driver { return open(t, path, Options{}) }
