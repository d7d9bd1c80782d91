// Command commits measures durable commits of one record and one message: with
// those of many callers grouped in one transaction, against one transaction
// for each, on the same driver and the same disk.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas/bench/rig"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

func main() {
	rounds := flag.Int("rounds", 4, "of each kind, interleaved A B B A")
	each := flag.Duration("for", 2*time.Second, "of one round")
	dir := flag.String("dir", "", "a folder on the disk to be measured; empty: a temporary one")
	flag.Parse()
	ok, err := run(*dir, *rounds, *each)
	if err != nil {
		fmt.Fprintln(os.Stderr, "commits:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

// The smallest ratio that is good enough, for so many callers. One caller has
// nobody to share with: its figure is there to be seen.
var limits = []struct {
	callers int
	ratio   float64
}{{1, 0}, {16, 2.5}, {64, 5}}

type figures struct {
	rate, p99 float64 // commits a second, and milliseconds
	syncs     float64 // for each commit
}

func run(dir string, rounds int, each time.Duration) (ok bool, err error) {
	dir, err = os.MkdirTemp(dir, "mlaas-commits-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	var dbs [2]*sqlitestore.Store // grouped, and each alone
	for i, group := range []int{0, 1} {
		dbs[i], err = sqlitestore.Open(context.Background(), filepath.Join(dir, fmt.Sprint(i)), sqlitestore.Options{Group: group})
		if err != nil {
			return false, err
		}
		defer dbs[i].Close()
		if _, err := measure(dbs[i], 64, each/4, "warm"); err != nil {
			return false, err
		}
	}
	ok = true
	for _, l := range limits {
		var ratios []float64
		var got [2][]figures
		for r := range rounds {
			order := []int{0, 1}
			if r%2 == 1 {
				order = []int{1, 0}
			}
			for _, i := range order {
				f, err := measure(dbs[i], l.callers, each, fmt.Sprintf("%d-%d", l.callers, r))
				if err != nil {
					return false, err
				}
				got[i] = append(got[i], f)
			}
			ratios = append(ratios, got[0][r].rate/got[1][r].rate)
		}
		a, b := median(got[0]), median(got[1])
		holds := rig.Row(fmt.Sprintf("durable commits, %d callers: grouped / one transaction each", l.callers), rig.Median(ratios), l.ratio, "x", false,
			fmt.Sprintf("%.0f/s p99 %.1f ms %.3f syncs each, against %.0f/s p99 %.1f ms", a.rate, a.p99, a.syncs, b.rate, b.p99))
		ok = ok && holds
	}
	return ok, nil
}

func median(all []figures) figures {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b figures) int { return int(a.rate - b.rate) })
	return all[len(all)/2]
}

// measure lets callers commit: each changes its own record of 1 KiB and tells
// a message of 64 bytes about it.
func measure(db *sqlitestore.Store, callers int, each time.Duration, name string) (figures, error) {
	ctx := context.Background()
	data, err := json.Marshal(map[string]string{"text": strings.Repeat("x", 1<<10-len(`{"text":""}`))})
	if err != nil {
		return figures{}, err
	}
	body, err := json.Marshal(map[string]string{"about": strings.Repeat("y", 64-len(`{"about":""}`))})
	if err != nil {
		return figures{}, err
	}
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		times []float64
		fail  error
	)
	before, err := db.Stats(ctx)
	if err != nil {
		return figures{}, err
	}
	began := time.Now()
	for c := range callers {
		all.Go(func() {
			key := store.Key{Kind: "job", Tenant: "team", ID: fmt.Sprintf("%s-%d", name, c)}
			var own []float64
			var err error
			for rev := int64(0); err == nil && time.Since(began) < each; rev++ {
				from := time.Now()
				err = db.Commit(ctx, store.Batch{
					Put:  []store.Row{{Key: key, Rev: rev, Data: data}},
					Tell: []store.Message{{To: "contractor", Subject: "RunAsked", Key: key.ID, Body: body}},
				})
				own = append(own, float64(time.Since(from).Microseconds())/1000)
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, own...)
			if err != nil {
				fail = err
			}
		})
	}
	all.Wait()
	took := time.Since(began).Seconds()
	after, err := db.Stats(ctx)
	if fail != nil || err != nil {
		return figures{}, fmt.Errorf("%w, %w", fail, err)
	}
	return figures{
		rate:  float64(len(times)) / took,
		p99:   rig.Quantile(times, 0.99),
		syncs: float64(after.Syncs-before.Syncs) / float64(after.Commits-before.Commits),
	}, nil
}
