//go:build failpoints

package queue

import (
	"context"
	"fmt"
	"testing"

	"mlaas.dev/mlaas/store"
)

// keeping is a store that only remembers what it was told.
type keeping struct {
	store.Driver
	told []store.Message
}

func (k *keeping) Commit(_ context.Context, b store.Batch) error {
	k.told = append(k.told, b.Tell...)
	return nil
}

// Nothing is ever left away: unruly is not lossy.
func TestUnruly(t *testing.T) {
	t.Setenv("MLAAS_FAULT_MESSAGES", "dup:0.5,late:0.5")
	k := &keeping{}
	db := Unruly(k)
	const n = 1000
	for i := range n {
		if err := db.Commit(t.Context(), store.Batch{Tell: []store.Message{{To: "x", Key: "k", Subject: fmt.Sprint(i)}}}); err != nil {
			t.Fatal(err)
		}
	}
	times, late := map[string]int{}, 0
	for _, m := range k.told {
		times[m.Subject]++
		if !m.Due.IsZero() {
			late++
		}
	}
	if len(times) != n || len(k.told) < n+n/4 || late < n/4 {
		t.Errorf("%d of %d messages came, %d in all, %d of them late", len(times), n, len(k.told), late)
	}
	t.Setenv("MLAAS_FAULT_MESSAGES", "refuse:1")
	k = &keeping{}
	if err := Unruly(k).Commit(t.Context(), store.Batch{Ack: &store.Claim{}, Tell: []store.Message{{To: "x"}}}); err == nil || len(k.told) > 0 {
		t.Errorf("what a handler answers is committed: %v %v", k.told, err)
	}
	if err := Unruly(k).Commit(t.Context(), store.Batch{Tell: []store.Message{{To: "x"}}}); err != nil || len(k.told) != 1 {
		t.Errorf("what no handler answers is refused: %v %v", k.told, err)
	}
	t.Setenv("MLAAS_FAULT_MESSAGES", "")
	if Unruly(k) != store.Driver(k) {
		t.Error("without the variable it is not the store itself")
	}
}
