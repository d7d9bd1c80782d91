// Package storetest is what every store.Driver passes. A driver's test file is
// a harness and one call of [Run]; a bug found in one driver becomes a case
// here.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A Harness is how the suite gets at one store, empty at first.
type Harness struct {
	// Open opens the store. After Close, or Crash, it opens the same again;
	// what was acknowledged is there. Durable says so.
	Open    func(t *testing.T) store.Driver
	Durable bool

	// Crash leaves of the store what would be left if its process were killed
	// at this instant, for Open. It is nil where that cannot be done.
	Crash func(t *testing.T, db store.Driver)

	// Bubble says that the driver works in a synctest bubble. Where it does
	// not, the tests of time take some.
	Bubble bool
}

// Run runs the suite. It calls harness for each test.
func Run(t *testing.T, harness func(t *testing.T) Harness) {
	tests := []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"rows", rows},
		{"all or nothing", allOrNothing},
		{"bad batches", badBatches},
		{"tenants", tenants},
		{"indexes", indexes},
		{"pages", pages},
		{"pages while rows come", pagesGrow},
		{"counter", counter},
		{"watch", watch},
		{"watch goes on", watchResume},
		{"watch from the future", watchFuture},
		{"watch slowly", watchSlow},
		{"watch while rows change", watchChurn},
		{"message and records", messageCommit},
		{"message wakes", messageWakes},
		{"due", due},
		{"after", after},
		{"lease", lease},
		{"late acknowledgement", lateAck},
		{"retry", retry},
		{"parked", parked},
		{"parked in silence", parkedSilent},
		{"order", order},
		{"lines", lines},
		{"each message once", eachOnce},
		{"flood", flood},
		{"ended context", ended},
		{"stats", stats},
		{"export", export},
		{"import", imports},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := harness(t)
			test := func(t *testing.T) {
				s := &suite{h: h, ctx: t.Context(), unit: time.Minute}
				if !h.Bubble {
					s.unit = 300 * time.Millisecond
				}
				s.DB = h.Open(t)
				defer func() { s.DB.Close() }()
				tt.test(t, s)
			}
			if h.Bubble {
				synctest.Test(t, test)
			} else {
				test(t)
			}
		})
	}
	t.Run("model", func(t *testing.T) { // rapid keeps its own time
		h := harness(t)
		s := &suite{h: h, ctx: t.Context(), unit: time.Minute, DB: h.Open(t)}
		defer s.DB.Close()
		model(t, s)
	})
	for _, crash := range []bool{false, true} {
		name := "opened again"
		if crash {
			name = "crashed"
		}
		t.Run(name, func(t *testing.T) {
			h := harness(t)
			if !h.Durable || crash && h.Crash == nil {
				t.Skip("this driver cannot")
			}
			reopened(t, h, crash)
		})
	}
}

type suite struct {
	h    Harness
	DB   store.Driver
	ctx  context.Context
	unit time.Duration // a long while
}

// row is a row of kind "thing".
func row(id string, rev int64, value any, index ...string) store.Row {
	data, err := json.Marshal(map[string]any{"v": value})
	if err != nil {
		panic(err)
	}
	return store.Row{Key: key(id), Rev: rev, Data: data, Index: index}
}

func key(id string) store.Key { return store.Key{Kind: "thing", Tenant: "team", ID: id} }

func put(rows ...store.Row) store.Batch { return store.Batch{Put: rows} }

func (s *suite) commit(t *testing.T, b store.Batch) {
	t.Helper()
	if err := s.DB.Commit(s.ctx, b); err != nil {
		t.Fatal(err)
	}
}

// refused commits b and wants this kind of error, with text in it.
func (s *suite) refused(t *testing.T, b store.Batch, kind error, text string) {
	t.Helper()
	err := s.DB.Commit(s.ctx, b)
	if !errors.Is(err, kind) {
		t.Fatalf("commit: %v, want %v", err, kind)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("error is %q, want %q in it", err, text)
	}
}

