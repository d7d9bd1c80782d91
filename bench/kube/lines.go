//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mlaas.dev/mlaas/bench/rig"
)

// writer writes lines at a rate, each with its number and when it was written.
const writer = `import sys, time
n, rate = int(sys.argv[1]), int(sys.argv[2])
began = time.time()
for i in range(1, n + 1):
    if i % 100 == 0:
        ahead = began + i / rate - time.time()
        if ahead > 0:
            time.sleep(ahead)
    print(i, time.time(), flush=True)
`

// late measures how long a line is on its way from print in a pod to who
// follows the log, and whether each came once.
func (b *bench) late(ctx context.Context) error {
	_, s, end, err := b.onReal(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := s.Do(http.MethodPost, "/api/job", map[string]any{"name": "lines",
		"roles":     map[string]any{"worker": map[string]any{"replicas": 1, "cpu": 1, "memory": "512Mi"}},
		"execution": map[string]any{"command": []string{"python", "main.py", strconv.Itoa(b.lines), strconv.Itoa(b.perSecond)}}}, nil); err != nil {
		return err
	}
	if err := s.Do(http.MethodPost, "/api/job/lines/code", map[string]any{"files": map[string]string{"main.py": writer}}, nil); err != nil {
		return err
	}
	var run struct{ ID string }
	if err := s.Do(http.MethodPost, "/api/job/lines/run", map[string]any{}, &run); err != nil {
		return err
	}
	var ages []float64
	lost, twice, last, began, wrote := 0, 0, 0, 0.0, 0.0
	if err := s.Lines("/api/run/"+run.ID+"/log?follow=true", func(line []byte) bool {
		now := seconds(time.Now())
		var l struct{ Stream, Line string }
		if json.Unmarshal(line, &l) != nil || l.Stream != "stdout" {
			return ctx.Err() == nil
		}
		number, stamp, _ := strings.Cut(l.Line, " ")
		n, err := strconv.Atoi(number)
		at, err2 := strconv.ParseFloat(stamp, 64)
		if err != nil || err2 != nil {
			return ctx.Err() == nil
		}
		switch {
		case n <= last:
			twice++
		default:
			lost += n - last - 1
			last = n
		}
		if began == 0 {
			began = at
		}
		wrote = at
		ages = append(ages, now-at)
		return last < b.lines && ctx.Err() == nil
	}); err != nil {
		return err
	}
	if last == 0 {
		return fmt.Errorf("run %s wrote nothing", run.ID)
	}
	lost += b.lines - last
	note := fmt.Sprintf("median %.0f ms, slowest %.0f ms, %.0f lines/s", 1000*rig.Median(ages), 1000*ages[len(ages)-1], float64(b.lines)/(wrote-began))
	rig.Row(fmt.Sprintf("print in a pod, %d lines/s -> who follows (p99)", b.perSecond), 1000*rig.Quantile(ages, 0.99), 500, "ms", true, note)
	rig.Row("lines that did not come, or came twice", float64(lost+twice), 0, "", true, fmt.Sprintf("%d lost, %d twice, of %d", lost, twice, b.lines))
	return s.Wait(run.ID)
}
