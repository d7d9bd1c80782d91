// Package local runs replicas as processes of this machine.
//
// Each replica has a folder and a supervisor: our own binary, in a session of
// its own, so that neither Ctrl+C nor the death of the platform ends it. After
// a restart it is found again by (boot, process, time of start). The user's
// program is started by `mlaas enter`, which puts it into control groups and,
// as root, into its own namespaces under its own user.
//
// local.go is the executor, replica.go the life of one replica, folder.go what
// lies in its folder, group_linux.go the control groups, enter_linux.go the
// sandbox, gpu.go the accelerators.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/supervisor"
)

// An Executor runs replicas on this machine. One process at a time may use a
// Dir.
type Executor struct {
	Dir     string // folders of replicas
	EnvDir  string // shared cache of environments
	DataDir string // shared cache of data; empty: "data" beside EnvDir
	Binary  string // the mlaas program: it is called as `supervise` and `enter`
	Node    string // this machine's name; empty: as it calls itself
	Address string // where replicas reach each other; empty: 127.0.0.1
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now

	Total mlaas.Resources // what is not 0 takes the place of what was found
	Plain bool            // no sandbox and no control groups, whoever we are
	Quiet time.Duration   // without a door, after which a program is stopped; 0: 24 h
	Spool mlaas.Bytes     // of each replica and stream; 0: 1Gi

	once     sync.Once
	found    error
	groups   *hierarchies
	sandbox  bool
	limits   []string
	gpus     []gpu
	mu       sync.Mutex
	replicas map[mlaas.Fence]*replica
	watchers map[*watcher]bool
}

// A watcher is one Watch: what it has not sent yet.
type watcher struct {
	news []booster.News
	wake chan struct{}
}

var _ booster.Executor = (*Executor)(nil)

// How long what a dead supervisor left is delivered before its loss is told, and
// its run begins again: after that nobody takes it any more. A second is enough
// where all is well; where the store or the place for content is away for a
// while, nothing that begins again would get anywhere either. Longer where its
// program had ended before, because then its outcome is among what is delivered.
const (
	drainTime    = 2 * time.Minute
	deliveryTime = 10 * time.Minute
)

// begin finds out what this machine can do, and what runs here already.
func (e *Executor) begin() error {
	e.once.Do(func() { e.found = e.look() })
	return e.found
}

func (e *Executor) look() error {
	if err := e.complete(); err != nil {
		return err
	}
	e.probe()
	e.replicas, e.watchers = map[mlaas.Fence]*replica{}, map[*watcher]bool{}
	entries, err := os.ReadDir(e.Dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		folder := filepath.Join(e.Dir, entry.Name())
		if strings.HasPrefix(entry.Name(), ".") { // of a Start that was killed
			os.RemoveAll(folder)
			continue
		}
		about, err := readAbout(folder)
		if err != nil {
			e.Log.Warn("a folder in the place of replicas is none", "folder", folder, "error", err)
			continue
		}
		r := &replica{e: e, about: about, folder: folder, gone: make(chan struct{})}
		e.replicas[about.Fence] = r
	}
	for _, r := range e.replicas {
		r.adopt()
	}
	return nil
}

// complete fills in what was not stated.
func (e *Executor) complete() error {
	if e.Log == nil {
		e.Log = slog.Default()
	}
	if e.Now == nil {
		e.Now = time.Now
	}
	if e.Address == "" {
		e.Address = "127.0.0.1"
	}
	if e.DataDir == "" {
		e.DataDir = filepath.Join(filepath.Dir(e.EnvDir), "data")
	}
	if e.Node == "" {
		e.Node, _ = os.Hostname()
	}
	for _, dir := range []*string{&e.Dir, &e.EnvDir, &e.DataDir, &e.Binary} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	return os.MkdirAll(e.Dir, 0o700)
}

// probe finds out what can be enforced here.
func (e *Executor) probe() {
	e.gpus = findGPUs()
	if e.Plain {
		e.groups = &hierarchies{}
		e.limits = []string{"Replicas run unconfined, as this platform was told."}
		return
	}
	e.groups = findGroups()
	e.limits = e.groups.limits()
	var why string
	if e.sandbox, why = canSandbox(); !e.sandbox {
		e.limits = append(e.limits, why)
	}
}

