// Command create measures durable job creations over HTTP: with commits
// grouped, against one transaction for each request in the same server.
package main

import (
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"mlaas.dev/mlaas/bench/rig"
)

type figures struct{ rate, p99, syncs float64 }

func main() {
	binary := flag.String("bin", "bin/mlaas", "the mlaas binary")
	rounds := flag.Int("rounds", 4, "of each kind, interleaved A B B A")
	each := flag.Duration("for", 3*time.Second, "of one round")
	flag.Parse()
	if err := run(*binary, *rounds, *each); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(binary string, rounds int, each time.Duration) error {
	grouped, err := rig.Up(binary)
	if err != nil {
		return err
	}
	defer grouped.Close()
	single, err := rig.Up(binary, "--group-commits=false")
	if err != nil {
		return err
	}
	defer single.Close()
	var names atomic.Int64
	for clients, limit := range map[int]float64{16: 2.5, 64: 3} {
		var ratios []float64
		var best, worst []figures
		for r := range rounds {
			order := []*rig.Platform{grouped, single}
			if r%2 == 1 {
				order = []*rig.Platform{single, grouped}
			}
			var got [2]figures
			for _, p := range order {
				f, err := create(p, clients, each, &names)
				if err != nil {
					return err
				}
				if p == grouped {
					got[0] = f
				} else {
					got[1] = f
				}
			}
			ratios = append(ratios, got[0].rate/got[1].rate)
			best, worst = append(best, got[0]), append(worst, got[1])
		}
		pick := func(all []figures, of func(figures) float64) float64 {
			var values []float64
			for _, f := range all {
				values = append(values, of(f))
			}
			return rig.Median(values)
		}
		rate := func(f figures) float64 { return f.rate }
		p99 := func(f figures) float64 { return f.p99 }
		rig.Row(fmt.Sprintf("job creations, %d clients: grouped / one transaction each", clients), rig.Median(ratios), limit, "x", false,
			fmt.Sprintf("%.0f/s p99 %.1f ms against %.0f/s p99 %.1f ms", pick(best, rate), pick(best, p99), pick(worst, rate), pick(worst, p99)))
		if clients == 16 {
			rig.Row("fsyncs for each acknowledged creation, 16 clients", pick(best, func(f figures) float64 { return f.syncs }), 0.25, "", true, "counted by the store")
		}
	}
	return nil
}

func create(p *rig.Platform, clients int, each time.Duration, names *atomic.Int64) (figures, error) {
	before, err := syncs(p)
	if err != nil {
		return figures{}, err
	}
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		times []float64
		fail  error
	)
	began := time.Now()
	for range clients {
		all.Go(func() {
			for time.Since(began) < each {
				from := time.Now()
				err := p.Do("POST", "/api/job", map[string]any{"name": fmt.Sprintf("bench-%d", names.Add(1))}, nil)
				mu.Lock()
				times = append(times, float64(time.Since(from).Microseconds())/1000)
				if err != nil {
					fail = err
				}
				stop := fail != nil
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	all.Wait()
	if fail != nil {
		return figures{}, fail
	}
	took := time.Since(began).Seconds()
	after, err := syncs(p)
	n := float64(len(times))
	return figures{rate: n / took, p99: rig.Quantile(times, 0.99), syncs: (after - before) / n}, err
}

func syncs(p *rig.Platform) (float64, error) {
	var status struct {
		Store struct {
			Syncs float64 `json:"syncs"`
		} `json:"store"`
	}
	err := p.Do("GET", "/api/status", nil, &status)
	return status.Store.Syncs, err
}
