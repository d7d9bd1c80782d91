package management

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// keepKeys is how long an Idempotency-Key is remembered.
const keepKeys = 24 * time.Hour

// A keyed is what a request with an Idempotency-Key was answered. It is
// written in the commit of that request's effect, so there is one if and only
// if the other is there.
type keyed struct {
	Tenant  mlaas.Tenant `json:"-"`
	ID      string       `json:"id"`      // route and key
	Request string       `json:"request"` // digest of everything that was asked
	Answer  answer       `json:"answer"`
	Created time.Time    `json:"created"`
}

// SetTenant fills in what the key says.
func (k *keyed) SetTenant(t mlaas.Tenant) { k.Tenant = t }

// keyeds are written by management. ID: "METHOD PATTERN KEY". Index: the hour
// in which it was made.
func keyeds(db store.Driver) store.Records[keyed] {
	return store.Records[keyed]{DB: db, Kind: "key",
		Key:   func(k keyed) (mlaas.Tenant, string) { return k.Tenant, k.ID },
		Index: func(k keyed) []string { return []string{hourOf(k.Created)} }}
}

func hourOf(t time.Time) string { return "hour=" + t.UTC().Format("2006-01-02T15") }

// A once is the Idempotency-Key of a request; nil is a request without.
type once struct {
	m    *Management
	r    *http.Request
	id   string
	sum  hash.Hash // of the body, as far as it was read
	rev  int64     // of a record that is too old and will be replaced
	want string
}

// onceOf reads the key of a request.
func (m *Management) onceOf(r *http.Request, sum hash.Hash) (*once, error) {
	key := r.Header.Get("Idempotency-Key")
	if key == "" || r.Method != http.MethodPost {
		return nil, nil
	}
	if len(key) > 255 {
		return nil, mlaas.Invalid("Idempotency-Key", "at most 255 letters", fmt.Sprintf("%d letters", len(key)))
	}
	for i := range len(key) {
		if key[i] < ' ' || key[i] > '~' {
			return nil, mlaas.Invalid("Idempotency-Key", "letters, digits and signs of ASCII", key)
		}
	}
	return &once{m: m, r: r, id: r.Pattern + " " + key, sum: sum}, nil
}

// again answers w as the same request was answered before, and reports whether
// it did. The same key with another request is an error.
func (o *once) again(ctx context.Context, w http.ResponseWriter) (bool, error) {
	if o == nil {
		return false, nil
	}
	o.want = o.m.fingerprint(o.r.Method, o.r.URL.EscapedPath(), o.r.URL.RawQuery, hexSum(o.sum))
	k, rev, err := keyeds(o.m.DB).Get(ctx, tenantOf(ctx), o.id)
	switch {
	case errors.Is(err, mlaas.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case o.m.now().Sub(k.Created) >= keepKeys:
		o.rev = rev
		return false, nil
	case k.Request != o.want:
		return false, &mlaas.FieldError{Field: "Idempotency-Key", Want: "a fresh key for another request: this one was used at " + k.Created.Format(time.RFC3339), Got: o.r.Header.Get("Idempotency-Key")}
	}
	if err := confirm(ctx); err != nil { // it was answered, or was about to be
		return false, err
	}
	w.Header().Set("Idempotent-Replayed", "true")
	return true, k.Answer.write(w)
}

// with is b and the record of what it is answered with.
func (o *once) with(b store.Batch, a answer) (store.Batch, error) {
	if o == nil {
		return b, nil
	}
	k := keyed{Tenant: tenantOf(o.r.Context()), ID: o.id, Request: o.want, Answer: a, Created: o.m.stamp()}
	return b.Plus(store.Batch{Put: []store.Row{keyeds(o.m.DB).Put(k, o.rev)}}), nil
}

// fingerprint is what a request was, kept so that nobody can guess it back: a
// body may hold a secret.
func (m *Management) fingerprint(parts ...string) string {
	h := hmac.New(sha256.New, append([]byte("mlaas idempotency"), m.Key...))
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s ", len(p), p)
	}
	return hexSum(h)
}

// forget deletes the records of keys that are older than a day: all of them
// when it starts, and then hour by hour.
func (m *Management) forget(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for index := ""; ; index = hourOf(m.now().Add(-keepKeys - time.Hour)) {
		if err := m.forgetKeys(ctx, index); err != nil && ctx.Err() == nil {
			m.log().Warn("could not forget old idempotency keys; the next hour tries again", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (m *Management) forgetKeys(ctx context.Context, index string) error {
	records := keyeds(m.DB)
	q := store.Query{Index: index, Limit: 500}
	for {
		page, next, err := records.List(ctx, q)
		if err != nil {
			return err
		}
		var b store.Batch
		for _, k := range page {
			if m.now().Sub(k.Value.Created) >= keepKeys {
				b.Delete = append(b.Delete, records.At(k.Value.Tenant, k.Value.ID, k.Rev))
			}
		}
		if !b.Empty() {
			if err := m.DB.Commit(ctx, b); err != nil && !errors.Is(err, mlaas.ErrConflict) {
				return err
			}
		}
		if next == (store.Key{}) {
			return nil
		}
		q.After = next
	}
}
