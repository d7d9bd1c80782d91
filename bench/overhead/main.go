// Command overhead measures what being watched costs: CPU seconds of program
// and supervisor together for each step, under the platform with tracking,
// divided by the program's own by hand. The two alternate A B B A, and the
// interval is over pairs.
package main

import (
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"mlaas.dev/mlaas/bench/rig"
)

//go:embed step.py
var program string

func main() {
	binary := flag.String("bin", "bin/mlaas", "the mlaas binary")
	pairs := flag.Int("pairs", 12, "pairs of runs: 10, 12, 14, 16, 20 or 30")
	steps := flag.Int("steps", 8000, "steps of a run, about a millisecond each")
	flag.Parse()
	if err := run(*binary, *pairs, *steps); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(binary string, pairs, steps int) error {
	if _, _, err := rig.Interval(make([]float64, pairs)); err != nil {
		return fmt.Errorf("-pairs: %w", err)
	}
	p, err := rig.Up(binary)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Do("POST", "/api/job", map[string]any{"name": "overhead", "execution": map[string]any{
		"parameters": map[string]any{"steps": steps, "track": 1}}}, nil); err != nil {
		return err
	}
	if err := p.Do("POST", "/api/job/overhead/code", map[string]any{"files": map[string]string{"main.py": program}}, nil); err != nil {
		return err
	}
	file := filepath.Join(p.Dir, "step.py")
	if err := os.WriteFile(file, []byte(program), 0o644); err != nil {
		return err
	}
	// The interpreter itself: python3 may be a script that looks for it first.
	python, err := exec.Command("python3", "-c", "import sys; print(sys.executable, end='')").Output()
	if err != nil {
		return err
	}
	watched := func() (float64, error) { return watch(p) }
	byHand := func() (float64, error) {
		out, err := exec.Command(string(python), file, "--steps", strconv.Itoa(steps)).Output()
		if err != nil {
			return 0, err
		}
		return cpuOf(string(out))
	}
	if _, err := watched(); err != nil { // warms both up
		return err
	}
	var ratios, shares []float64
	for i := range pairs {
		order := []func() (float64, error){watched, byHand}
		if i%2 == 1 {
			order = []func() (float64, error){byHand, watched}
		}
		a, err := order[0]()
		if err != nil {
			return err
		}
		b, err := order[1]()
		if err != nil {
			return err
		}
		if i%2 == 1 {
			a, b = b, a
		}
		ratios = append(ratios, a/b)
		shares = append(shares, b)
	}
	mean, half, err := rig.Interval(ratios)
	if err != nil {
		return err
	}
	rig.Row("CPU of program + supervisor, watched / by hand: upper end", mean+half, 1.02, "x", true,
		fmt.Sprintf("mean %.4f, 95%% interval %.4f to %.4f over %d pairs of %d steps of %.2f ms", mean, mean-half, mean+half, pairs, steps, 1000*rig.Median(shares)/float64(steps)))
	return nil
}

func cpuOf(out string) (float64, error) {
	for _, line := range strings.Split(out, "\n") {
		if text, ok := strings.CutPrefix(line, "cpu "); ok {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, fmt.Errorf("the program did not say what it used: %q", out)
}

// watch runs the job and returns the CPU seconds of its steps: what the
// program measured of itself, and all that its supervisor used meanwhile.
func watch(p *rig.Platform) (float64, error) {
	var run struct{ ID string }
	if err := p.Do("POST", "/api/job/overhead/run", map[string]any{}, &run); err != nil {
		return 0, err
	}
	var program, before, after float64
	err := p.Lines("/api/run/"+run.ID+"/log?follow=true", func(line []byte) bool {
		var l struct{ Line string }
		if json.Unmarshal(line, &l) != nil {
			return true
		}
		switch {
		case l.Line == "begin":
			before = rig.CPU(rig.Supervisors(p.Dir, run.ID)) // starting it is not a step
		case strings.HasPrefix(l.Line, "cpu "):
			program, _ = cpuOf(l.Line)
			// It is read while the program waits to be measured.
			after = rig.CPU(rig.Supervisors(p.Dir, run.ID))
			return false
		}
		return true
	})
	if err != nil {
		return 0, err
	}
	supervisor := after - before
	if program == 0 || after == 0 {
		return 0, fmt.Errorf("run %s: program %v s, supervisor %v s of CPU: one of them was not seen", run.ID, program, supervisor)
	}
	return program + supervisor, p.Wait(run.ID)
}
