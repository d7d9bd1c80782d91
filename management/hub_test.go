package management

import (
	"errors"
	"fmt"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

func TestHubKeeps(t *testing.T) {
	var h hub
	life := h.living()
	if _, _, kept, err := h.after(life, 5); kept || err != nil {
		t.Errorf("before it knows anything: %v %v", kept, err)
	}
	h.begin(5)
	if _, _, kept, err := h.after(life, 4); kept || err != nil {
		t.Errorf("of before it began: %v %v", kept, err)
	}
	none, more, kept, err := h.after(life, 5)
	if len(none) != 0 || !kept || err != nil {
		t.Fatalf("nothing has changed yet: %v %v %v", none, kept, err)
	}
	for i := range int64(keepRecent) + 1 {
		h.take(store.Change{Seq: 10 + i})
	}
	<-more
	if _, _, kept, _ := h.after(life, 9); kept {
		t.Error("change 10 is kept, though more followed than are")
	}
	changes, _, kept, err := h.after(life, 10)
	if len(changes) != keepRecent || changes[0].Seq != 11 || !kept || err != nil {
		t.Errorf("%d changes after 10, %v %v", len(changes), kept, err)
	}
	h.lose()
	if _, _, _, err := h.after(life, 10); !errors.Is(err, mlaas.ErrGone) {
		t.Errorf("where something may have been missed: %v", err)
	}
	if _, _, kept, err := h.after(h.living(), 10); kept || err != nil {
		t.Errorf("in the next life: %v %v", kept, err)
	}
}

// One who is further behind than the hub keeps gets all of it from the store,
// and goes on; where the hub may have missed something, a client is told to
// begin again.
func TestStreamBehind(t *testing.T) {
	a := start(t)
	a.ready("j")
	first := a.listen().subscribe(Subscription{Topic: "job"}).hears("snapshot: j", "name")
	for i := range keepRecent + 10 {
		j := mlaas.Job{ID: mlaas.JobID(fmt.Sprintf("k%03d", i)), Tenant: mlaas.DefaultTenant, JobSpec: mlaas.JobSpec{Name: fmt.Sprintf("k%03d", i)}}
		a.commit(store.Batch{Put: []store.Row{store.Jobs(a.DB).Put(j, 0)}})
	}
	l := a.listen().subscribe(Subscription{Topic: "job", From: from(first.Seq)})
	l.hears("synced")
	for i := range keepRecent + 10 {
		l.hears(fmt.Sprintf("delta: k%03d", i), "name")
	}
	a.ready("last")
	l.hears("delta: last", "name")
	a.hub.lose()
	l.hears("reset")
	if e := l.next(); e.Type != "snapshot" {
		t.Errorf("after a reset comes %+v", e)
	}
}
