// Command tracker measures what being tracked costs a program that knows
// nothing of it: CPU seconds of a step with tracking, divided by those without,
// in TensorFlow 1, PyTorch and Keras. The two alternate A B B A, and the
// interval is over pairs. Beside it stand MLflow and Weights & Biases, offline,
// on the same programs.
package main

import (
	"bufio"
	_ "embed"
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
	steps                  int
	ms                     float64 // what a step is meant to take
}

var loops = []loop{
	{"tf1", "tensorflow", 12_000, 0.3},
	{"torch", "torch", 4_000, 1},
	{"keras", "tensorflow", 2_000, 2},
}

func main() {
	environments := flag.String("environments", "", "folder of the environments that e2e/code/environments.sh makes")
	library := flag.String("python", "python", "folder of the package mlaas")
	pairs := flag.Int("pairs", 12, "pairs of runs: 6, 8, 10, 12, 14, 16, 20 or 30")
	only := flag.String("only", "", "some of tf1, torch, keras, hook; empty: all")
	beside := flag.Bool("beside", true, "also MLflow and W&B, two pairs each")
	flag.Parse()
	held, err := run(*environments, *library, *pairs, *only, *beside)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if !held {
		os.Exit(2)
	}
}

func run(environments, library string, pairs int, only string, beside bool) (held bool, err error) {
	if _, _, err := rig.Interval(make([]float64, pairs)); err != nil {
		return false, fmt.Errorf("-pairs: %w", err)
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
		ok, err := b.loop(l, pairs, beside)
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

// once runs a loop and returns its CPU seconds.
func (b bench) once(l loop, tracked bool, beside string) (float64, error) {
	args := []string{filepath.Join(b.dir, "step.py"), l.framework, strconv.Itoa(l.steps)}
	if beside != "" {
		args = append(args, beside)
	}
	cmd := exec.Command(filepath.Join(b.environments, l.environment, "bin", "python"), args...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "OMP_NUM_THREADS=1", "PYTHONPATH=")
	if tracked {
		cmd.Env = append(cmd.Env, "MLAAS_HOOKS=1", "MLAAS_SOCKET="+filepath.Join(b.dir, "s"), "MLAAS_OUTPUT="+filepath.Join(b.dir, "output"),
			"PYTHONPATH="+filepath.Join(b.library, "mlaas", "_site"))
	}
	out, err := cmd.Output()
	if err != nil {
		return 0, said(err)
	}
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "cpu "); ok {
			return strconv.ParseFloat(text, 64)
		}
	}
	return 0, fmt.Errorf("%s did not say what it used: %q", l.framework, out)
}

func (b bench) loop(l loop, pairs int, beside bool) (bool, error) {
	ratios, shares, err := b.pairs(l, pairs, func() (float64, error) { return b.once(l, true, "") })
	if err != nil {
		return false, err
	}
	mean, half, err := rig.Interval(ratios)
	if err != nil {
		return false, err
	}
	ms := 1000 * rig.Median(shares) / float64(l.steps)
	held := rig.Row("CPU of a step, tracked / not, "+l.framework+": upper end", mean+half, 1.02, "x", true,
		fmt.Sprintf("mean %.4f, 95%% interval %.4f to %.4f over %d pairs of %d steps of %.2f ms (meant: %g)", mean, mean-half, mean+half, pairs, l.steps, ms, l.ms))
	if !beside {
		return held, nil
	}
	for _, other := range []string{"mlflow", "wandb"} {
		ratios, _, err := b.pairs(l, 2, func() (float64, error) { return b.once(l, false, other) })
		if err != nil {
			fmt.Printf("  beside: %s: %v\n", other, err)
			continue
		}
		fmt.Printf("  beside: %s, each step: %.2f x (2 pairs)\n", other, (ratios[0]+ratios[1])/2)
	}
	return held, nil
}

// pairs runs with and without, A B B A, and gives their ratios.
func (b bench) pairs(l loop, n int, with func() (float64, error)) (ratios, shares []float64, err error) {
	without := func() (float64, error) { return b.once(l, false, "") }
	for i := range n {
		order := []func() (float64, error){with, without}
		if i%2 == 1 {
			order = []func() (float64, error){without, with}
		}
		first, err := order[0]()
		if err != nil {
			return nil, nil, err
		}
		second, err := order[1]()
		if err != nil {
			return nil, nil, err
		}
		if i%2 == 1 {
			first, second = second, first
		}
		ratios, shares = append(ratios, first/second), append(shares, second)
	}
	return ratios, shares, nil
}

func said(err error) error {
	if exit, ok := err.(*exec.ExitError); ok {
		lines := strings.Split(strings.TrimSpace(string(exit.Stderr)), "\n")
		return fmt.Errorf("%w: %s", err, lines[len(lines)-1])
	}
	return err
}
