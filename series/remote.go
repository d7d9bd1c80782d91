package series

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
)

// A Remote reads what runs have said from the services that append it, in
// another process than theirs. Fill in the fields and call Run, without which
// Changed never wakes anybody.
type Remote struct {
	// Find says where the [Handler] is that serves a run, such as
	// "http://10.0.0.7:7070"; empty: nobody does now. It is mlaas.ErrNotFound
	// where nobody ever did, as the run has said nothing yet.
	Find func(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID) (url string, err error)

	Client *http.Client // nil: http.DefaultClient
	Token  string       // sent as "Authorization: Bearer"
	Log    *slog.Logger

	mu      sync.Mutex
	watched map[key]*distant
	due     []*distant    // to be attended by Run
	kick    chan struct{} // Run: look at due
}

const (
	askWithin  = 30 * time.Second // an answer that takes longer does not come
	linger     = 10 * time.Second // a watch goes on so long after nobody waits
	maxWatched = 4096             // runs that are watched at the same time
	deafAfter  = 3 * beatEvery    // a stream that says nothing for so long is dead
	leastWait  = 200 * time.Millisecond
	mostWait   = 5 * time.Second
)

func (r *Remote) log() *slog.Logger {
	if r.Log != nil {
		return r.Log
	}
	return slog.New(slog.DiscardHandler)
}

// answer asks the service that serves k.
func answer[T any](ctx context.Context, r *Remote, k key, method, what string, query url.Values, read func(io.Reader) (T, error)) (out T, err error) {
	if err := checkKey(k); err != nil {
		return out, err
	}
	at, err := r.Find(ctx, k.tenant, k.run)
	if errors.Is(err, mlaas.ErrNotFound) {
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("find who serves run %s: %w", k.run, err)
	}
	if at == "" {
		return out, fmt.Errorf("nobody serves run %s now: %w", k.run, mlaas.ErrUnavailable)
	}
	within, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	res, err := r.ask(within, method, at, k, what, query)
	if err == nil {
		defer res.Body.Close()
		out, err = read(bufio.NewReaderSize(res.Body, 64<<10))
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return out, err
}

// ask sends a request and returns an answer that is good.
func (r *Remote) ask(ctx context.Context, method, at string, k key, what string, query url.Values) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(at, "/")+"/series/"+string(k.tenant)+"/"+string(k.run)+what, nil)
	if err != nil {
		return nil, err
	}
	req.URL.RawQuery = query.Encode()
	if r.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.Token)
	}
	client := r.Client
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask who serves run %s: %w: %w", k.run, err, mlaas.ErrUnavailable)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	var p problem
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(body, &p)
	}
	i := slices.IndexFunc(mlaas.Kinds, func(kind *mlaas.Kind) bool { return kind.Code == p.Code })
	if err != nil || i < 0 { // something else answers there
		return nil, fmt.Errorf("who serves run %s answers %s: %w", k.run, res.Status, mlaas.ErrUnavailable)
	}
	return nil, &distantError{strings.TrimSuffix(p.Message, ": "+p.Code), mlaas.Kinds[i]}
}

// A distantError is one that was said elsewhere.
type distantError struct {
	text string
	kind *mlaas.Kind
}

func (e *distantError) Error() string { return e.text + ": " + e.kind.Code }
func (e *distantError) Unwrap() error { return e.kind }

func readJSON[T any](r io.Reader) (v T, err error) {
	if err := json.NewDecoder(r).Decode(&v); err != nil {
		return v, cut(err)
	}
	return v, nil
}

// Lines is that of [Reader].
func (r *Remote) Lines(ctx context.Context, q LineQuery) ([]Line, error) {
	return answer(ctx, r, key{q.Tenant, q.Run}, "GET", "/lines", q.values(), readLines)
}

// Points is that of [Reader].
func (r *Remote) Points(ctx context.Context, q PointQuery) ([]Curve, error) {
	return answer(ctx, r, key{q.Tenant, q.Run}, "GET", "/points", q.values(), readCurves)
}

// RunPoints is that of [Reader].
func (r *Remote) RunPoints(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, from int64, limit int) ([]RunPoint, error) {
	query := url.Values{"from": {strconv.FormatInt(from, 10)}, "limit": {strconv.Itoa(limit)}}
	return answer(ctx, r, key{tenant, id}, "GET", "/arrived", query, readArrived)
}

// Keys is that of [Reader].
func (r *Remote) Keys(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) ([]string, error) {
	return answer(ctx, r, key{tenant, id}, "GET", "/keys", nil, readJSON[[]string])
}

// LastCursor is that of [Reader].
func (r *Remote) LastCursor(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) (log, metric int64, err error) {
	l, err := r.last(ctx, tenant, id, "")
	return l.Log, l.Metric, err
}

// LastSeq is that of [Reader].
func (r *Remote) LastSeq(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, replica string) (int64, error) {
	l, err := r.last(ctx, tenant, id, replica)
	return l.Seq, err
}

func (r *Remote) last(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, replica string) (last, error) {
	return answer(ctx, r, key{tenant, id}, "GET", "/last", url.Values{"replica": {replica}}, readJSON[last])
}