// Start asks for a replica. Its folder is there, whole, before its supervisor
// is; the supervisor claims the folder, so that however often and by whomever
// it is started, the program runs once.
func (e *Executor) Start(ctx context.Context, s booster.Spec) error {
	if err := e.begin(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if image := s.Environment.Image; image != "" {
		return mlaas.Invalid("environment.image", "no image: this machine runs processes, not containers", image)
	}
	if _, _, err := mlaas.SplitReplica(s.Fence.Replica); err != nil || !filepath.IsLocal(s.Fence.String()) || strings.ContainsAny(s.Fence.String(), "/\x00") {
		return mlaas.Invalid("fence", "a replica of a run", s.Fence.String())
	}
	e.mu.Lock()
	if e.replicas[s.Fence] != nil {
		e.mu.Unlock()
		return nil
	}
	if slices.Contains(s.Exclude, e.Node) {
		e.mu.Unlock()
		return mlaas.Invalid("exclude", "another node than this machine, which is the only one here", e.Node)
	}
	r := &replica{e: e, folder: filepath.Join(e.Dir, s.Fence.String()), gone: make(chan struct{})}
	r.about = about{Fence: s.Fence, Job: s.Job, Boot: supervisor.Boot(), Created: e.Now().UTC(), Ceiling: s.Ceiling}
	gpus, err := e.takeGPUs(s.Ceiling.GPU, s.Need.GPU)
	if err != nil {
		e.mu.Unlock()
		return err
	}
	r.about.GPUs = gpus
	if e.sandbox {
		r.about.User = e.takeUser(s.Fence)
	}
	e.replicas[s.Fence] = r
	r.life.Lock()
	e.mu.Unlock()
	defer r.life.Unlock()

	if err := r.make(s); err != nil {
		e.mu.Lock()
		delete(e.replicas, s.Fence)
		e.mu.Unlock()
		return fmt.Errorf("replica %s: %w", s.Fence, disk(err))
	}
	e.publish(r, mlaas.ReplicaCreating, "its supervisor is being started", nil)
	r.spawn()
	return nil
}

// disk gives a full disk its kind.
func disk(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", mlaas.ErrDisk, err)
	}
	return err
}

// Stop ends a replica with everything it started. Only what tells of it later
// stays in its folder.
func (e *Executor) Stop(ctx context.Context, f mlaas.Fence) error {
	if err := e.begin(); err != nil {
		return err
	}
	e.mu.Lock()
	r := e.replicas[f]
	e.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.stop(ctx)
}

