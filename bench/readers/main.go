// Command readers measures what 500 clients cost that open the live stream and
// never read. One run speaks all the time; in turn A B B A there is such a crowd
// for some steps, and none: a client that is dropped is followed by another. What
// is compared is the CPU of the run's program and supervisor per step; beside it
// stand the memory of the server, and how soon each client is dropped once
// nothing more is taken for it.
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
	pairs := flag.Int("pairs", 12, "pairs of windows: 6, 8, 10, 12, 14, 16 or 20")
	clients := flag.Int("clients", 500, "that never read")
	steps := flag.Int("steps", 16_000, "of a window, of about a millisecond each")
	flag.Parse()
	if err := run(*binary, *pairs, *clients, *steps); err != nil {
		fmt.Fprintln(os.Stderr, "readers:", err)
		os.Exit(1)
	}
}

// block is after how many steps the program says what they took.
const block = 500

// settle is how many blocks of a window are not looked at: one crowd goes or
// comes meanwhile.
const settle = 2

func run(binary string, pairs, clients, steps int) error {
	if _, _, err := rig.Interval(make([]float64, pairs)); err != nil {
		return fmt.Errorf("-pairs: %w", err)
	}
	if steps%block != 0 || steps/block < 2*settle {
		return fmt.Errorf("-steps: %d, want a multiple of %d, at least %d", steps, block, 2*settle*block)
	}
	p, err := rig.Up(binary)
	if err != nil {
		return err
	}
	defer p.Close()
	total := steps * (2*pairs + 1) // the first window is to warm up
	if err := p.Do("POST", "/api/job", map[string]any{"name": "talk", "execution": map[string]any{"parameters": map[string]any{"steps": total, "block": block}}}, nil); err != nil {
		return err
	}
	if err := p.Do("POST", "/api/job/talk/code", map[string]any{"files": map[string]string{"main.py": program}}, nil); err != nil {
		return err
	}
	m := &measure{p: p, clients: clients, perWindow: steps / block}
	if err := m.run(); err != nil {
		return err
	}
	if len(m.windows) < 2*pairs+1 {
		return fmt.Errorf("%d windows were seen, want %d", len(m.windows), 2*pairs+1)
	}
	ratios, means := make([]float64, pairs), make([]float64, pairs)
	for i := range pairs {
		with, without := m.windows[2*i+1], m.windows[2*i+2]
		if !crowded(2*i + 1) {
			with, without = without, with
		}
		means[i] = average(with) / average(without)
		ratios[i] = rig.Median(with) / rig.Median(without) // sorts
	}
	mean, half, err := rig.Interval(ratios)
	if err != nil {
		return err
	}
	all, allHalf, err := rig.Interval(means)
	if err != nil {
		return err
	}
	rig.Row(fmt.Sprintf("CPU per step with %d clients that never read / without: upper end", clients), mean+half, 1.02, "x", true,
		fmt.Sprintf("medians of blocks of %d steps: %.4f, 95%% interval %.4f to %.4f over %d pairs; means of blocks: %.4f, %.4f to %.4f",
			block, mean, mean-half, mean+half, pairs, all, all-allHalf, all+allHalf))
	rig.Row("memory of the server with them, more than without", m.most-m.before, 64, "MiB", true, "the most of all windows, sampled each 200 ms")
	rig.Row("until a client that takes nothing is dropped, the slowest", m.slowest.Seconds(), 10+1, "s", true,
		fmt.Sprintf("from the last byte that was taken for it; 10 s and the second by which it is looked at; %d were dropped", m.dropped))
	return nil
}

// crowded is whether there are clients in window i: A B B A, after the first.
func crowded(i int) bool { return i > 0 && (i%4 == 1 || i%4 == 0) }

func average(values []float64) (mean float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	return mean
}

// A measure follows the one run.
type measure struct {
	p         *rig.Platform
	clients   int
	perWindow int // blocks

	windows      [][]float64 // CPU seconds per step of each block
	before, most float64     // MiB

	mu      sync.Mutex
	slowest time.Duration
	dropped int
	err     error
}

