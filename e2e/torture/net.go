package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"mlaas.dev/mlaas/e2e/layout"
	"mlaas.dev/mlaas/internal/link"
)

// Bad is a wire between the services and a server under them that is bad in
// one way for a while.
type Bad struct {
	What    string
	Link    string // "store" or "blob"
	Weather link.Weather
}

// bads are all ways in which a wire is bad here.
func bads() (all []Fault) {
	for _, name := range []string{"store", "blob"} {
		all = append(all,
			&Bad{"slow wire", name, link.Weather{Delay: 200 * time.Millisecond}},
			&Bad{"half-open wire", name, link.Weather{Silent: true}},
			&Bad{"wire deaf one way", name, link.Weather{Silent: true, Up: true}},
			&Bad{"wire mute the other way", name, link.Weather{Silent: true, Down: true}},
			&Bad{"wire cut", name, link.Weather{Refuse: true}})
	}
	return all
}

func (b *Bad) Name() string { return b.What + " to the " + b.Link }

func (b *Bad) Fits(s *Stage) error {
	if s.platform.Links[b.Link] == nil {
		return errElsewhere
	}
	return nil
}

func (b *Bad) Inject(_ context.Context, s *Stage) error {
	s.platform.Links[b.Link].Set(b.Weather)
	return nil
}

func (b *Bad) Heal(_ context.Context, s *Stage) error {
	s.platform.Links[b.Link].Set(link.Weather{})
	return nil
}

func (b *Bad) Lasts(random *rand.Rand) time.Duration {
	return 3*time.Second + time.Duration(random.IntN(5000))*time.Millisecond
}

// Partition drops what one machine of services sends to a server under them,
// or what it is answered, or both, in the kernel: nobody is told.
type Partition struct {
	What          string
	To            string // "store" or "blob"
	There, Back   bool   // which way is cut
	machine, with *layout.Machine
}

func partitions() (all []Fault) {
	for _, to := range []string{"store", "blob"} {
		all = append(all,
			&Partition{What: "partition", To: to, There: true, Back: true},
			&Partition{What: "one-way partition, requests lost,", To: to, There: true},
			&Partition{What: "one-way partition, answers lost,", To: to, Back: true})
	}
	return all
}

func (p *Partition) Name() string { return p.What + " from the " + p.To }

func (p *Partition) Fits(s *Stage) error {
	if why := s.cannot["network"]; why != "" {
		return errors.New(why)
	}
	if _, ok := s.net.Machine(p.To); !ok {
		return errElsewhere
	}
	return nil
}

func (p *Partition) Inject(_ context.Context, s *Stage) error {
	services := s.net.Named("services-")
	p.machine = services[s.Random.IntN(len(services))]
	p.with, _ = s.net.Machine(p.To)
	s.did("  it was %s", p.machine.Name)
	var errs []error
	if p.There {
		errs = append(errs, p.with.Deafen(p.machine.Host()))
	}
	if p.Back {
		errs = append(errs, p.machine.Deafen(p.with.Host()))
	}
	return errors.Join(errs...)
}

func (p *Partition) Heal(context.Context, *Stage) error {
	return errors.Join(p.machine.Heal(), p.with.Heal())
}

func (p *Partition) Lasts(random *rand.Rand) time.Duration {
	return 3*time.Second + time.Duration(random.IntN(12_000))*time.Millisecond
}

// Failover kills the store's primary for so long that the sentinels promote its
// replica, and then starts it again.
type Failover struct {
	killed *layout.Process
}

func (*Failover) Name() string { return "failover of the store" }

func (*Failover) Fits(s *Stage) error { return has(s, "replica") }

// failoverPatience is how long the sentinels may take.
const failoverPatience = 30 * time.Second

func (f *Failover) Inject(ctx context.Context, s *Stage) error {
	primary, replica, err := f.roles(ctx, s)
	if err != nil {
		return err
	}
	f.killed = primary
	primary.Kill()
	s.did("  it was %s", primary.Name)
	late := time.After(failoverPatience)
	for {
		if role, err := f.role(ctx, s, replica); err == nil && role == "master" {
			s.did("  %s is the primary now", replica.Name)
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-late:
			return fmt.Errorf("%s was not promoted in %v", replica.Name, failoverPatience)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *Failover) Heal(ctx context.Context, _ *Stage) error { return f.killed.Start(ctx) }

// roles finds out which of the two is which.
func (f *Failover) roles(ctx context.Context, s *Stage) (primary, replica *layout.Process, err error) {
	one, two := s.platform.Processes("store")[0], s.platform.Processes("replica")[0]
	role, err := f.role(ctx, s, two)
	if err == nil && role == "master" {
		return two, one, nil
	}
	return one, two, err
}

// role asks a server what it is.
func (*Failover) role(ctx context.Context, s *Stage, p *layout.Process) (string, error) {
	password, err := s.platform.Password()
	if err != nil {
		return "", err
	}
	c := redis.NewClient(&redis.Options{Addr: p.Dial, Password: password, MaxRetries: -1,
		Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
			return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, address)
		}})
	defer c.Close()
	text, err := c.Info(ctx, "replication").Result()
	for line := range strings.Lines(text) {
		if role, ok := strings.CutPrefix(line, "role:"); ok {
			return strings.TrimSpace(role), nil
		}
	}
	return "", errors.Join(err, errors.New("it does not say what it is"))
}
