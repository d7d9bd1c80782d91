// Command tracker measures what being tracked costs a program that knows
// nothing of it: CPU seconds of a step with tracking, divided by those without,
// in TensorFlow 1, PyTorch and Keras. One process of each does some steps with
// and some without, A B B A, so that both see the same machine. Beside it stand
// MLflow and Weights & Biases, offline, on the same programs.
package main

import (
	"bufio"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"mlaas.dev/mlaas/bench/rig"
)

var (
	//go:embed step.py
	step string
	//go:embed hook.py
	hook string
)

// A loop is a program of step.py.
type loop struct {
	framework, environment string
	ms                     float64 // what a step is meant to take
	beside                 []string
}

var loops = []loop{
	{"tf1", "bench-tensorflow", 0.3, []string{"mlflow", "wandb"}},
	{"torch", "bench-torch", 1, []string{"mlflow", "wandb"}},
	{"keras", "bench-tensorflow", 2, []string{"mlflow-autolog", "mlflow", "wandb"}},
}

// A series is some blocks of quads of windows. A window is short, so that what
// else happens on the machine meets both kinds; a block is what the interval is over.
type series struct {
	blocks, quads int
	seconds       float64 // of a window
}

func main() {
	environments := flag.String("environments", "", "folder of the environments that e2e/code/environments.sh makes")
	library := flag.String("python", "python", "folder of the package mlaas")
	quads := flag.Int("quads", 20, "in each of the 30 blocks of a loop; a quad is four windows of 20 ms")
	only := flag.String("only", "", "some of tf1, torch, keras, hook; empty: all")
	beside := flag.Bool("beside", true, "also MLflow and W&B")
	flag.Parse()
	held, err := run(*environments, *library, series{30, *quads, 0.02}, *only, *beside)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if !held {
		os.Exit(2)
	}
}

func run(environments, library string, tracked series, only string, beside bool) (held bool, err error) {
	if tracked.quads < 1 {
		return false, fmt.Errorf("-quads is %d, want at least 1", tracked.quads)
	}
	if library, err = filepath.Abs(library); err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "mlaas-bench-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	for name, text := range map[string]string{"step.py": step, "hook.py": hook} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return false, err
		}
	}
	sink, err := listen(filepath.Join(dir, "s"))
	if err != nil {
		return false, err
	}
	defer sink.Close()
	b := bench{dir: dir, library: library, environments: environments}
	held = true
	wanted := func(name string) bool { return only == "" || strings.Contains(","+only+",", ","+name+",") }
	if wanted("hook") {
		ok, err := b.hooks()
		if err != nil {
			return false, err
		}
		held = held && ok
	}
	for _, l := range loops {
		if !wanted(l.framework) {
			continue
		}
		ok, err := b.loop(l, tracked, beside)
		if err != nil {
			return false, err
		}
		held = held && ok
	}
	return held, nil
}

// listen is a supervisor that throws away what it hears.
func listen(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewScanner(c); r.Scan(); {
				}
			}()
		}
	}()
	return l, nil
}

type bench struct{ dir, library, environments string }

func (b bench) hooks() (bool, error) {
	cmd := exec.Command("python3", filepath.Join(b.dir, "hook.py"), b.library)
	cmd.Dir = b.dir // without a supervisor it records there
	out, err := cmd.Output()
	if err != nil {
		return false, said(err)
	}
	worst, note := 0.0, ""
	for line := range strings.Lines(string(out)) {
		var name string
		var us float64
		if n, _ := fmt.Sscanf(line, "hook %s %g", &name, &us); n == 2 {
			worst = max(worst, us)
			note += fmt.Sprintf("%s %.2f ", name, us)
		}
	}
	if note == "" {
		return false, fmt.Errorf("hook.py said nothing that is known: %q", out)
	}
	return rig.Row("a hook alone, of 1e6 calls: the dearest", worst, 6, "us", true, note), nil
}

