package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"mlaas.dev/mlaas/e2e/layout"
)

// Kill is kill -9 of one process of a kind, which is started again.
type Kill struct {
	Kind string
	one  *layout.Process
}

func (k *Kill) Name() string { return "kill -9 of " + k.Kind }

func (k *Kill) Fits(s *Stage) error { return has(s, k.Kind) }

func (k *Kill) Inject(_ context.Context, s *Stage) error {
	k.one = choose(s, k.Kind)
	k.one.Kill()
	s.did("  it was %s", k.one.Name)
	return nil
}

func (k *Kill) Heal(ctx context.Context, _ *Stage) error { return k.one.Start(ctx) }

func (k *Kill) Lasts(random *rand.Rand) time.Duration {
	return time.Duration(random.IntN(1500)) * time.Millisecond
}

func has(s *Stage, kind string) error {
	if len(s.platform.Processes(kind)) == 0 {
		return errElsewhere
	}
	return nil
}

func choose(s *Stage, kind string) *layout.Process {
	some := s.platform.Processes(kind)
	return some[s.Random.IntN(len(some))]
}

// KillAll is kill -9 of every process of the platform at once; what is under
// it stays.
type KillAll struct{}

func (KillAll) Name() string { return "kill -9 of all services at once" }

func (KillAll) Fits(s *Stage) error {
	if s.Kind == layout.One {
		return errElsewhere // it is the same as of the platform
	}
	return nil
}

func (KillAll) Inject(_ context.Context, s *Stage) error {
	s.platform.Crash()
	return nil
}

func (KillAll) Heal(ctx context.Context, s *Stage) error { return s.platform.Restart(ctx) }

// Pause is SIGSTOP of one process for some seconds, as a machine does that
// swaps or is moved.
type Pause struct {
	Kind string
	one  *layout.Process
}

func (p *Pause) Name() string { return "SIGSTOP of " + p.Kind }

func (p *Pause) Fits(s *Stage) error { return has(s, p.Kind) }

func (p *Pause) Inject(_ context.Context, s *Stage) error {
	p.one = choose(s, p.Kind)
	s.did("  it was %s", p.one.Name)
	return p.one.Signal(syscall.SIGSTOP)
}

func (p *Pause) Heal(context.Context, *Stage) error { return p.one.Signal(syscall.SIGCONT) }

func (p *Pause) Lasts(random *rand.Rand) time.Duration {
	return time.Second + time.Duration(random.IntN(5000))*time.Millisecond
}

// Drain is SIGTERM of one service, and its successor at once: nothing that was
// asked may fail in a way that a client that asks again does not get over.
type Drain struct {
	Kind string
	one  *layout.Process
}

func (d *Drain) Name() string { return "SIGTERM of " + d.Kind }

func (d *Drain) Fits(s *Stage) error { return has(s, d.Kind) }

// drainPatience is what a service may take to end by itself.
const drainPatience = 20 * time.Second

func (d *Drain) Inject(_ context.Context, s *Stage) error {
	d.one = choose(s, d.Kind)
	began := time.Now()
	if err := d.one.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-d.one.Ended():
		s.did("  %s ended after %.1f s", d.one.Name, time.Since(began).Seconds())
		return nil
	case <-time.After(drainPatience):
		d.one.Kill()
		return fmt.Errorf("%s had not ended %v after SIGTERM", d.one.Name, drainPatience)
	}
}

func (d *Drain) Heal(ctx context.Context, _ *Stage) error { return d.one.Start(ctx) }
