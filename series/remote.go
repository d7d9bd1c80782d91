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
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/store"
)

// A Remote reads what runs have said in another process than those that append
// it as objects: it asks the one that has the shard which holds the run. Where
// nobody has it now, it reads records, blobs and objects itself, so that what
// was said stays readable. Fill in the fields and call Run, without which
// Changed never wakes anybody.
type Remote struct {
	// Serves says where the [Handler] is of who has a shard, which is named as
	// its cluster, such as "http://10.0.0.7:7070"; empty: nobody has it now.
	Serves func(ctx context.Context, shard string) (url string, err error)

	DB      store.Driver // where the manifests are
	Blob    blob.Driver
	Objects Objects

	Client *http.Client // nil: http.DefaultClient
	Token  string       // sent as "Authorization: Bearer"
	Log    *slog.Logger

	mu      sync.Mutex
	watched map[key]*distant
	due     []*distant           // to be attended by Run
	silent  map[string]time.Time // addresses that do not answer, and since when
	kick    chan struct{}        // Run: look at due
	past    past
}

const (
	askWithin  = 30 * time.Second // an answer that takes longer does not come
	linger     = 10 * time.Second // a watch goes on so long after nobody waits
	maxWatched = 4096             // runs that are watched at the same time
	deafAfter  = 3 * beatEvery    // a stream that says nothing for so long is dead
	goneAfter  = 10 * time.Second // who does not answer for so long is gone, whatever Serves says
	leastWait  = 200 * time.Millisecond
	mostWait   = 5 * time.Second
)

func (r *Remote) log() *slog.Logger {
	if r.Log != nil {
		return r.Log
	}
	return slog.New(slog.DiscardHandler)
}

// where says who answers for k: a service, or a store of ours that release
// must be called for. What is not sealed is in that store where all is asked
// for.
func (r *Remote) where(ctx context.Context, k key, all bool) (at string, own *Store, release func(), err error) {
	release = func() {}
	if err := checkKey(k); err != nil {
		return "", nil, nil, err
	}
	m, rev, err := store.Series(r.DB).Get(ctx, k.tenant, string(k.run))
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return "", nil, nil, unreachable(err)
	}
	if rev == 0 || m.Released { // anybody can say what it has said
		own, err := r.sealed(ctx)
		return "", own, release, err
	}
	at, err = r.Serves(ctx, m.Shard)
	if err != nil {
		return "", nil, nil, fmt.Errorf("find who has shard %s: %w", m.Shard, err)
	}
	switch {
	case at == "" && all:
		own, release, err = r.still(ctx, m.Shard, k, rev)
	case at == "":
		own, err = r.sealed(ctx)
	}
	return at, own, release, err
}

// answer asks the service that answers for k, or a store of ours.
func answer[T any](ctx context.Context, r *Remote, k key, method, what string, query url.Values, read func(io.Reader) (T, error), own func(*Store) (T, error)) (out T, err error) {
	at, past, release, err := r.where(ctx, k, method == "GET")
	if err != nil {
		return out, err
	}
	defer release()
	if past != nil {
		return own(past)
	}
	within, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	res, err := r.ask(within, method, at, k, what, query)
	if err == nil {
		defer res.Body.Close()
		out, err = read(bufio.NewReaderSize(res.Body, 64<<10))
	}
	if err != nil && ctx.Err() != nil {
		return out, ctx.Err()
	}
	if r.gone(at, err) && method == "GET" { // what was acknowledged is in objects, whoever lives
		past, release, err := r.unserved(ctx, k)
		if err != nil {
			return out, err
		}
		defer release()
		return own(past)
	}
	return out, err
}

// errSilent is that nobody is at an address.
var errSilent = fmt.Errorf("nobody answers: %w", mlaas.ErrUnavailable)

// gone notes whether who is at an address answers, and reports whether they
// have not for long.
func (r *Remote) gone(at string, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !errors.Is(err, errSilent) {
		delete(r.silent, at)
		return false
	}
	since, ok := r.silent[at]
	if !ok {
		if since = time.Now(); r.silent == nil {
			r.silent = map[string]time.Time{}
		}
		r.silent[at] = since
	}
	return time.Since(since) >= goneAfter
}

// unserved is a store of ours for a run whose shard has an owner that is gone.
func (r *Remote) unserved(ctx context.Context, k key) (*Store, func(), error) {
	m, rev, err := store.Series(r.DB).Get(ctx, k.tenant, string(k.run))
	if err != nil {
		return nil, nil, unreachable(err)
	}
	return r.still(ctx, m.Shard, k, rev)
}

// ask sends a request and returns an answer that is good.
func (r *Remote) ask(ctx context.Context, method, at string, k key, what string, query url.Values) (*http.Response, error) {
	return r.send(ctx, method, at, string(k.tenant)+"/"+string(k.run)+what, query)
}

