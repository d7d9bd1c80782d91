// Command readers measures what 500 clients cost that open the live stream and
// never read: CPU of a running job's program and supervisor per step with them
// and without, in turn A B B A; the memory of the server; and how soon each is
// dropped once nothing more is taken for it. Those for which everything was
// taken, as they came late, are told apart.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"mlaas.dev/mlaas/bench/rig"
)

//go:embed talk.py
var program string

func main() {
	binary := flag.String("bin", "bin/mlaas", "the mlaas binary")
	pairs := flag.Int("pairs", 8, "pairs of runs: 6, 8, 10 or 12")
	clients := flag.Int("clients", 500, "that never read")
	steps := flag.Int("steps", 6000, "of a run")
	flag.Parse()
	if err := run(*binary, *pairs, *clients, *steps); err != nil {
		fmt.Fprintln(os.Stderr, "readers:", err)
		os.Exit(1)
	}
}

func run(binary string, pairs, clients, steps int) error {
	if _, _, err := rig.Interval(make([]float64, pairs)); err != nil {
		return fmt.Errorf("-pairs: %w", err)
	}
	p, err := rig.Up(binary)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Do("POST", "/api/job", map[string]any{"name": "talk", "execution": map[string]any{"parameters": map[string]any{"steps": steps}}}, nil); err != nil {
		return err
	}
	if err := p.Do("POST", "/api/job/talk/code", map[string]any{"files": map[string]string{"main.py": program}}, nil); err != nil {
		return err
	}
	if _, _, err := once(p, 0); err != nil { // warms up
		return err
	}
	before := rss(p.PID)
	var ratios []float64
	var most, slowest float64
	stayed := 0
	for i := range pairs {
		counts := []int{clients, 0}
		if i%2 == 1 {
			counts = []int{0, clients}
		}
		var cost [2]float64
		for _, n := range counts {
			perStep, crowd, err := once(p, n)
			if err != nil {
				return err
			}
			if n == 0 {
				cost[1] = perStep
				continue
			}
			cost[0] = perStep
			most, slowest, stayed = max(most, crowd.rss-before), max(slowest, crowd.dropped.Seconds()), stayed+crowd.stayed
		}
		ratios = append(ratios, cost[0]/cost[1])
	}
	mean, half, err := rig.Interval(ratios)
	if err != nil {
		return err
	}
	rig.Row(fmt.Sprintf("CPU per step with %d clients that never read / without: upper end", clients), mean+half, 1.02, "x", true,
		fmt.Sprintf("mean %.4f, 95%% interval %.4f to %.4f over %d pairs", mean, mean-half, mean+half, pairs))
	rig.Row("memory of the server with them, more than without", most, 64, "MiB", true, "the most of all rounds, sampled each 200 ms")
	rig.Row("until a client that takes nothing is dropped, the slowest", slowest, 10+1, "s", true,
		fmt.Sprintf("from the last byte that was taken for it; 10 s and the second by which it is looked at; %d of %d were not behind at the end of the run", stayed, pairs*clients))
	return nil
}

// A crowd is what became of clients that never read.
type crowd struct {
	rss     float64       // MiB, the most
	dropped time.Duration // from the last byte that was taken for it to its drop, the slowest
	stayed  int           // were never behind while the run spoke: all that there was for them was taken
}