// Kept is that of [Reader].
func (r *Remote) Kept(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) (Kept, error) {
	return answer(ctx, r, key{tenant, id}, "GET", "/kept", nil, readJSON[Kept])
}

// Delete is that of [Reader].
func (r *Remote) Delete(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) error {
	_, err := answer(ctx, r, key{tenant, id}, "DELETE", "", nil, readJSON[struct{}])
	return err
}

// Release has the [Handler] at url release a run: see [Store.Release].
func (r *Remote) Release(ctx context.Context, url string, tenant mlaas.Tenant, id mlaas.RunID) error {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	res, err := r.ask(ctx, "POST", url, key{tenant, id}, "/release", nil)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// Trim is that of [Reader].
func (r *Remote) Trim(ctx context.Context, most mlaas.Bytes, finished func(mlaas.Tenant, mlaas.RunID) bool) (mlaas.Bytes, error) {
	return 0, mlaas.ErrUnavailable
}

// Blobs is that of [Reader].
func (r *Remote) Blobs(ctx context.Context, f func(mlaas.Digest) error) error {
	return mlaas.ErrUnavailable
}

// Usage is that of [Reader].
func (r *Remote) Usage(ctx context.Context) (mlaas.Bytes, error) { return 0, mlaas.ErrUnavailable }

// A distant is a run that is watched where it is served: one stream for all
// who wait for it here.
type distant struct {
	key  key
	c    chan struct{} // closed at the next news
	n    int           // who waits
	idle *time.Timer   // where nobody does
	gone chan struct{} // closed when it is not watched any more
}

// Changed is closed when that run is appended to or deleted, when who serves
// it goes, and when somebody begins to serve it. Run keeps one stream open for
// each run that is waited for; while nobody serves it, Find is asked every few
// seconds, and nothing else.
func (r *Remote) Changed(tenant mlaas.Tenant, id mlaas.RunID) (changed <-chan struct{}, leave func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watched == nil {
		r.watched = map[key]*distant{}
	}
	k := key{tenant, id}
	w := r.watched[k]
	if w == nil {
		w = &distant{key: k, c: make(chan struct{}), gone: make(chan struct{})}
		if len(r.watched) >= maxWatched { // who waits for it looks by the clock
			timer := time.AfterFunc(mostWait, func() { close(w.c) })
			return w.c, func() { timer.Stop() }
		}
		r.watched[k] = w
		r.due = append(r.due, w)
		r.wakeRun()
	}
	if w.n++; w.idle != nil {
		w.idle.Stop()
		w.idle = nil
	}
	return w.c, sync.OnceFunc(func() { r.leave(w) })
}

func (r *Remote) leave(w *distant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.n--; w.n > 0 {
		return
	}
	var idle *time.Timer
	idle = time.AfterFunc(linger, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if w.idle == idle { // else somebody came
			delete(r.watched, w.key)
			close(w.gone)
		}
	})
	w.idle = idle
}

// kicked is what Run waits for. The caller holds mu.
func (r *Remote) kicked() chan struct{} {
	if r.kick == nil {
		r.kick = make(chan struct{}, 1)
	}
	return r.kick
}

func (r *Remote) wakeRun() {
	select {
	case r.kicked() <- struct{}{}:
	default:
	}
}

// Run watches the runs that are waited for, until ctx ends.
func (r *Remote) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for {
		r.mu.Lock()
		due, kick := r.due, r.kicked()
		r.due = nil
		r.mu.Unlock()
		for _, w := range due {
			g.Go(func() error { r.attend(ctx, w); return nil })
		}
		select {
		case <-ctx.Done():
			return g.Wait()
		case <-kick:
		}
	}
}

// wake closes what those who wait for w wait for.
func (r *Remote) wake(w *distant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(w.c)
	w.c = make(chan struct{})
}

// attend listens to who serves w, whoever that is, until it is not watched any
// more.
func (r *Remote) attend(ctx context.Context, w *distant) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-w.gone:
			cancel()
		case <-over:
		}
	}()
	for wait := leastWait; ctx.Err() == nil; wait = min(2*wait, mostWait) {
		heard, err := r.listen(ctx, w)
		if ctx.Err() != nil {
			return
		}
		if heard {
			r.wake(w) // it may be elsewhere now
			wait = leastWait
		} else {
			r.log().Debug("series: a run cannot be watched", "run", w.key.run, "error", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

// listen wakes those who wait as often as who serves w says so. It reports
// whether that began at all.
func (r *Remote) listen(ctx context.Context, w *distant) (heard bool, err error) {
	at, err := r.Find(ctx, w.key.tenant, w.key.run)
	if errors.Is(err, mlaas.ErrNotFound) {
		return false, nil
	}
	if err != nil || at == "" {
		return false, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	deaf := time.AfterFunc(deafAfter, func() { cancel(errors.New("nothing is heard any more")) })
	defer deaf.Stop()
	res, err := r.ask(ctx, "GET", at, w.key, "/changed", nil)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	said := make([]byte, 256)
	for {
		n, err := res.Body.Read(said)
		if slices.Contains(said[:n], saysChanged) {
			heard = true
			r.wake(w)
		}
		if err != nil {
			return heard, err
		}
		deaf.Reset(deafAfter)
	}
}
