package management

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// An unsure store shows what may still be lost.
type unsure struct {
	store.Driver
	asked  atomic.Int64
	unsafe atomic.Bool
}

func (u *unsure) Confirm(context.Context) error {
	u.asked.Add(1)
	if u.unsafe.Load() {
		return fmt.Errorf("not confirmed by a replica: %w", mlaas.ErrUnavailable)
	}
	return nil
}

// Nobody is told what may still be lost: neither what is there, nor that it is
// not, nor that it has changed, nor what was answered before.
func TestConfirms(t *testing.T) {
	db := new(unsure)
	a := start(t, func(m *Management) {
		db.Driver = m.DB
		m.DB = db
	})
	once := []string{"Idempotency-Key", "k1"}
	a.do("POST", "/api/job", `{"name": "j"}`, once...).want(201)
	a.do("GET", "/api/job/j", nil).want(200)
	if db.asked.Load() == 0 {
		t.Error("nothing was confirmed")
	}
	db.unsafe.Store(true)
	for what, r := range map[string]*reply{
		"what is there":         a.do("GET", "/api/job/j", nil),
		"a list":                a.do("GET", "/api/job", nil),
		"that it is not there":  a.do("GET", "/api/job/k", nil),
		"that it has changed":   a.do("PATCH", "/api/job/j", `{"labels": {"a": "b"}}`, "If-Match", `"7"`),
		"that a name is taken":  a.do("POST", "/api/job", `{"name": "j"}`),
		"what was said before":  a.do("POST", "/api/job", `{"name": "j"}`, once...),
		"that nothing was done": a.do("PATCH", "/api/job/j", `{}`),
	} {
		if r.Status != 503 {
			t.Errorf("%s is told: %d %s", what, r.Status, r.Body)
		}
	}
	// What is wrong with the request itself needs no store.
	a.do("POST", "/api/job", `{"name": 7}`).want(422)
	db.unsafe.Store(false)
	a.do("POST", "/api/job", `{"name": "j"}`, once...).want(201)
	if err := db.Confirm(t.Context()); errors.Is(err, mlaas.ErrUnavailable) {
		t.Fatal(err)
	}
}