// once runs the job with so many clients beside it.
func once(p *rig.Platform, clients int) (perStep float64, c crowd, err error) {
	var run struct{ ID string }
	if err := p.Do("POST", "/api/job/talk/run", map[string]any{}, &run); err != nil {
		return 0, c, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var all sync.WaitGroup
	var mu sync.Mutex
	var cpu, before, after float64
	var steps int
	over := make(chan struct{}) // when the run has said its last
	var ended time.Time         // the same
	var sockets sockets
	for range clients {
		all.Go(func() {
			since, at, e := silent(ctx, p, run.ID, &sockets, over)
			mu.Lock()
			defer mu.Unlock()
			err = errors.Join(err, e)
			if at.IsZero() || !ended.IsZero() && since.After(ended.Add(-time.Second)) {
				c.stayed++
			} else {
				c.dropped = max(c.dropped, at.Sub(since))
			}
		})
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				mu.Lock()
				c.rss = max(c.rss, rss(p.PID))
				mu.Unlock()
			}
		}
	})
	e := p.Lines("/api/run/"+run.ID+"/log?follow=true", func(line []byte) bool {
		var l struct{ Line string }
		if json.Unmarshal(line, &l) != nil {
			return true
		}
		switch {
		case l.Line == "begin":
			before = rig.CPU(rig.Supervisors(p.Dir, run.ID))
		case strings.HasPrefix(l.Line, "cpu "):
			fields := strings.Fields(l.Line)
			cpu, _ = strconv.ParseFloat(fields[1], 64)
			steps, _ = strconv.Atoi(fields[2])
			after = rig.CPU(rig.Supervisors(p.Dir, run.ID))
			return false
		}
		return true
	})
	mu.Lock()
	ended = time.Now()
	mu.Unlock()
	close(over)
	if e == nil {
		e = p.Wait(run.ID)
	}
	if e != nil {
		cancel()
	}
	all.Wait()
	cancel()
	watching.Wait()
	if e == nil && clients > 0 && c.stayed == clients {
		e = fmt.Errorf("run %s: none of %d clients was ever behind", run.ID, clients)
	}
	if err = errors.Join(err, e); err != nil {
		return 0, c, err
	}
	if cpu == 0 || after == 0 || steps == 0 {
		return 0, c, fmt.Errorf("run %s: program %v s, supervisor %v s, %d steps: one of them was not seen", run.ID, cpu, after, steps)
	}
	return (cpu + after - before) / float64(steps), c, nil
}

// patience is how long after the last word of a run one that is behind may still
// be there: the first beat comes later.
const patience = 12 * time.Second

// silent opens the live stream, asks for all that the run says, and takes
// nothing. It returns when the last byte was taken for it, and when it was
// dropped; zero if it was not. One that is still there a while after the run
// must have been sent everything.
func silent(ctx context.Context, p *rig.Platform, run string, all *sockets, over <-chan struct{}) (since, dropped time.Time, err error) {
	var raw *net.TCPConn
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		raw = c.(*net.TCPConn)
		return c, raw.SetReadBuffer(4 << 10)
	}}}
	c, _, err := websocket.Dial(ctx, strings.Replace(p.URL, "http", "ws", 1)+"/api/stream", &websocket.DialOptions{ //nolint:bodyclose // Dial has read it
		HTTPClient: client, HTTPHeader: http.Header{"Authorization": {"Bearer " + p.Token}}})
	if err != nil {
		if ctx.Err() != nil {
			return since, dropped, nil
		}
		return since, dropped, fmt.Errorf("open the stream: %w", err)
	}
	defer c.CloseNow()
	for i, topic := range []string{"log", "metric", "replica"} {
		text := fmt.Sprintf(`{"subscribe":{"id":"%d","topic":"%s","run":"%s"}}`, i, topic, run)
		if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			return since, dropped, fmt.Errorf("subscribe: %w", err)
		}
	}
	// What waits in the kernel, for us and on its way, stops growing when no more
	// is taken.
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	size := 0
	since = time.Now()
	var late <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return since, dropped, nil
		case <-over:
			over, late = nil, time.After(patience)
			continue
		case <-late:
			if more := drain(raw) - size; more > 1000 { // a beat, an end
				err = fmt.Errorf("a client of run %s was still there %s after its end, and %d bytes more were held back for it", run, patience, more)
			}
			return since, dropped, err
		case <-tick.C:
		}
		sending, open, err := all.sending(raw)
		if err == nil && !open {
			return since, time.Now(), nil
		}
		n, e := queued(raw)
		if err = errors.Join(err, e); err != nil {
			return since, dropped, err
		}
		if n += sending; n != size {
			size, since = n, time.Now()
		}
	}
}

// drain takes all that comes until nothing does, and returns how much it was.
func drain(c net.Conn) (n int) {
	buffer := make([]byte, 64<<10)
	for {
		_ = c.SetReadDeadline(time.Now().Add(time.Second)) // a connection that is broken ends it too
		m, err := c.Read(buffer)
		n += m
		if err != nil {
			return n
		}
	}
}

// rss is what a process has in memory, in MiB.
func rss(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return kb / 1024
		}
	}
	return 0
}
