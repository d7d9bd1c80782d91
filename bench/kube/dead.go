//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas/bench/rig"
	"mlaas.dev/mlaas/internal/kubetest"
)

const (
	clusters = 50 // kubeconfigs, onto three API servers
	broken   = 5  // of them: connections are taken, and nothing is ever answered
	begun    = 200
	turns    = 4 // with and without dead ones, so that what else the machine does is in both
)

// server finds the address of the API server in a kubeconfig.
var server = regexp.MustCompile(`https://([0-9.]+:[0-9]+)`)

// A relay stands for an API server at an address of its own.
type relay struct {
	net.Listener
	to string // empty: it never answers
}

func (r relay) serve() {
	for {
		in, err := r.Accept()
		if err != nil {
			return
		}
		if r.to == "" {
			continue // it stays open until this process ends
		}
		go func() {
			defer in.Close()
			out, err := net.Dial("tcp", r.to)
			if err != nil {
				return
			}
			go func() {
				defer out.Close()
				_, _ = io.Copy(out, in)
			}()
			_, _ = io.Copy(in, out)
		}()
	}
}

// dead measures how soon many clusters are connected of which some are dead,
// and what the dead ones cost the others, against a platform that has none.
func (b *bench) dead(ctx context.Context) error {
	servers := []string{"a", "b", "c"}
	all, err := fakes(ctx, servers, 10)
	if err != nil {
		return err
	}
	defer end(all) //nolint:errcheck // what was measured stands
	var configs [][]byte
	for i := range clusters {
		c := all[servers[i%len(servers)]]
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer listener.Close()
		at := server.FindSubmatch(c.Kubeconfig())
		if at == nil {
			return errors.New("the kubeconfig names no API server")
		}
		r := relay{Listener: listener, to: string(at[1])}
		if i >= clusters-broken {
			r.to = ""
		}
		go r.serve()
		configs = append(configs, bytes.ReplaceAll(c.Kubeconfig(), at[1], []byte(listener.Addr().String())))
	}
	var connected time.Duration
	var base, some []float64
	for range turns {
		_, took, err := b.starting(ctx, "well", all, configs[:clusters-broken], clusters-broken)
		if err != nil {
			return err
		}
		base = append(base, took...)
		if err := clear(ctx, all); err != nil {
			return err
		}
		within, took, err := b.starting(ctx, "ill", all, configs, clusters-broken)
		if err != nil {
			return err
		}
		some, connected = append(some, took...), max(connected, within)
		if err := clear(ctx, all); err != nil {
			return err
		}
	}
	rig.Row(fmt.Sprintf("%d clusters added, %d dead -> the others are connected", clusters, broken), connected.Seconds(), 3, "s", true, fmt.Sprintf("from the first request to the last word, the slowest of %d times", turns))
	m, n := rig.Median(some), rig.Median(base)
	rig.Row("a start elsewhere, against no dead cluster (median)", m/n, 1.1, "x", true, fmt.Sprintf("%.0f ms against %.0f ms, n=%d", 1000*m, 1000*n, begun))
	m, n = rig.Quantile(some, 0.99), rig.Quantile(base, 0.99)
	rig.Row("a start elsewhere, against no dead cluster (p99)", m/n, 1.5, "x", true, fmt.Sprintf("%.0f ms against %.0f ms", 1000*m, 1000*n))
	return nil
}

// starting has a platform of its own serve the clusters of the kubeconfigs. It
// returns after how long the live ones, which come first, were up, and how long
// each of many starts took until its pod ran.
func (b *bench) starting(ctx context.Context, prefix string, all map[string]*kubetest.Cluster, configs [][]byte, live int) (connected time.Duration, took []float64, err error) {
	s, err := b.stage(ctx)
	if err != nil {
		return 0, nil, err
	}
	defer s.Close()
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	name := func(i int) string { return fmt.Sprintf("%s-%d", prefix, i) }
	for i := len(configs) - 1; i >= 0; i-- { // the dead ones first
		g.Go(func() error {
			if err := s.add(name(i), configs[i], "127.0.0.1:1"); err != nil || i >= live {
				return err
			}
			return s.up(gctx, name(i))
		})
	}
	if err := g.Wait(); err != nil {
		return 0, nil, err
	}
	connected = time.Since(began)
	if err := s.job("short", "print(1)\n"); err != nil {
		return 0, nil, err
	}
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	w := watchAll(within, all)
	for range begun / turns {
		var run struct{ ID string }
		asked := time.Now()
		if err := s.Do(http.MethodPost, "/api/job/short/run", map[string]any{}, &run); err != nil {
			return 0, nil, err
		}
		var first time.Time
		if err := w.until(ctx, func() bool {
			first = w.first[run.ID]
			return !first.IsZero()
		}); err != nil {
			return 0, nil, err
		}
		took = append(took, first.Sub(asked).Seconds())
		if err := s.Do(http.MethodPost, "/api/job/short/stop?run="+run.ID, nil, nil); err != nil {
			return 0, nil, err
		}
	}
	return connected, took, nil
}
