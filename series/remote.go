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
// it. It asks the one that has the shard which holds the run; while nobody has
// that shard it reads records, blobs and objects itself, so that what was said
// stays readable. Fill in the fields and call Run, without which Changed never
// wakes anybody.
type Remote struct {
	// Find says where the [Handler] is of who has a shard, which is named as
	// its cluster, such as "http://10.0.0.7:7070"; empty: nobody has it now.
	Find func(ctx context.Context, shard string) (url string, err error)

	Client *http.Client // nil: http.DefaultClient
	Token  string       // sent as "Authorization: Bearer"

	DB      store.Driver // where the manifests are
	Blob    blob.Driver
	Objects Objects
	Log     *slog.Logger

	mu      sync.Mutex
	watched map[key]*distant
	due     []*distant    // to be attended by Run
	kick    chan struct{} // Run: look at due
	past    past
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

// where says who answers for k: a service, or a store of ours that release
// must be called for; to read alone it shows what is not sealed. A run that was released is sealed, and anybody can say
// what it has said; so is one that has no manifest: nothing.
func (r *Remote) where(ctx context.Context, k key, read bool) (at string, own *Store, release func(), err error) {
	if err := checkKey(k); err != nil {
		return "", nil, nil, err
	}
	m, rev, err := store.Series(r.DB).Get(ctx, k.tenant, string(k.run))
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return "", nil, nil, unreachable(err)
	}
	if rev == 0 || m.Released {
		own, err := r.sealed(ctx)
		return "", own, func() {}, err
	}
	at, err = r.Find(ctx, m.Shard)
	if err != nil {
		return "", nil, nil, fmt.Errorf("find who has shard %s: %w", m.Shard, err)
	}
	switch {
	case at == "" && read:
		own, release, err = r.still(ctx, m.Shard, k, rev)
	case at == "":
		own, err = r.sealed(ctx)
		release = func() {}
	}
	return at, own, release, err
}

// answer asks the service that answers for k, or a store of ours.
func answer[T any](ctx context.Context, r *Remote, k key, method, what string, query url.Values, read func(io.Reader) (T, error), own func(*Store) (T, error)) (out T, err error) {
	at, past, release, err := r.where(ctx, k, method == "GET")
	if err != nil {
		return out, err
	}
	if past != nil {
		defer release()
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
	used, err := r.Usage(ctx)
	if err != nil || used <= most {
		return 0, err
	}
	s, err := r.sealed(ctx)
	if err != nil {
		return 0, err
	}
	keys, err := s.oldest(ctx, func(*run) bool { return true })
	if err != nil {
		return 0, err
	}
	return trim(keys, used-most, finished, func(k key, lines bool) (mlaas.Bytes, error) {
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
func (r *Remote) Usage(ctx context.Context) (used mlaas.Bytes, err error) {
	s, err := r.sealed(ctx)
	if err != nil {
		return 0, err
	}
	err = s.medium.each(ctx, func(_ key, run *run, err error) error {
		if err == nil {
			used += mlaas.Bytes(run.manifest.size())
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	open, err := r.Objects.List(ctx, objectsPrefix)
	if err != nil {
		return 0, unreachable(err)
	}
	for _, o := range open {
		used += mlaas.Bytes(o.Size)
	}
	return used, nil
}

// Take has who has the shard called from release a run: see Store.Take.
func (r *Remote) Take(ctx context.Context, tenant mlaas.Tenant, id mlaas.RunID, from string) error {
	at, err := r.Find(ctx, from)
	if err != nil {
		return err
	}
	if at == "" {
		return fmt.Errorf("nobody has shard %s, so that it could release run %s: %w", from, id, mlaas.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	res, err := r.ask(ctx, "POST", at, key{tenant, id}, "/release", nil)
	if err == nil {
		res.Body.Close()
	}
	return err
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
// its shard, Find is asked every few seconds besides.
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
	g.Go(func() error { r.hear(ctx); return nil })
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

// hear watches the records that say who holds a run, and who has a shard.
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
	go func() { ended <- r.DB.Watch(ctx, stats.Seq, []string{"series", "shard"}, changes) }()
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
	switch {
	case c.Synced || c.Row.Key.Kind == "shard":
		for _, w := range r.watched {
			w.look()
		}
	default:
		w := r.watched[key{c.Row.Key.Tenant, mlaas.RunID(c.Row.Key.ID)}]
		if w == nil {
			return
		}
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

// listen wakes those who wait as often as who serves w says so. It reports
// whether that began at all.
func (r *Remote) listen(ctx context.Context, w *distant) (heard bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m, rev, err := store.Series(r.DB).Get(ctx, w.key.tenant, string(w.key.run))
	if rev == 0 || err != nil || m.Released {
		return false, err // its record will change
	}
	at, err := r.Find(ctx, m.Shard)
	if err != nil || at == "" {
		return false, err
	}
	r.mu.Lock()
	w.from, w.stop = m.Shard, func() { cancel(errors.New("another shard holds it")) }
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
