// Command redis measures redisstore against what the same server does bare, in
// one run: commits of a record and a message against SETs of the same bytes,
// and the way from a commit to a handler in another process against XADD and
// XREADGROUP.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"mlaas.dev/mlaas/bench/rig"
	"mlaas.dev/mlaas/internal/redistest"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/redisstore"
)

func main() {
	rounds := flag.Int("rounds", 4, "of each kind, interleaved A B B A")
	each := flag.Duration("for", 2*time.Second, "of one round of commits")
	ways := flag.Int("ways", 1000, "messages in one round from commit to handler")
	dir := flag.String("dir", "", "a folder on the disk to be measured; empty: a temporary one")
	role := flag.String("hear", "", "internal: be the other process, and hear by store or stream")
	url := flag.String("url", "", "internal: of the server")
	flag.Parse()
	if *role != "" {
		if err := hear(*role, *url); err != nil {
			fmt.Fprintln(os.Stderr, "redis:", err)
			os.Exit(1)
		}
		return
	}
	ok, err := run(*dir, *rounds, *each, *ways)
	if err != nil {
		fmt.Fprintln(os.Stderr, "redis:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

const (
	recordBytes = 1 << 10
	bodyBytes   = 64

	atLeast = 0.5 // commits for each SET, with 64 callers
	atMost  = 5   // p99 from commit to handler, in that of XADD to XREADGROUP
)

func run(dir string, rounds int, each time.Duration, ways int) (ok bool, err error) {
	dir, err = os.MkdirTemp(dir, "mlaas-redis-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	server := &redistest.Server{}
	if err := server.Start(filepath.Join(dir, "redis")); err != nil {
		return false, err
	}
	defer server.Close()
	options, err := redis.ParseURL(strings.TrimSuffix(server.URL("0"), "/0"))
	if err != nil {
		return false, err
	}
	options.PoolSize = 64
	bare := redis.NewClient(options)
	defer bare.Close()
	db, err := redisstore.Open(context.Background(), server.URL("bench"), redisstore.Options{})
	if err != nil {
		return false, err
	}
	defer db.Close()

	ok = true
	for _, l := range []struct {
		callers int
		ratio   float64
	}{{1, 0}, {16, 0}, {64, atLeast}} {
		var ratios, rates, sets, p99s []float64
		for r := -1; r < rounds; r++ { // one to warm up
			var got [2]figures
			for i := range got {
				i := i ^ (r & 1)
				if i == 0 {
					got[i], err = many(l.callers, each, commits(db, fmt.Sprintf("%d-%d", l.callers, r)))
				} else {
					got[i], err = many(l.callers, each, setting(bare))
				}
				if err != nil {
					return false, err
				}
			}
			if r >= 0 {
				ratios = append(ratios, got[0].rate/got[1].rate)
				rates, sets, p99s = append(rates, got[0].rate), append(sets, got[1].rate), append(p99s, got[0].p99)
			}
		}
		holds := rig.Row(fmt.Sprintf("redis, %d callers: commits / bare SETs of the same bytes", l.callers), rig.Median(ratios), l.ratio, "x", false,
			fmt.Sprintf("%.0f/s p99 %.1f ms, against %.0f/s", rig.Median(rates), rig.Median(p99s), rig.Median(sets)))
		ok = ok && holds
	}

	var got [2][]float64
	for r := range rounds {
		for i := range got {
			i := i ^ (r & 1)
			times, err := way(server, db, bare, []string{"store", "stream"}[i], ways)
			if err != nil {
				return false, err
			}
			got[i] = append(got[i], times...)
		}
	}
	a, b := rig.Quantile(got[0], 0.99), rig.Quantile(got[1], 0.99)
	holds := rig.Row("redis: p99 commit to handler / XADD to XREADGROUP, two processes", a/b, atMost, "x", true,
		fmt.Sprintf("%.2f ms (p50 %.2f), against %.2f ms (p50 %.2f)", a, rig.Quantile(got[0], 0.5), b, rig.Quantile(got[1], 0.5)))
	return ok && holds, nil
}

type figures struct{ rate, p99 float64 } // a second, and milliseconds

// many lets callers do things one after another each.
func many(callers int, each time.Duration, do func(caller, n int) error) (figures, error) {
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		times []float64
		fail  error
	)
	began := time.Now()
	for c := range callers {
		all.Go(func() {
			var own []float64
			var err error
			for n := 0; err == nil && time.Since(began) < each; n++ {
				from := time.Now()
				err = do(c, n)
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
	return figures{float64(len(times)) / time.Since(began).Seconds(), rig.Quantile(times, 0.99)}, fail
}

// commits changes a record of the caller's own and tells a message about it.
func commits(db *redisstore.Store, name string) func(caller, n int) error {
	data := object("text", recordBytes)
	body := object("about", bodyBytes)
	return func(caller, n int) error {
		key := store.Key{Kind: "job", Tenant: "team", ID: fmt.Sprintf("%s-%d", name, caller)}
		return db.Commit(context.Background(), store.Batch{
			Put:  []store.Row{{Key: key, Rev: int64(n), Data: data}},
			Tell: []store.Message{{To: "contractor", Subject: "RunAsked", Key: key.ID, Body: body}},
		})
	}
}

func object(name string, size int) json.RawMessage {
	return json.RawMessage(`{"` + name + `":"` + strings.Repeat("x", size-len(name)-len(`{"":""}`)) + `"}`)
}

func setting(bare *redis.Client) func(caller, n int) error {
	value := strings.Repeat("x", recordBytes+bodyBytes)
	return func(caller, _ int) error {
		return bare.Set(context.Background(), "bare:"+strconv.Itoa(caller), value, 0).Err()
	}
}

// Said is a message that knows when it was sent.
type Said struct{ At int64 }

func (Said) To() string  { return "bench" }
func (Said) Key() string { return "" }

// way sends messages to another process, each when the one before has come,
// and returns what each took, in milliseconds.
func way(server *redistest.Server, db *redisstore.Store, bare *redis.Client, role string, ways int) ([]float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	other := exec.CommandContext(ctx, os.Args[0], "-hear", role, "-url", server.URL("bench"))
	other.Stderr = os.Stderr
	out, err := other.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := other.Start(); err != nil {
		return nil, err
	}
	defer func() {
		other.Process.Kill()
		other.Wait()
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return nil, fmt.Errorf("the other process ended")
	}
	var times []float64
	for n := range ways + ways/10 {
		at := time.Now().UnixNano()
		if role == "store" {
			err = db.Commit(ctx, store.Batch{Tell: []store.Message{queue.Tell(Said{at})}})
		} else {
			err = bare.XAdd(ctx, &redis.XAddArgs{Stream: "stream", Values: []any{"at", at, "body", strings.Repeat("x", bodyBytes)}}).Err()
		}
		if err != nil {
			return nil, err
		}
		if !lines.Scan() {
			return nil, fmt.Errorf("the other process ended")
		}
		took, err := strconv.ParseFloat(lines.Text(), 64)
		if err != nil {
			return nil, err
		}
		if n >= ways/10 { // the first ones warm it up
			times = append(times, took)
		}
	}
	return times, nil
}

// hear is the other process: it prints how long each message was on its way
// when the handler has it.
func hear(role, url string) error {
	ctx := context.Background()
	came := func(at int64) { fmt.Printf("%.4f\n", float64(time.Now().UnixNano()-at)/1e6) }
	if role == "store" {
		db, err := redisstore.Open(ctx, url, redisstore.Options{})
		if err != nil {
			return err
		}
		in := &queue.Inbox{DB: db, Name: Said{}.To(), Log: slog.New(slog.DiscardHandler)}
		queue.On(in, func(_ context.Context, m Said) (store.Batch, error) {
			came(m.At)
			return store.Batch{}, nil
		})
		fmt.Println("ready")
		return in.Run(ctx)
	}
	options, err := redis.ParseURL(url[:strings.LastIndex(url, "/")])
	if err != nil {
		return err
	}
	bare := redis.NewClient(options)
	if err := bare.XGroupCreateMkStream(ctx, "stream", "group", "$").Err(); err != nil && !redis.HasErrorPrefix(err, "BUSYGROUP") {
		return err
	}
	fmt.Println("ready")
	for {
		found, err := bare.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "group", Consumer: "c", Streams: []string{"stream", ">"}, Count: 1}).Result()
		if err != nil {
			return err
		}
		for _, m := range found[0].Messages {
			at, err := strconv.ParseInt(m.Values["at"].(string), 10, 64)
			if err != nil {
				return err
			}
			came(at)
			if err := bare.XAck(ctx, "stream", "group", m.ID).Err(); err != nil {
				return err
			}
		}
	}
}
