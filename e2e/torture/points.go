package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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
	lists map[*layout.Process]string // of the points that each passed
}

func (*Points) Name() string { return "crash at each failpoint" }

func (*Points) Fits(s *Stage) error {
	_, err := os.Stat(s.Failpoints)
	return err
}

// How long the points are listened for, and how long one is waited for. Where
// several may do what one alone must, it is some seconds after a crash until
// one does.
const (
	pointsListen   = 8 * time.Second
	pointsPatience = 12 * time.Second
	leaseTime      = 14 * time.Second
	shortPoints    = 4 // of each kind of process, where time is short and leases cost it
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
		p.Kill()
		p.Command[0] = binary
		if err := p.Start(ctx, "MLAAS_FAILPOINT_LIST="+f.lists[p]); err != nil {
			return err
		}
	}
	select {
	case <-time.After(pointsListen + leaseTimeOf(s)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Meanwhile crashes each process at each of its points; where two are of one
// kind, they share them. Nobody may miss a point that was passed before where
// there is one process.
func (f *Points) Meanwhile(ctx context.Context, s *Stage, tally *Tally) {
	var all sync.WaitGroup
	var mu sync.Mutex // of s.points
	found := 0
	for _, kind := range []string{"platform", "management", "contractor", "booster"} {
		twins := s.platform.Processes(kind)
		var points []string
		for _, p := range twins {
			text, err := os.ReadFile(f.lists[p])
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				tally.illegal("the failpoints of %s: %v", p.Name, err)
			}
			points = append(points, strings.Fields(string(text))...)
		}
		slices.Sort(points)
		points = slices.Compact(points)
		found += len(points)
		if s.Short { // what another layout was crashed at is the same code
			points = slices.DeleteFunc(points, func(p string) bool { return s.Known[p] })
			random := rand.New(rand.NewPCG(s.Random.Uint64(), 1))
			random.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
			if s.Kind != layout.One {
				points = points[:min(len(points), shortPoints)]
			}
		}
		for i, p := range twins {
			random := rand.New(rand.NewPCG(s.Random.Uint64(), 0))
			if s.Kind != layout.One {
				all.Wait() // where two crash all the time, neither gets anywhere: one after the other
			}
			all.Go(func() {
				nth := 1
				if s.Kind == layout.One { // else it would take too long to come there so often
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
		err := p.Start(ctx, fmt.Sprintf("MLAAS_FAILPOINT=%s#%d", point, n))
		if early, ok := errors.AsType[*layout.EarlyEnd](err); ok && early.Killed() {
			return nil // it came there before it served
		}
		if err != nil {
			return err
		}
		select {
		case <-p.Ended():
			return nil
		case <-time.After(patience):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("%s passed %s and never came there again", p.Name, point)
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
		if err := p.Start(ctx, "MLAAS_FAULT_MESSAGES=dup:0.3,late:0.3"); err != nil {
			return err
		}
	}
	return nil
}

func (*Disorder) Lasts(*rand.Rand) time.Duration { return 8 * time.Second }

func (f *Disorder) Heal(ctx context.Context, s *Stage) error { return f.points.Heal(ctx, s) }