func (b bench) loop(l loop, s series, beside bool) (bool, error) {
	ours, err := b.measure(l, "mlaas", s)
	if err != nil {
		return false, err
	}
	held := rig.Row("CPU of a step, tracked / not, "+l.framework+": upper end", ours.mean+ours.half, 1.02, "x", true,
		fmt.Sprintf("mean %.4f, 95%% interval %.4f to %.4f over %d blocks of %d ABBA; a step is %.2f ms (meant: %g), %.2f us of what tracking adds are the thread's that hands over",
			ours.mean, ours.mean-ours.half, ours.mean+ours.half, s.blocks, s.quads, ours.ms, l.ms, ours.behind))
	if !beside {
		return held, nil
	}
	for _, other := range l.beside {
		o, err := b.measure(l, other, series{6, 1, 0.25})
		if err != nil {
			fmt.Printf("  beside: %s: %v\n", other, err)
			continue
		}
		fmt.Printf("  beside: %s: %.3f x, 95%% interval %.3f to %.3f\n", other, o.mean, o.mean-o.half, o.mean+o.half)
	}
	return held, nil
}

// A cost is how much longer a step takes with tracking than without.
type cost struct {
	mean, half float64 // of the ratio, and half the width of its interval
	ms         float64 // of a step without
	behind     float64 // us of a step that the thread takes which hands over
}

// measure runs a loop which one tracks, by turns.
func (b bench) measure(l loop, by string, s series) (cost, error) {
	cmd := exec.Command(filepath.Join(b.environments, l.environment, "bin", "python"), filepath.Join(b.dir, "step.py"),
		l.framework, by, strconv.Itoa(s.blocks*s.quads), fmt.Sprint(s.seconds))
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "TF_NUM_INTRAOP_THREADS=1", "TF_NUM_INTEROP_THREADS=1", "PYTHONPATH=")
	if by == "mlaas" {
		cmd.Env = append(cmd.Env, "MLAAS_HOOKS=1", "MLAAS_SOCKET="+filepath.Join(b.dir, "s"), "MLAAS_OUTPUT="+filepath.Join(b.dir, "output"),
			"PYTHONPATH="+filepath.Join(b.library, "mlaas", "_site"))
	}
	out, err := cmd.Output()
	if err != nil {
		return cost{}, said(err)
	}
	return s.read(string(out), by == "mlaas")
}

// read makes of what step.py prints the ratio of each block, and their interval.
func (s series) read(out string, behind bool) (cost, error) {
	type sum struct{ on, off float64 } // seconds of a step, of all windows
	sums := make([]sum, s.blocks)
	n, c := 0, cost{}
	for line := range strings.Lines(out) {
		var kind string
		var steps, seconds float64
		if k, _ := fmt.Sscanf(line, "behind %g %g", &steps, &seconds); k == 2 {
			c.behind = 1e6 * seconds / steps
		}
		if k, _ := fmt.Sscanf(line, "window %s %g %g", &kind, &steps, &seconds); k != 3 {
			continue
		}
		if block := n / (4 * s.quads); block < s.blocks && kind == "on" {
			sums[block].on += seconds / steps
		} else if block < s.blocks {
			sums[block].off += seconds / steps
		}
		n++
	}
	if want := 4 * s.quads * s.blocks; n != want || behind && c.behind == 0 {
		return c, fmt.Errorf("step.py measured %d windows, want %d, and %.2f us behind them", n, want, c.behind)
	}
	var ratios, off []float64
	for _, b := range sums {
		each := b.off / float64(2*s.quads)
		ratios, off = append(ratios, (b.on/float64(2*s.quads)+c.behind/1e6)/each), append(off, 1000*each)
	}
	c.ms = rig.Median(off)
	var err error
	c.mean, c.half, err = rig.Interval(ratios)
	return c, err
}

func said(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		lines := strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n")
		return fmt.Errorf("%w: %s", err, lines[len(lines)-1])
	}
	return err
}
