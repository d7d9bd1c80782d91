package main

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/kube"
	"mlaas.dev/mlaas/booster/remote"
	"mlaas.dev/mlaas/health"
)

// An inside is what a booster is told that is inside a cluster nobody reaches.
type inside struct {
	gateways  []string
	tokenFile string
	on        string
	door      string
}

// check reports what is wrong with it.
func (x inside) check() error {
	for _, g := range x.gateways {
		if u, err := url.Parse(g); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return mlaas.Invalid("--gateway", "the URL of a booster, such as https://booster.example.org", g)
		}
	}
	switch {
	case x.tokenFile == "":
		return tell{What: "a booster inside a cluster shows a token to its gateway, and none is named", Why: "--cluster-token-file is not set",
			Fix: "make one where the platform is administered:   mlaas cluster token NAME --file NAME.token", Kind: mlaas.ErrInvalid}
	case x.on != "local" && x.on != "kubernetes":
		return mlaas.Invalid("--on", `"local" or "kubernetes"`, x.on)
	case x.on == "kubernetes" && x.door == "":
		return mlaas.Invalid("--door", "the URL of this process as replicas see it, such as http://mlaas-booster.mlaas.svc:7482", x.door)
	}
	return nil
}

// runInside is a booster without a store: it calls a gateway, and is the door of
// the replicas here.
func runInside(ctx context.Context, s *service, x boosterFlags, give share) error {
	if len(x.clusters) != 1 {
		return mlaas.Invalid("--cluster", "the name of the one cluster that this booster is inside of", x.clusters)
	}
	if err := x.inside.check(); err != nil {
		return err
	}
	token, err := readLine(x.inside.tokenFile)
	if err != nil {
		return err
	}
	ca, err := readCA(x.ca)
	if err != nil {
		return err
	}
	out, err := s.transport()
	if err != nil {
		return err
	}
	l, err := s.listener()
	if err != nil {
		return err
	}
	name := x.clusters[0]
	agent := &remote.Agent{Gateways: x.inside.gateways, Cluster: name, Token: token, ID: s.ID, Door: x.inside.door, HTTP: &http.Client{Transport: out}, Log: s.Log}
	parts := map[string]func(context.Context) error{"agent": agent.Run}
	switch x.inside.on {
	case "kubernetes":
		access, err := kube.InCluster()
		if err != nil {
			l.Close()
			return err
		}
		agent.Open = func(settings mlaas.KubeSettings) (booster.Executor, error) {
			if err := settings.Check(); err != nil {
				return nil, err
			}
			return &kube.Executor{Access: access, Cluster: name, Settings: settings, DoorCA: ca, Log: s.Log}, nil
		}
	default:
		here, err := s.here(agent, give)
		if err != nil {
			l.Close()
			return err
		}
		defer here.close()
		parts["door"] = here.run
	}
	s.prober(health.Disk(s.Dir), health.Check{Name: "gateway", Do: func(context.Context) (string, error) { return "connected", agent.Connected() }})
	mux := s.internalAPI(nil)
	mux.Handle("/door/", agent.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return s.serve(ctx, l, server, nil, nil, parts)
}

// A hereabouts is this machine, for an agent.
type hereabouts struct {
	run   func(context.Context) error
	close func()
}

// here makes this machine the place of an agent.
func (s *service) here(agent *remote.Agent, give share) (hereabouts, error) {
	for _, sub := range []string{"door", "replicas", "env"} {
		// Others may pass through: replicas run as users of their own.
		if err := os.MkdirAll(filepath.Join(s.Dir, sub), 0o711); err != nil {
			return hereabouts{}, err
		}
	}
	binary, err := os.Executable()
	if err != nil {
		return hereabouts{}, err
	}
	x, err := give.executor(s.Dir, binary, s.Log)
	if err != nil {
		return hereabouts{}, err
	}
	door, err := openDoor(s.Dir)
	if err != nil {
		return hereabouts{}, errors.Join(err, x.Close())
	}
	agent.Door = doorAt(s.Dir)
	agent.Open = func(mlaas.KubeSettings) (booster.Executor, error) { return x, nil }
	run := func(ctx context.Context) error {
		all, ctx := errgroup.WithContext(ctx)
		server := &http.Server{Handler: agent.Handler(), ReadHeaderTimeout: 10 * time.Second}
		all.Go(func() error { return (platform{Dir: s.Dir, Log: s.Log}).keepDoor(ctx, server, door, doorEvery) })
		all.Go(func() error {
			for wait := time.Hour; ; wait = 24 * time.Hour {
				timer := time.NewTimer(wait)
				select {
				case <-ctx.Done():
					timer.Stop()
					return context.Cause(ctx)
				case <-timer.C:
				}
				if _, err := x.Sweep(ctx, time.Now().Add(-keepReplicas)); err != nil && ctx.Err() == nil {
					s.Log.Warn("what ended replicas left could not be swept; tomorrow again", "error", err)
				}
			}
		})
		return all.Wait()
	}
	return hereabouts{run, func() { x.Close() }}, nil
}