func (r *Remote) send(ctx context.Context, method, at, what string, query url.Values) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(at, "/")+"/series/"+what, nil)
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
		return nil, fmt.Errorf("ask who has a shard: %w: %w", err, errSilent)
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
		return nil, fmt.Errorf("who has a shard answers %s: %w", res.Status, mlaas.ErrUnavailable)
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
	return answer(ctx, r, key{q.Tenant, q.Run}, "GET", "/lines", q.values(), readLines, func(s *Store) ([]Line, error) { return s.Lines(ctx, q) })
}

// Points is that of [Reader].
func (r *Remote) Points(ctx context.Context, q PointQuery) ([]Curve, error) {
	return answer(ctx, r, key{q.Tenant, q.Run}, "GET", "/points", q.values(), readCurves, func(s *Store) ([]Curve, error) { return s.Points(ctx, q) })
}

// RunPoints is that of [Reader].
func (r *Remote) RunPoints(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, from int64, limit int) ([]RunPoint, error) {
	query := url.Values{"from": {strconv.FormatInt(from, 10)}, "limit": {strconv.Itoa(limit)}}
	return answer(ctx, r, key{tenant, id}, "GET", "/arrived", query, readArrived, func(s *Store) ([]RunPoint, error) { return s.RunPoints(ctx, tenant, id, from, limit) })
}

// Keys is that of [Reader].
func (r *Remote) Keys(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) ([]string, error) {
	return answer(ctx, r, key{tenant, id}, "GET", "/keys", nil, readJSON[[]string], func(s *Store) ([]string, error) { return s.Keys(ctx, tenant, id) })
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
	return answer(ctx, r, key{tenant, id}, "GET", "/last", url.Values{"replica": {replica}}, readJSON[last], func(s *Store) (last, error) { return s.newest(ctx, key{tenant, id}, replica) })
}

// Kept is that of [Reader].
func (r *Remote) Kept(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) (Kept, error) {
	return answer(ctx, r, key{tenant, id}, "GET", "/kept", nil, readJSON[Kept], func(s *Store) (Kept, error) { return s.Kept(ctx, tenant, id) })
}

// Delete is that of [Reader]. Where nobody has the shard that holds the run,
// its manifest goes, and what objects have of it does not count any more.
func (r *Remote) Delete(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID) error {
	k := key{tenant, id}
	_, err := answer(ctx, r, k, "DELETE", "", nil, readJSON[struct{}], func(s *Store) (none struct{}, err error) {
		return none, s.Delete(ctx, tenant, id)
	})
	return err
}

// Trim is that of [Reader], over all shards.
func (r *Remote) Trim(ctx context.Context, most mlaas.Bytes, finished func(mlaas.Tenant, mlaas.RunID) bool) (freed mlaas.Bytes, err error) {
	all, err := r.all(ctx)
	if err != nil || all.Used <= most {
		return 0, err
	}
	return trim(all.keys(), all.Used-most, finished, func(k key, lines bool) (mlaas.Bytes, error) {
		query := url.Values{"lines": {strconv.FormatBool(lines)}}
		return answer(ctx, r, k, "POST", "/trim", query, readJSON[mlaas.Bytes], func(s *Store) (mlaas.Bytes, error) { return s.trimOne(ctx, k, lines) })
	})
}

// Blobs is that of [Reader], over all shards.
func (r *Remote) Blobs(ctx context.Context, f func(mlaas.Digest) error) error {
	s, err := r.sealed(ctx)
	if err != nil {
		return err
	}
	return s.Blobs(ctx, f)
}

// Usage is that of [Reader], over all shards.
func (r *Remote) Usage(ctx context.Context) (mlaas.Bytes, error) {
	all, err := r.all(ctx)
	return all.Used, err
}

// all is what all shards keep.
func (r *Remote) all(ctx context.Context) (all contents, err error) {
	s, err := r.sealed(ctx)
	if err == nil {
		all, err = s.contents(ctx, func(*run) bool { return true })
	}
	if err != nil {
		return all, err
	}
	open, err := r.Objects.List(ctx, objectsPrefix)
	if err != nil {
		return all, unreachable(err)
	}
	for _, o := range open {
		all.Used += mlaas.Bytes(o.Size)
	}
	return all, nil
}