func (m *measure) run() error {
	var run struct{ ID string }
	if err := m.p.Do("POST", "/api/job/talk/run", map[string]any{}, &run); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	sampled := make(chan float64, 1) // the most so far
	sampled <- 0
	watching.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				sampled <- max(<-sampled, rss(m.p.PID))
			}
		}
	})
	leave := func() {}
	defer func() { leave() }()
	var last float64
	blocks := -1
	err := m.p.Lines("/api/run/"+run.ID+"/log?follow=true", func(line []byte) bool {
		var l struct{ Line string }
		if json.Unmarshal(line, &l) != nil || !strings.HasPrefix(l.Line, "cpu ") {
			return true
		}
		program, err := strconv.ParseFloat(strings.Fields(l.Line)[1], 64)
		if err != nil {
			m.fail(fmt.Errorf("run %s says %q: %w", run.ID, l.Line, err))
			return false
		}
		used := program + rig.CPU(rig.Supervisors(m.p.Dir, run.ID))
		if blocks++; blocks > 0 {
			if i := (blocks - 1) / m.perWindow; i == len(m.windows) {
				m.windows = append(m.windows, nil)
			}
			if (blocks-1)%m.perWindow >= settle {
				w := &m.windows[len(m.windows)-1]
				*w = append(*w, (used-last)/block)
			}
		}
		last = used
		if blocks%m.perWindow == 0 {
			i := blocks / m.perWindow
			if crowded(i) != crowded(i-1) {
				leave()
				leave = func() {}
				if crowded(i) {
					if m.before == 0 {
						<-sampled
						m.before = rss(m.p.PID)
						sampled <- 0
					}
					leave = m.crowd(ctx, run.ID)
				}
			}
		}
		return m.failed() == nil
	})
	leave()
	leave = func() {}
	m.most = <-sampled
	if err = errors.Join(err, m.failed()); err != nil {
		return err
	}
	return m.p.Wait(run.ID)
}

func (m *measure) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = errors.Join(m.err, err)
}

func (m *measure) failed() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// crowd is there until leave is called, which waits until all have gone.
func (m *measure) crowd(ctx context.Context, run string) (leave func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	var sockets sockets
	for range m.clients {
		all.Go(func() {
			for ctx.Err() == nil {
				waited, dropped, err := silent(ctx, m.p, run, &sockets)
				if err != nil {
					m.fail(err)
					return
				}
				m.mu.Lock()
				m.slowest = max(m.slowest, waited)
				if dropped {
					m.dropped++
				}
				m.mu.Unlock()
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// silent opens the live stream, asks for all that the run says, and takes
// nothing. It returns when it was dropped, or ctx ended, and how long nothing
// had been taken for it until then.
func silent(ctx context.Context, p *rig.Platform, run string, all *sockets) (waited time.Duration, dropped bool, err error) {
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
			return 0, false, nil
		}
		return 0, false, fmt.Errorf("open the stream: %w", err)
	}
	defer c.CloseNow()
	for i, topic := range []string{"log", "metric", "replica"} {
		text := fmt.Sprintf(`{"subscribe":{"id":"%d","topic":"%s","run":"%s"}}`, i, topic, run)
		if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			if ctx.Err() != nil {
				return 0, false, nil
			}
			return 0, false, fmt.Errorf("subscribe: %w", err)
		}
	}
	// What waits in the kernel, for us and on its way, stops growing when no more
	// is taken.
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	size := 0
	since := time.Now()
	for {
		select {
		case <-ctx.Done():
			return time.Since(since), false, nil
		case <-tick.C:
		}
		sending, open, err := all.sending(raw)
		if err == nil && !open {
			return time.Since(since), true, nil
		}
		n, e := queued(raw)
		if err = errors.Join(err, e); err != nil {
			return 0, false, err
		}
		if n += sending; n != size {
			size, since = n, time.Now()
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
