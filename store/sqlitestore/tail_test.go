package sqlitestore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// openShort opens a store whose tail reaches back a few changes only, and that
// remembers so many deletions.
func openShort(t *testing.T, changes, gone int) *Store {
	s := open(t, filepath.Join(t.TempDir(), "db"), Options{Gone: gone})
	t.Cleanup(func() { s.Close() })
	s.tail.mu.Lock()
	s.tail.most = changes
	s.tail.mu.Unlock()
	return s
}

// What memory answers is what the file has, and who watches is told all of it,
// however far behind.
func TestTailIsTheFile(t *testing.T) {
	for _, changes := range []int{0, 1, 5, 1000} {
		t.Run(fmt.Sprint(changes), func(t *testing.T) {
			s := openShort(t, changes, 0)
			random := rand.New(rand.NewPCG(1, uint64(changes)))
			revs := map[string]int64{}
			out := make(chan store.Change)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Watch(ctx, 0, []string{"thing"}, out) }()
			for !(<-out).Synced {
			}
			seen := map[string]int64{}
			hear := func() { // up to a row of the end
				put(t, s, row("end", revs["end"], "{}"))
				revs["end"]++
				for {
					c := <-out
					if c.Deleted {
						delete(seen, c.Row.Key.ID)
					} else {
						seen[c.Row.Key.ID] = c.Row.Rev
					}
					if c.Row.Key.ID == "end" && c.Row.Rev == revs["end"] {
						break
					}
				}
				if !maps.Equal(seen, revs) {
					t.Fatalf("who watches saw %v, there is %v", seen, revs)
				}
			}
			for i := range 400 {
				var b store.Batch
				for _, n := range random.Perm(6)[:1+random.IntN(3)] {
					id := fmt.Sprint(n)
					if rev := revs[id]; rev > 0 && random.IntN(4) == 0 {
						b.Delete = append(b.Delete, row(id, rev, ""))
						delete(revs, id)
					} else {
						b.Put = append(b.Put, row(id, rev, fmt.Sprintf(`{"n":%d}`, i)))
						revs[id] = rev + 1
					}
				}
				if err := s.Commit(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				for n := range 6 {
					key := row(fmt.Sprint(n), 0, "").Key
					got, err := s.Get(t.Context(), key)
					if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
						t.Fatal(err)
					}
					var want store.Row
					if err := s.read(t.Context(), func(c *conn) error {
						return c.query(func(v []driver.Value) bool {
							_, want = scanRow(v)
							return false
						}, "SELECT "+rowColumns+" FROM rows r WHERE id = ?", key.ID)
					}); err != nil {
						t.Fatal(err)
					}
					if got.Rev != want.Rev || got.Rev != revs[key.ID] || string(got.Data) != string(want.Data) || fmt.Sprint(got.Index) != fmt.Sprint(want.Index) {
						t.Fatalf("memory says %+v, the file %+v, revision %d was written", got, want, revs[key.ID])
					}
				}
				if random.IntN(20) == 0 {
					hear()
				}
			}
			hear()
			cancel()
			<-done
		})
	}
}

// Who has seen a row is never shown an older one, whether it is asked for alone
// or is in a list.
func TestTailNeverGoesBack(t *testing.T) {
	s := openShort(t, 1000, 0)
	put(t, s, row("a", 0, "{}"))
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		last, reads := int64(0), 0
		for ctx.Err() == nil {
			one, err := s.Get(t.Context(), row("a", 0, "").Key)
			if err != nil || one.Rev < last {
				failed <- fmt.Errorf("revision %d after %d, %w", one.Rev, last, err)
				return
			}
			rows, _, err := s.List(t.Context(), store.Query{Kind: "thing"})
			if err != nil || len(rows) != 1 || rows[0].Rev < one.Rev {
				failed <- fmt.Errorf("a list of %+v after revision %d, %w", rows, one.Rev, err)
				return
			}
			last = rows[0].Rev
			reads++
		}
		if last < 2 || reads < 10 {
			failed <- fmt.Errorf("%d reads up to revision %d show nothing", reads, last)
			return
		}
		failed <- nil
	}()
	for rev := range int64(500) {
		put(t, s, row("a", rev+1, "{}"))
	}
	cancel()
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

// Who watches what does not change is not behind because of what does.
func TestTailQuiet(t *testing.T) {
	s := openShort(t, 5, 20)
	out := make(chan store.Change)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, 0, []string{"other"}, out) }()
	if c := <-out; !c.Synced {
		t.Fatalf("%+v, want Synced", c)
	}
	for i := range 60 { // deletions are forgotten after 20
		id := fmt.Sprint(i)
		put(t, s, row(id, 0, "{}"))
		if err := s.Commit(t.Context(), store.Batch{Delete: []store.Row{row(id, 1, "")}}); err != nil {
			t.Fatal(err)
		}
	}
	other := store.Row{Key: store.Key{Kind: "other", ID: "x"}, Data: []byte("{}")}
	put(t, s, other)
	select {
	case c := <-out:
		if c.Row.Key != other.Key {
			t.Errorf("%+v, want %s", c, other.Key)
		}
	case err := <-done:
		t.Fatal(err)
	}
	cancel()
	<-done
}