// Take has who has the shard called from release a run: see Store.Take.
func (r *Remote) Take(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, from string) error {
	at, err := r.Serves(ctx, from)
	if err != nil {
		return err
	}
	if at == "" {
		return fmt.Errorf("nobody has shard %s, so that it could release run %s: %w", from, id, mlaas.ErrUnavailable)
	}
	return r.Release(ctx, at, tenant, id)
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

// A distant is a run that is watched where it is served: one stream for all
// who wait for it here.
type distant struct {
	key  key
	c    chan struct{} // closed at the next news
	n    int           // who waits
	idle *time.Timer   // where nobody does
	gone chan struct{} // closed when it is not watched any more

	again chan struct{} // who serves it may be another: look
	from  string        // the shard that is listened to; empty: none
	stop  func()        // ends that
}

// Changed is closed when that run is appended to or deleted, when who serves
// it goes, and when somebody begins to serve it. Run keeps one stream open for
// each run that is waited for, and one watch on the records; while nobody has
// its shard, Serves is asked every few seconds besides.
func (r *Remote) Changed(tenant mlaas.Tenant, id mlaas.RunID) (changed <-chan struct{}, leave func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.watched == nil {
		r.watched = map[key]*distant{}
	}
	k := key{tenant, id}
	w := r.watched[k]
	if w == nil {
		w = &distant{key: k, c: make(chan struct{}), gone: make(chan struct{}), again: make(chan struct{}, 1)}
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
	if r.DB != nil {
		g.Go(func() error { r.hear(ctx); return nil })
	}
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
			err := g.Wait()
			r.past.close()
			return err
		case <-kick:
		}
	}
}

// hear watches the records that say who holds a run, where it runs, and who has
// a shard.
func (r *Remote) hear(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.hearFrom(ctx)
		r.mu.Lock()
		for _, w := range r.watched { // something may have been missed
			w.look()
		}
		r.mu.Unlock()
		if ctx.Err() != nil || errors.Is(err, mlaas.ErrGone) {
			continue
		}
		r.log().Warn("series: who holds a run cannot be watched; it is tried again", "error", err)
		timer := time.NewTimer(mostWait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (r *Remote) hearFrom(ctx context.Context) error {
	stats, err := r.DB.Stats(ctx)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changes, ended := make(chan store.Change), make(chan error, 1)
	go func() { ended <- r.DB.Watch(ctx, stats.Seq, []string{"series", "shard", "lease", "runstate"}, changes) }()
	for {
		select {
		case err := <-ended:
			return err
		case c := <-changes:
			r.heard(c)
		}
	}
}

// heard wakes those who wait where a record says that they may find another.
func (r *Remote) heard(c store.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch w := r.watched[key{c.Row.Key.Tenant, mlaas.RunID(c.Row.Key.ID)}]; {
	case c.Synced || c.Row.Key.Kind == "shard" || c.Row.Key.Kind == "lease":
		for _, w := range r.watched {
			w.look()
		}
	case w == nil:
	case c.Row.Key.Kind == "runstate":
		w.look()
	default:
		m, err := store.Series(r.DB).Decode(c.Row)
		if c.Deleted || err != nil || m.Shard != w.from || m.Released {
			if w.stop != nil {
				w.stop()
			}
			w.look()
			w.wake()
		}
	}
}

// look has attend look who serves w. The caller holds mu.
func (w *distant) look() {
	select {
	case w.again <- struct{}{}:
	default:
	}
}

// wake closes what those who wait for w wait for. The caller holds mu.
func (w *distant) wake() {
	close(w.c)
	w.c = make(chan struct{})
}

func (r *Remote) wake(w *distant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.wake()
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
	for wait := leastWait; ; wait = min(2*wait, mostWait) {
		heard, err := r.listen(ctx, w)
		if ctx.Err() != nil {
			return
		}
		if heard {
			r.wake(w) // it may be elsewhere now
			wait = leastWait
		} else if err != nil {
			r.log().Debug("series: a run cannot be watched", "run", w.key.run, "error", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-w.again:
			wait = leastWait
		case <-timer.C:
		}
		timer.Stop()
	}
}

// source is where it is said that k has changed; empty: nowhere now.
func (r *Remote) source(ctx context.Context, k key) (at, from string, err error) {
	m, _, err := store.Series(r.DB).Get(ctx, k.tenant, string(k.run))
	if from = m.Shard; err == nil && !m.Released { // else its record will change
		at, err = r.Serves(ctx, from)
	}
	if errors.Is(err, mlaas.ErrNotFound) {
		err = nil
	}
	return at, from, err
}

// listen wakes those who wait as often as who serves w says so. It reports
// whether that began at all.
func (r *Remote) listen(ctx context.Context, w *distant) (heard bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	at, from, err := r.source(ctx, w.key)
	if err != nil || at == "" {
		return false, err
	}
	r.mu.Lock()
	w.from, w.stop = from, func() { cancel(errors.New("another shard holds it")) }
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		w.from, w.stop = "", nil
		r.mu.Unlock()
	}()
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
