// Command start measures from "run accepted" to the first line of the user's
// program, against the same file started by hand.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"mlaas.dev/mlaas/bench/rig"
)

// The program says when its first line ran; the clock is the machine's.
const program = "import time\nprint(time.time(), flush=True)\n"

func main() {
	binary := flag.String("bin", "bin/mlaas", "the mlaas binary")
	n := flag.Int("n", 10, "how often each")
	flag.Parse()
	if err := run(*binary, *n); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(binary string, n int) error {
	p, err := rig.Up(binary)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Do("POST", "/api/job", map[string]any{"name": "start"}, nil); err != nil {
		return err
	}
	if err := p.Do("POST", "/api/job/start/code", map[string]any{"files": map[string]string{"main.py": program}}, nil); err != nil {
		return err
	}
	file := filepath.Join(p.Dir, "main.py")
	if err := os.WriteFile(file, []byte(program), 0o644); err != nil {
		return err
	}
	// The interpreter itself: python3 may be a script that looks for it first.
	python, err := exec.Command("python3", "-c", "import sys; print(sys.executable, end='')").Output()
	if err != nil {
		return err
	}
	var ours, hand []float64
	for i := range n + 1 { // the first warms both up and is not counted
		us, err := platform(p)
		if err != nil {
			return err
		}
		began := time.Now()
		out, err := exec.Command(string(python), file).Output()
		if err != nil {
			return err
		}
		first, err := strconv.ParseFloat(string(out[:len(out)-1]), 64)
		if err != nil {
			return err
		}
		if i > 0 {
			ours, hand = append(ours, us), append(hand, 1000*(first-seconds(began)))
		}
	}
	rig.Row("run accepted -> first line, more than by hand (median)", rig.Median(ours)-rig.Median(hand), 300, "ms", true,
		fmt.Sprintf("%.0f ms against %.0f ms, slowest %.0f ms, n=%d", rig.Median(ours), rig.Median(hand), ours[len(ours)-1], n))
	return nil
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// platform runs the job once and returns the milliseconds from the answer to
// POST run until the program's first line ran.
func platform(p *rig.Platform) (float64, error) {
	var run struct {
		ID string `json:"id"`
	}
	if err := p.Do("POST", "/api/job/start/run", map[string]any{}, &run); err != nil {
		return 0, err
	}
	accepted := seconds(time.Now())
	var first float64
	err := p.Lines("/api/run/"+run.ID+"/log?follow=true", func(line []byte) bool {
		var l struct{ Stream, Line string }
		if json.Unmarshal(line, &l) == nil && l.Stream == "stdout" {
			first, _ = strconv.ParseFloat(l.Line, 64)
			return false
		}
		return true
	})
	if err == nil && first == 0 {
		err = fmt.Errorf("run %s printed nothing", run.ID)
	}
	if err != nil {
		return 0, err
	}
	return 1000 * (first - accepted), p.Wait(run.ID)
}