// Watch sends news of every replica that is there, then each change.
func (e *Executor) Watch(ctx context.Context, out chan<- booster.News) error {
	if err := e.begin(); err != nil {
		return err
	}
	w := &watcher{wake: make(chan struct{}, 1)}
	e.mu.Lock()
	for _, r := range e.replicas {
		if n := r.news; n.Status != "" && n.Status != mlaas.ReplicaStopped {
			w.news = append(w.news, n)
		}
	}
	w.news = append(w.news, booster.News{Synced: true})
	e.watchers[w] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.watchers, w)
		e.mu.Unlock()
	}()
	for {
		e.mu.Lock()
		news := w.news
		w.news = nil
		e.mu.Unlock()
		for _, n := range news {
			select {
			case out <- n:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if len(news) > 0 {
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// publish notes where a replica stands and tells every watcher.
func (e *Executor) publish(r *replica, status mlaas.ReplicaStatus, reason string, exit *int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r.news = booster.News{Fence: r.about.Fence, Status: status, Reason: reason, Node: e.Node, ExitCode: exit,
		NodeLost: status == mlaas.ReplicaLost && reason == restarted}
	for w := range e.watchers {
		w.news = append(w.news, r.news)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Logs returns what the supervisor itself wrote.
func (e *Executor) Logs(ctx context.Context, f mlaas.Fence, follow bool) (io.ReadCloser, error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	file, err := os.Open(filepath.Join(e.Dir, f.String(), supervisor.LogFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replica %s: %w", f, mlaas.ErrNotFound)
	}
	if err != nil || !follow {
		return file, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.replicas[f]; r != nil && !r.final() {
		return &growing{file, ctx, r.gone}, nil
	}
	return file, nil
}

// growEvery is how often a file is looked at that grows: it tells nobody.
const growEvery = 100 * time.Millisecond

// A growing file is read until nothing is added to it any more.
type growing struct {
	*os.File
	ctx  context.Context
	over <-chan struct{}
}

func (g *growing) Read(p []byte) (int, error) {
	for {
		over := false
		select {
		case <-g.over:
			over = true
		default:
		}
		if n, err := g.File.Read(p); n > 0 || over || !errors.Is(err, io.EOF) {
			return n, err
		}
		timer := time.NewTimer(growEvery)
		select {
		case <-timer.C:
		case <-g.over:
		case <-g.ctx.Done():
			timer.Stop()
			return 0, context.Cause(g.ctx)
		}
		timer.Stop()
	}
}

// Exec runs a command inside a running replica, as its program's user.
func (e *Executor) Exec(ctx context.Context, f mlaas.Fence, command []string, in io.Reader, out io.Writer) (int, error) {
	if err := e.begin(); err != nil {
		return 0, err
	}
	e.mu.Lock()
	r := e.replicas[f]
	e.mu.Unlock()
	if r == nil || r.ended() {
		return 0, fmt.Errorf("replica %s does not run: %w", f, mlaas.ErrNotFound)
	}
	if len(command) == 0 {
		return 0, mlaas.Invalid("command", "a command", command)
	}
	return r.exec(ctx, command, in, out)
}

// Capacity tells what this machine has: twice its cores, because most programs
// wait a good part of their time, and four fifths of its memory.
func (e *Executor) Capacity(context.Context) (booster.Capacity, error) {
	if err := e.begin(); err != nil {
		return booster.Capacity{}, err
	}
	total := mlaas.Resources{CPU: 2000 * mlaas.MilliCPU(cores()), Memory: mlaas.Bytes(memory() / 5 * 4)}
	total.GPU.Count = len(e.gpus)
	if len(e.gpus) > 0 {
		total.GPU.Kind = e.gpus[0].Kind
	}
	if e.Total.CPU > 0 {
		total.CPU = e.Total.CPU
	}
	if e.Total.Memory > 0 {
		total.Memory = e.Total.Memory
	}
	if e.Total.GPU.Count > 0 {
		total.GPU = e.Total.GPU
	}
	return booster.Capacity{Node: e.Node, Total: total, Limits: slices.Clone(e.limits)}, nil
}

// Sweep removes what is left of replicas that ended before the given time, and
// data that no replica used since then. It returns how many folders went.
func (e *Executor) Sweep(ctx context.Context, before time.Time) (int, error) {
	if err := e.begin(); err != nil {
		return 0, err
	}
	e.mu.Lock()
	all := make([]*replica, 0, len(e.replicas))
	for _, r := range e.replicas {
		all = append(all, r)
	}
	e.mu.Unlock()
	n := 0
	live := false
	for _, r := range all {
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		end, ok := readEnd(r.folder)
		if !ok || !r.ended() {
			live = true
			continue
		}
		if end.At.After(before) {
			continue
		}
		if err := r.stop(ctx); err != nil {
			return n, err
		}
		if err := os.RemoveAll(r.folder); err != nil {
			return n, err
		}
		e.mu.Lock()
		delete(e.replicas, r.about.Fence)
		e.mu.Unlock()
		n++
	}
	if live { // it may be reading data; there will be a quieter time
		return n, nil
	}
	entries, err := os.ReadDir(e.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	for _, entry := range entries {
		info, e2 := entry.Info()
		if e2 == nil && info.IsDir() && info.ModTime().Before(before) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(e.DataDir, entry.Name())))
			n++
		}
	}
	return n, err
}

// Close forgets the replicas without touching them: they live on, and another
// Executor finds them.
func (e *Executor) Close() error {
	if err := e.begin(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var err error
	for _, r := range e.replicas {
		if r.watch != nil {
			err = errors.Join(err, r.watch.Close())
		}
	}
	return err
}