// stands wants a row to be there, or with rev 0 not to be.
func (s *suite) stands(t *testing.T, id string, rev int64, value any) {
	t.Helper()
	got, err := s.DB.Get(s.ctx, key(id))
	if rev == 0 {
		if !errors.Is(err, mlaas.ErrNotFound) || !strings.Contains(err.Error(), id) {
			t.Errorf("%s: %v, %v, want a not-found error that names it", id, got, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	want := row(id, rev, value)
	if got.Rev != rev || got.Key != want.Key || string(got.Data) != string(want.Data) {
		t.Errorf("%s is %s at %d, want %s at %d", got.Key, got.Data, got.Rev, want.Data, rev)
	}
}

func (s *suite) list(t *testing.T, q store.Query) []string {
	t.Helper()
	ids := []string{}
	q.Kind = "thing"
	for {
		rows, next, err := s.DB.List(s.ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			ids = append(ids, r.Key.ID)
		}
		if next == (store.Key{}) {
			return ids
		}
		if len(rows) == 0 || next != rows[len(rows)-1].Key {
			t.Fatalf("the cursor is %s after %d rows", next, len(rows))
		}
		q.After = next
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func rows(t *testing.T, s *suite) {
	s.stands(t, "a", 0, nil)
	s.commit(t, put(row("a", 0, 1)))
	s.stands(t, "a", 1, 1)
	s.commit(t, put(row("a", 1, 2)))
	s.stands(t, "a", 2, 2)

	s.refused(t, put(row("a", 0, 3)), mlaas.ErrConflict, key("a").String())
	s.refused(t, put(row("a", 1, 3)), mlaas.ErrConflict, key("a").String())
	s.refused(t, put(row("a", 3, 3)), mlaas.ErrConflict, key("a").String())
	s.refused(t, put(row("b", 1, 3)), mlaas.ErrConflict, key("b").String())
	s.refused(t, store.Batch{Delete: []store.Row{row("a", 1, nil)}}, mlaas.ErrConflict, key("a").String())
	s.refused(t, store.Batch{Delete: []store.Row{row("b", 1, nil)}}, mlaas.ErrConflict, key("b").String())
	s.refused(t, store.Batch{Delete: []store.Row{row("b", 0, nil)}}, mlaas.ErrConflict, key("b").String())
	s.refused(t, store.Batch{Check: []store.Row{row("a", 1, nil)}}, mlaas.ErrConflict, key("a").String())
	s.refused(t, store.Batch{Check: []store.Row{row("a", 0, nil)}}, mlaas.ErrConflict, key("a").String())
	s.refused(t, store.Batch{Check: []store.Row{row("b", 1, nil)}}, mlaas.ErrConflict, key("b").String())
	s.commit(t, store.Batch{Check: []store.Row{row("a", 2, nil), row("b", 0, nil)}})
	s.commit(t, store.Batch{})
	s.stands(t, "a", 2, 2)

	s.commit(t, store.Batch{Delete: []store.Row{row("a", 2, nil)}})
	s.stands(t, "a", 0, nil)
	s.commit(t, put(row("a", 0, 4))) // it begins again
	s.stands(t, "a", 1, 4)

	// A check sees what was there before the batch.
	s.commit(t, store.Batch{Put: []store.Row{row("a", 1, 5)}, Check: []store.Row{row("a", 1, nil)}})
	s.stands(t, "a", 2, 5)

	// Whatever is in a key or a value comes back.
	odd := row("ü/%_'\"\\ \x01😀", 0, "\x00 '; DROP TABLE rows; --", "i='x'", "", "ü")
	s.commit(t, put(odd))
	got, err := s.DB.Get(s.ctx, odd.Key)
	if err != nil {
		t.Fatal(err)
	}
	odd.Rev = 1
	same(t, "row", got, odd)
	same(t, "listed", s.list(t, store.Query{Index: "i='x'"}), []string{odd.Key.ID})
}

func allOrNothing(t *testing.T, s *suite) {
	s.commit(t, put(row("a", 0, 1, "i"), row("b", 0, 1, "i")))
	full := store.Batch{
		Put:    []store.Row{row("a", 1, 2, "j"), row("c", 0, 2, "j")},
		Delete: []store.Row{row("b", 1, nil)},
		Tell:   []store.Message{{To: "inbox", Subject: "S"}},
	}
	against := []store.Batch{
		{Put: []store.Row{row("d", 7, 0)}},
		{Delete: []store.Row{row("d", 7, nil)}},
		{Check: []store.Row{row("d", 7, nil)}},
		{Ack: &store.Claim{ID: 12345, Token: "no"}},
		{Retry: &store.Claim{ID: 12345, Token: "no"}},
	}
	for _, b := range against {
		all := full.Plus(b)
		all.Ack, all.Retry = b.Ack, b.Retry
		s.refused(t, all, mlaas.ErrConflict, "")
		s.stands(t, "a", 1, 1)
		s.stands(t, "b", 1, 1)
		s.stands(t, "c", 0, nil)
		same(t, "index i", s.list(t, store.Query{Index: "i"}), []string{"a", "b"})
		same(t, "index j", s.list(t, store.Query{Index: "j"}), []string{})
		s.silent(t, "inbox")
	}
	s.commit(t, full)
	s.stands(t, "a", 2, 2)
	s.stands(t, "b", 0, nil)
	s.stands(t, "c", 1, 2)
	same(t, "index i", s.list(t, store.Query{Index: "i"}), []string{})
	same(t, "index j", s.list(t, store.Query{Index: "j"}), []string{"a", "c"})
	s.hear(t, "inbox")
}

func badBatches(t *testing.T, s *suite) {
	s.commit(t, put(row("a", 0, 1)))
	bad := []store.Batch{
		put(row("a", 1, 2), row("a", 2, 3)),
		{Put: []store.Row{row("a", 1, 2)}, Delete: []store.Row{row("a", 1, nil)}},
		put(row("", 0, 1)),
		{Tell: []store.Message{{Subject: "to nobody"}}},
		{Ack: &store.Claim{ID: 1}, Retry: &store.Claim{ID: 1}},
	}
	for _, b := range bad {
		s.refused(t, b, mlaas.ErrInvalid, "want")
	}
	large := row("b", 0, "")
	large.Data = []byte(strings.Repeat(" ", store.MaxData+1))
	s.refused(t, put(large), mlaas.ErrTooLarge, key("b").String())
	s.refused(t, store.Batch{Tell: []store.Message{{To: "inbox", Subject: "Large", Body: large.Data}}}, mlaas.ErrTooLarge, "Large")
	s.stands(t, "a", 1, 1)
}

func tenants(t *testing.T, s *suite) {
	of := func(tenant mlaas.Tenant, value int) store.Row {
		r := row("same", 0, value, "i")
		r.Key.Tenant = tenant
		return r
	}
	s.commit(t, put(of("b", 2), of("a", 1), of("", 0)))
	for value, tenant := range []mlaas.Tenant{"", "a", "b"} {
		want := of(tenant, value)
		want.Rev = 1
		got, err := s.DB.Get(s.ctx, want.Key)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "row", got, want)
	}
	for _, index := range []string{"", "i"} {
		for _, tt := range []struct {
			tenant mlaas.Tenant
			want   []mlaas.Tenant
		}{{"", []mlaas.Tenant{"", "a", "b"}}, {"a", []mlaas.Tenant{"a"}}, {"c", nil}} {
			found, _, err := s.DB.List(s.ctx, store.Query{Kind: "thing", Tenant: tt.tenant, Index: index})
			if err != nil {
				t.Fatal(err)
			}
			var got []mlaas.Tenant
			for _, r := range found {
				got = append(got, r.Key.Tenant)
			}
			same(t, "tenants", got, tt.want)
		}
	}
	if err := s.DB.Commit(s.ctx, store.Batch{Delete: []store.Row{{Key: of("c", 0).Key, Rev: 1}}}); !errors.Is(err, mlaas.ErrConflict) {
		t.Errorf("deleting what another tenant has: %v", err)
	}
}

func indexes(t *testing.T, s *suite) {
	s.commit(t, put(row("a", 0, 1, "state=new", "live"), row("b", 0, 1, "state=new", "live"), row("c", 0, 1)))
	same(t, "new", s.list(t, store.Query{Index: "state=new"}), []string{"a", "b"})
	same(t, "prefix of an index", s.list(t, store.Query{Index: "state"}), []string{})

	s.commit(t, put(row("a", 1, 2, "state=done"), row("c", 1, 2, "live", "live")))
	same(t, "new", s.list(t, store.Query{Index: "state=new"}), []string{"b"})
	same(t, "done", s.list(t, store.Query{Index: "state=done"}), []string{"a"})
	same(t, "live", s.list(t, store.Query{Index: "live"}), []string{"b", "c"})

	s.commit(t, store.Batch{Put: []store.Row{row("b", 1, 2)}, Delete: []store.Row{row("c", 2, nil)}})
	same(t, "live", s.list(t, store.Query{Index: "live"}), []string{})
	same(t, "all", s.list(t, store.Query{}), []string{"a", "b"})

	s.commit(t, put(row("c", 0, 3, "live"))) // what was deleted and made again
	found, _, err := s.DB.List(s.ctx, store.Query{Kind: "thing", Index: "live"})
	if err != nil {
		t.Fatal(err)
	}
	want := row("c", 1, 3, "live")
	same(t, "row", found, []store.Row{want})
}

func pages(t *testing.T, s *suite) {
	var b store.Batch
	var all []string
	for i := range 25 {
		all = append(all, fmt.Sprintf("run/%03d", i))
		b.Put = append(b.Put, row(all[i], 0, i, "i"))
	}
	b.Put = append(b.Put, row("rum", 0, 0), row("run", 0, 0), row("run0", 0, 0), row("run/\U0010FFFF", 0, 0))
	s.commit(t, b)
	backwards := func(ids []string) []string {
		out := make([]string, len(ids))
		for i, id := range ids {
			out[len(ids)-1-i] = id
		}
		return out
	}
	for _, q := range []store.Query{{Index: "i"}, {Prefix: "run/0"}, {Prefix: "run/0", Index: "i"}, {Prefix: "run/0", Tenant: "team"}, {Index: "i", Tenant: "team"}} {
		for _, limit := range []int{0, 7, 25} {
			q.Limit, q.Reverse = limit, false
			same(t, fmt.Sprintf("%+v", q), s.list(t, q), all)
			q.Reverse = true
			same(t, fmt.Sprintf("%+v", q), s.list(t, q), backwards(all))
		}
	}
	same(t, "prefix", s.list(t, store.Query{Prefix: "run/", Limit: 10}), append(all[:25:25], "run/\U0010FFFF"))
	same(t, "no such prefix", s.list(t, store.Query{Prefix: "run//"}), []string{})
	// A cursor need not be a row that is there.
	found, _, err := s.DB.List(s.ctx, store.Query{Kind: "thing", Tenant: "team", After: key("run/0105"), Limit: 1})
	if err != nil || len(found) != 1 || found[0].Key.ID != "run/011" {
		t.Errorf("after run/0105: %v, %v", found, err)
	}
}

// pagesGrow goes through the pages while rows are inserted before and behind.
func pagesGrow(t *testing.T, s *suite) {
	for i := range 20 {
		s.commit(t, put(row(fmt.Sprintf("m%02d", i), 0, i)))
	}
	for _, reverse := range []bool{false, true} {
		seen := map[string]int{}
		q := store.Query{Kind: "thing", Limit: 3, Reverse: reverse}
		for n := 0; ; n++ {
			found, next, err := s.DB.List(s.ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range found {
				seen[r.Key.ID]++
			}
			if next == (store.Key{}) {
				break
			}
			q.After = next
			s.commit(t, put(row(fmt.Sprintf("a%v%02d", reverse, n), 0, n), row(fmt.Sprintf("m%02d+%v%d", n, reverse, n), 0, n)))
		}
		for i := range 20 {
			if id := fmt.Sprintf("m%02d", i); seen[id] != 1 {
				t.Errorf("%s was listed %d times", id, seen[id])
			}
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s was listed %d times", id, n)
			}
		}
	}
}

// counter lets many writers add to one number.
func counter(t *testing.T, s *suite) {
	const writers, each = 64, 1
	s.commit(t, put(row("n", 0, 0)))
	done := make(chan error, writers)
	for range writers {
		go func() { done <- s.add(each) }()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	s.stands(t, "n", 1+writers*each, writers*each)
}

func (s *suite) add(times int) error {
	for range times {
		for {
			r, err := s.DB.Get(s.ctx, key("n"))
			if err != nil {
				return err
			}
			var n struct{ V int }
			if err := json.Unmarshal(r.Data, &n); err != nil {
				return err
			}
			err = s.DB.Commit(s.ctx, put(row("n", r.Rev, n.V+1)))
			if err == nil {
				break
			}
			if !errors.Is(err, mlaas.ErrConflict) {
				return err
			}
		}
	}
	return nil
}

func ended(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	waits := make(chan error, 2)
	go func() {
		_, err := s.DB.Next(ctx, "inbox", s.unit)
		waits <- err
	}()
	go func() { waits <- s.DB.Watch(ctx, 0, []string{"thing"}, make(chan store.Change)) }()
	if s.h.Bubble {
		synctest.Wait()
	}
	cancel()
	for range 2 {
		if err := <-waits; !errors.Is(err, context.Canceled) {
			t.Errorf("what waits ends with %v", err)
		}
	}
	if err := s.DB.Commit(ctx, put(row("a", 0, 1))); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
	if _, err := s.DB.Get(ctx, key("a")); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if _, _, err := s.DB.List(ctx, store.Query{Kind: "thing"}); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	if _, err := s.DB.Next(ctx, "inbox", s.unit); !errors.Is(err, context.Canceled) {
		t.Errorf("next: %v", err)
	}
	s.stands(t, "a", 0, nil)
}

func stats(t *testing.T, s *suite) {
	get := func() store.Stats {
		st, err := s.DB.Stats(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	before := get()
	s.commit(t, put(row("a", 0, 1), row("b", 0, 1)))
	s.commit(t, store.Batch{Delete: []store.Row{row("a", 1, nil)}, Tell: []store.Message{{To: "inbox", Subject: "S"}}})
	after := get()
	if after.Records != 1 || after.Waiting != 1 || after.Parked != 0 {
		t.Errorf("stats are %+v, want one record and one message", after)
	}
	if n := after.Commits - before.Commits; n != 2 {
		t.Errorf("%d commits were counted, want 2", n)
	}
	if n := after.Syncs - before.Syncs; n < 1 || n > 2 {
		t.Errorf("%d syncs were counted for 2 commits", n)
	}
	if after.Seq <= before.Seq {
		t.Errorf("the sequence went from %d to %d", before.Seq, after.Seq)
	}
	s.pass(2 * s.unit)
	if st := get(); st.Oldest < 2*s.unit*9/10 || st.Oldest > 20*s.unit {
		t.Errorf("the oldest message waits %v, want %v", st.Oldest, 2*s.unit)
	}
	c := s.hear(t, "inbox")
	s.commit(t, store.Batch{Ack: &c})
	if st := get(); st.Waiting != 0 || st.Oldest != 0 {
		t.Errorf("stats are %+v, want no message", st)
	}
}

// reopened writes, ends one way or another, and reads.
func reopened(t *testing.T, h Harness, crash bool) {
	s := &suite{h: h, ctx: t.Context(), unit: time.Minute}
	s.DB = h.Open(t)
	defer func() { s.DB.Close() }()
	again := func() {
		if crash {
			h.Crash(t, s.DB)
		}
		s.DB.Close()
		s.DB = h.Open(t)
	}
	for i := range 10 {
		s.commit(t, put(row(fmt.Sprint(i), 0, i, "i")))
	}
	s.commit(t, store.Batch{Delete: []store.Row{row("3", 1, nil)}, Put: []store.Row{row("4", 1, "four")}})
	s.commit(t, store.Batch{Tell: []store.Message{{To: "inbox", Subject: "S", Key: "k", Body: json.RawMessage(`{"n":1}`)}, {To: "inbox", Subject: "S", Key: "k"}}})
	st, err := s.DB.Stats(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	old := s.hear(t, "inbox") // held when it ends
	again()
	same(t, "listed", s.list(t, store.Query{Index: "i"}), []string{"0", "1", "2", "5", "6", "7", "8", "9"})
	s.stands(t, "4", 2, "four")
	s.stands(t, "3", 0, nil)
	s.refused(t, put(row("5", 0, 0)), mlaas.ErrConflict, "5")

	// What was held is handed out again, and the holder of then is late.
	c := s.hear(t, "inbox")
	if c.ID != old.ID || string(c.Message.Body) != `{"n":1}` || c.Message.Subject != "S" || c.Message.Key != "k" {
		t.Errorf("heard %+v, want %+v again", c, old)
	}
	s.refused(t, store.Batch{Ack: &old}, store.ErrNotHeld, "")
	s.commit(t, store.Batch{Ack: &c})
	again()
	c = s.hear(t, "inbox")
	if c.ID == old.ID {
		t.Error("a message came again after its acknowledgement")
	}
	s.commit(t, store.Batch{Ack: &c})

	// Numbers are not given twice, and a watcher goes on where it was.
	out := make(chan store.Change, 100)
	ctx, cancel := context.WithCancel(s.ctx)
	watched := make(chan error, 1)
	go func() { watched <- s.DB.Watch(ctx, st.Seq, []string{"thing"}, out) }()
	if c := <-out; !c.Synced {
		t.Errorf("the first change is %+v, want Synced", c)
	}
	s.commit(t, put(row("5", 1, "five")))
	if c := <-out; c.Row.Key.ID != "5" || c.Seq <= st.Seq {
		t.Errorf("the change is %+v, want row 5 after %d", c, st.Seq)
	}
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ends with %v", err)
	}

	// A message that is parked stays so.
	s.commit(t, store.Batch{Tell: []store.Message{{To: "inbox", Subject: "Bad"}}})
	for range store.MaxDeliveries {
		c := s.hear(t, "inbox")
		s.commit(t, store.Batch{Retry: &c, Why: "it cannot be"})
	}
	again()
	parked, err := s.DB.Parked(s.ctx)
	if err != nil || len(parked) != 1 || parked[0].Message.Subject != "Bad" || parked[0].Why != "it cannot be" {
		t.Errorf("parked: %+v, %v", parked, err)
	}
}
