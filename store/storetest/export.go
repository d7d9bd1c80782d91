package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// export copies the store again and again while others commit, and wants each
// copy to be of one moment: half a commit is never in it, and what was
// acknowledged before it began always is.
func export(t *testing.T, s *suite) {
	for name, db := range map[string]store.Driver{"by the driver": s.DB, "by its watch": struct{ store.Driver }{s.DB}} {
		s.exportWhile(t, name, db)
	}
}

func (s *suite) exportWhile(t *testing.T, name string, db store.Driver) {
	const accounts, each = 6, 100
	id := func(i int) string { return fmt.Sprintf("%s/%d", name, i) }
	for i := range accounts {
		s.commit(t, put(row(id(i), 0, each)))
	}
	value := func(r store.Row) int {
		var v struct{ V int }
		if err := json.Unmarshal(r.Data, &v); err != nil {
			t.Error(err)
		}
		return v.V
	}
	stop, more := make(chan struct{}), make(chan struct{})
	var acked atomic.Int64
	var all sync.WaitGroup
	for w := range 3 {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				from, to := id((w+n)%accounts), id((w+n+1)%accounts)
				a, err := s.DB.Get(s.ctx, key(from))
				b, err2 := s.DB.Get(s.ctx, key(to))
				if err := errors.Join(err, err2); err != nil {
					t.Error(err)
					return
				}
				// A transfer, a pair that comes, and the pair before that goes; each
				// with one more in the count of what is acknowledged.
				pair := func(n int) []store.Row {
					return []store.Row{row(fmt.Sprintf("%s/pair-%d-%d-a", name, w, n), 0, n), row(fmt.Sprintf("%s/pair-%d-%d-b", name, w, n), 0, n)}
				}
				batch := put(append(pair(n), row(from, a.Rev, value(a)-1), row(to, b.Rev, value(b)+1))...)
				batch.Tell = []store.Message{{To: "heir", Subject: "pair", Key: fmt.Sprintf("%s/%d-%d", name, w, n)}}
				if n > 0 {
					for _, r := range pair(n - 1) {
						if old, err := s.DB.Get(s.ctx, r.Key); err == nil {
							batch.Delete = append(batch.Delete, old)
						}
					}
				}
				switch err := s.DB.Commit(s.ctx, batch); {
				case err == nil:
					acked.Add(1)
					select {
					case more <- struct{}{}:
					default:
					}
				case !errors.Is(err, mlaas.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	last := int64(0)
	for range 15 {
		for range 3 { // something happens between two copies
			<-more
		}
		began := acked.Load()
		sum, pairs, told, moved := 0, map[string]int{}, 0, int64(0)
		seq, whole, err := store.Export(s.ctx, db, func(r store.Row) error {
			var w, n int
			var half string
			switch scanned, _ := fmt.Sscanf(r.Key.ID, name+"/pair-%d-%d-%s", &w, &n, &half); {
			case scanned == 3:
				pairs[fmt.Sprint(w, n)]++
			case r.Key.Kind == "thing" && len(r.Key.ID) == len(id(0)) && r.Key.ID[:len(name)] == name:
				sum += value(r)
				moved += r.Rev - 1
			}
			return nil
		}, func(c store.Claim) error {
			if c.Message.To == "heir" && len(c.Message.Key) > len(name) && c.Message.Key[:len(name)] == name {
				told++
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if sum != accounts*each {
			t.Errorf("%s: the sum is %d, want %d: it has half a transfer", name, sum, accounts*each)
		}
		for p, n := range pairs {
			if n != 2 {
				t.Errorf("%s: %d of the two of pair %s", name, n, p)
			}
		}
		// Each commit writes two accounts.
		if moved%2 != 0 || moved/2 < began {
			t.Errorf("%s: it has %d commits, but %d were acknowledged before it began", name, moved/2, began)
		}
		if whole && int64(told) != moved/2 {
			t.Errorf("%s: it has %d messages of %d commits", name, told, moved/2)
		}
		if seq <= last {
			t.Errorf("%s: it is of commit %d, the one before was of %d", name, seq, last)
		}
		last = seq
	}
	close(stop)
	all.Wait()
	broken := errors.New("the pipe is broken")
	if _, _, err := store.Export(s.ctx, db, func(store.Row) error { return broken }, func(store.Claim) error { return nil }); !errors.Is(err, broken) {
		t.Errorf("%s: an error of who takes the rows becomes %v", name, err)
	}
}

// imports fills the store with what was exported, and refuses to do it twice.
func imports(t *testing.T, s *suite) {
	rows := []store.Row{row("a", 7, "x", "color=red"), row("b", 1, "y")}
	messages := []store.Message{{To: "heir", Subject: "s", Key: "k", Body: []byte(`{"n":1}`)}}
	s.commit(t, put(store.Row{Key: store.Key{Kind: "probe", ID: "doctor"}, Data: []byte("{}")})) // somebody has looked whether it can be written
	if err := store.Empty(s.ctx, s.DB); err != nil {
		t.Fatalf("an empty store is not: %v", err)
	}
	if err := store.Import(s.ctx, s.DB, rows, messages); err != nil {
		t.Fatal(err)
	}
	if err := store.Empty(s.ctx, s.DB); !errors.Is(err, mlaas.ErrConflict) {
		t.Errorf("a full store is empty: %v", err)
	}
	got, err := s.DB.Get(s.ctx, key("a"))
	if err != nil || string(got.Data) != string(rows[0].Data) {
		t.Errorf("it reads %+v, %v", got, err)
	}
	if _, ok := s.DB.(store.Importer); ok && got.Rev != 7 {
		t.Errorf("it is at revision %d, want 7", got.Rev)
	}
	red, _, err := s.DB.List(s.ctx, store.Query{Kind: "thing", Index: "color=red"})
	if err != nil || len(red) != 1 {
		t.Errorf("by its index: %v, %v", red, err)
	}
	c, err := s.DB.Next(s.ctx, "heir", s.unit)
	if err != nil || string(c.Message.Body) != `{"n":1}` || c.Delivery != 1 {
		t.Errorf("the message: %+v, %v", c, err)
	}
	s.commit(t, store.Batch{Put: []store.Row{row("a", got.Rev, "z")}, Ack: &c})
	if err := store.Import(s.ctx, s.DB, rows, nil); !errors.Is(err, mlaas.ErrConflict) {
		t.Errorf("once more: %v", err)
	}
	if b, err := s.DB.Get(s.ctx, key("b")); err != nil || b.Rev != 1 {
		t.Errorf("a refused import changed %+v, %v", b, err)
	}
}
