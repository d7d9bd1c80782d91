package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas/e2e/layout"
)

// Points crashes the services at each failpoint that they pass, with clients at
// work all the while. Which those are is found out first, by letting them work
// without a crash.
type Points struct {
	Source []string                   // the names of all failpoints; empty: they are not known
	lists  map[*layout.Process]string // of the points that each passed
}

func (*Points) Name() string { return "crash at each failpoint" }

func (*Points) Fits(s *Stage) error {
	_, err := os.Stat(s.Failpoints)
	return err
}

// How long the points are listened for at most, and how long one is waited for.
// Where several may do what one alone must, it is some seconds after a crash
// until one does.
const (
	pointsListen   = 15 * time.Second
	pointsPatience = 12 * time.Second
	leaseTime      = 14 * time.Second
)

func leaseTimeOf(s *Stage) time.Duration {
	if s.Kind == layout.One {
		return 0
	}
	return leaseTime
}

func (f *Points) Inject(ctx context.Context, s *Stage) error {
	binary, err := filepath.Abs(s.Failpoints)
	if err != nil {
		return err
	}
	f.lists = map[*layout.Process]string{}
	for _, p := range s.platform.Services() {
		f.lists[p] = filepath.Join(s.dir, "points-"+p.Name)
		os.Remove(f.lists[p])
		if s.Kind != layout.One {
			p.Term(drainPatience) // which gives its leases up at once
		}
		p.Kill()
		p.Command[0] = binary
		if err := p.Start(ctx, "MLAAS_FAILPOINT_LIST="+f.lists[p]); err != nil {
			return err
		}
	}
	late := time.After(pointsListen + leaseTimeOf(s))
	for {
		passed, err := f.passed(s)
		if err != nil {
			return err
		}
		if s.Short && len(f.Source) > 0 && !slices.ContainsFunc(f.Source, func(point string) bool {
			return !s.Known[point] && in(s, point) && provoked[point] == "" && !slices.ContainsFunc(kinds, func(kind string) bool { return slices.Contains(passed[kind], point) })
		}) {
			return nil // nothing more can come that is not known
		}
		select {
		case <-late:
			return nil
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// kinds of processes that pass failpoints. One that holds no lease comes first:
// it is at work again at once.
var kinds = []string{"platform", "management", "contractor", "booster"}

// passed are the points that each kind of process has passed.
func (f *Points) passed(s *Stage) (map[string][]string, error) {
	passed := map[string][]string{}
	for _, kind := range kinds {
		for _, p := range s.platform.Processes(kind) {
			text, err := os.ReadFile(f.lists[p])
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("the failpoints of %s: %w", p.Name, err)
			}
			passed[kind] = append(passed[kind], strings.Fields(string(text))...)
		}
		slices.Sort(passed[kind])
		passed[kind] = slices.Compact(passed[kind])
	}
	return passed, nil
}

// in reports whether a point is of a driver that this layout has.
func in(s *Stage, point string) bool {
	for prefix, one := range map[string]bool{"blob.s3.": false, "series.seal.objects": false, "blob.place.": true, "store.checkpoint.": true} {
		if strings.HasPrefix(point, prefix) {
			return one == (s.Kind == layout.One)
		}
	}
	return true
}

// provoked are points to which no load leads, and what does: how the binary is
// told to bring about that which leads there.
var provoked = map[string]string{"queue.retry.before": "MLAAS_FAULT_MESSAGES=refuse:0.2"}

// Meanwhile crashes each process at each of its points; where two are of one
// kind, they share them. Nobody may miss a point that was passed before where
// there is one process.
func (f *Points) Meanwhile(ctx context.Context, s *Stage, tally *Tally) {
	passed, err := f.passed(s)
	if err != nil {
		tally.illegal("%v", err)
		return
	}
	var all sync.WaitGroup
	var mu sync.Mutex // of s.points
	found := 0
	taken := map[string]bool{}
	for _, kind := range kinds {
		twins, points := s.platform.Processes(kind), passed[kind]
		found += len(points)
		if kind != "management" && len(twins) > 0 { // which hears no message
			points = slices.Sorted(maps.Keys(provoked))
			points = slices.Compact(slices.Sorted(slices.Values(append(points, passed[kind]...))))
		}
		if s.Short { // what another layout was crashed at is the same code, and so is what another kind was
			points = slices.DeleteFunc(points, func(p string) bool { return s.Known[p] || taken[p] })
			for _, p := range points {
				taken[p] = true
			}
		}
		for i, p := range twins {
			random := rand.New(rand.NewPCG(s.Random.Uint64(), 0))
			if s.Kind != layout.One {
				all.Wait() // where two crash all the time, neither gets anywhere: one after the other
			}
			all.Go(func() {
				nth := 1
				if s.Kind == layout.One && !s.Short { // else it would take too long to come there so often
					nth += random.IntN(3)
				}
				for n := i; n < len(points) && ctx.Err() == nil; n += len(twins) {
					err := f.crash(ctx, p, points[n], nth, pointsPatience+leaseTimeOf(s))
					mu.Lock()
					switch {
					case err == nil:
						s.points[kind+" "+points[n]]++
					case s.Kind == layout.One:
						tally.illegal("%v", err)
					default: // which of several does the work is for their leases to say
						s.did("  %v", err)
					}
					mu.Unlock()
				}
				if i >= len(points) || s.Short {
					return // the next ones have few points, and live on what is under way
				}
				// Without it the next ones would have nothing to do.
				if err := again(ctx, p); err != nil && ctx.Err() == nil {
					tally.illegal("after its last failpoint: %v", err)
				}
			})
		}
	}
	all.Wait()
	if crashed := len(s.points); ctx.Err() == nil && crashed == 0 {
		tally.illegal("nothing crashed at any of %d failpoints", found)
	}
	if found < 6 {
		tally.illegal("only %d failpoints were passed: is %s built with -tags failpoints?", found, s.Failpoints)
	}
	s.did("  %d points", found)
}

// crash lets a process die at a point, the nth time that it comes there; if
// it does not come so often, the first time.
func (*Points) crash(ctx context.Context, p *layout.Process, point string, nth int, patience time.Duration) error {
	for _, n := range slices.Compact([]int{nth, 1}) {
		p.Kill()
		env := []string{fmt.Sprintf("MLAAS_FAILPOINT=%s#%d", point, n)}
		if more := provoked[point]; more != "" {
			env = append(env, more)
		}
		err := p.Start(ctx, env...)
		if early, ok := errors.AsType[*layout.EarlyEnd](err); ok && early.Killed() {
			return nil // it came there before it served
		}
		if err != nil {
			return err
		}
		ended := false
		select {
		case <-p.Ended():
			ended = true
		case <-time.After(patience):
		case <-ctx.Done():
		}
		switch {
		case ended && !p.Killed():
			return fmt.Errorf("%s ended by itself before it came to %s", p.Name, point)
		case ended:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
	return fmt.Errorf("%s passed %s and never came there again", p.Name, point)
}

// again starts a process that dies at no point any more.
func again(ctx context.Context, p *layout.Process) error {
	p.Kill()
	return p.Start(ctx)
}

func (f *Points) Heal(ctx context.Context, s *Stage) error {
	release, err := filepath.Abs(s.Binary)
	if err != nil {
		return err
	}
	for _, p := range s.platform.Services() {
		p.Kill()
		p.Command[0] = release
	}
	return s.platform.Restart(ctx)
}

// pointsOf are the names of the failpoints in the source; none where it is not
// there.
func pointsOf(source string) (names []string, err error) {
	hit := regexp.MustCompile(`failpoint\.Hit\("([^"]+)"\)`)
	err = filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range hit.FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
		return err
	})
	slices.Sort(names)
	return slices.Compact(names), err
}

// Disorder lets the messages between the services come twice, late, and in
// another order. It is a mode of the binary with failpoints.
type Disorder struct{ points Points }

func (*Disorder) Name() string { return "messages twice, late, in disorder" }

func (*Disorder) Fits(s *Stage) error { return (*Points)(nil).Fits(s) }

func (f *Disorder) Inject(ctx context.Context, s *Stage) error {
	binary, err := filepath.Abs(s.Failpoints)
	if err != nil {
		return err
	}
	for _, p := range s.platform.Services() {
		p.Kill()
		p.Command[0] = binary
		if err := p.Start(ctx, "MLAAS_FAULT_MESSAGES=dup:0.3,late:0.3,refuse:0.05"); err != nil {
			return err
		}
	}
	return nil
}

func (*Disorder) Lasts(*rand.Rand) time.Duration { return 8 * time.Second }

func (f *Disorder) Heal(ctx context.Context, s *Stage) error { return f.points.Heal(ctx, s) }
