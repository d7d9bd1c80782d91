package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

// paper holds figure 6.1 of "Machine Learning as a Service on Nimbus": seconds
// for 20,000 iterations of batch 50, by number of layers; 0 where it has none.
var paper = map[string]map[int]float64{
	"GPU":         {2: 108, 3: 170, 4: 296, 5: 711, 6: 2052},
	"single host": {2: 1153, 3: 1870, 4: 4477, 5: 13557},
	"4 CPU":       {2: 890, 3: 1682, 4: 4080},
	"8 CPU":       {2: 738, 3: 1095, 4: 3011},
	"16 CPU":      {2: 512, 3: 960, 4: 1860, 5: 5920},
	"32 CPU":      {2: 451, 3: 975, 4: 1970, 5: 4557},
}

// paperIterations is how long the paper trained.
const paperIterations = 20_000

func (c *cli) benchCommand() *cobra.Command {
	var short bool
	var example string
	var workers []int
	paper := &cobra.Command{
		Use:   "paper",
		Short: "The paper's figure 6.1 on this platform: MNIST, 2 to 6 layers, one process and 1 ps with workers",
		Long: `Trains the network of the paper (784-500-...-10, batch 50, MNIST) with 2 to 6
layers, in one process and on one parameter server with 1, 2 and 4 workers, and
prints iterations per second and accuracy beside the paper's figure 6.1. Its
machines were others than yours: compare how rows relate, not the rows.`,
		Example: "  mlaas bench paper --short",
		Args:    cobra.NoArgs,
		RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
			steps := func(layers int) int { return paperIterations }
			if short {
				steps = func(layers int) int { return 1200 / layers }
			}
			return c.benchPaper(ctx, cl, example, workers, steps)
		}),
	}
	paper.Flags().BoolVar(&short, "short", false, "600 to 200 iterations instead of 20,000; times are extrapolated")
	paper.Flags().StringVar(&example, "example", "examples/mnist-ps", "folder of the program")
	paper.Flags().IntSliceVar(&workers, "workers", []int{0, 1, 2, 4}, "workers beside the parameter server; 0 is one process alone")
	bench := &cobra.Command{Use: "bench", Short: "Measure this platform", Example: "  mlaas bench paper --short"}
	bench.AddCommand(paper)
	return bench
}

func (c *cli) benchPaper(ctx context.Context, cl *client.Client, example string, workers []int, steps func(int) int) error {
	alone, err := c.benchJob(ctx, cl, example, "bench-paper-alone", true)
	if err != nil {
		return err
	}
	together, err := c.benchJob(ctx, cl, example, "bench-paper", false)
	if err != nil {
		return err
	}
	columns := slices.Sorted(maps.Keys(paper["GPU"]))
	t := table{Head: []string{"LAYERS", "REPLICAS", "IT/S", "ACCURACY", "20,000 IT", "PAPER: SINGLE HOST", "4 CPU", "16 CPU"}}
	for _, layers := range columns {
		for _, n := range workers {
			job, name, roles := alone, "1 process", map[string]*mlaas.Role(nil)
			if n > 0 {
				job, name = together, fmt.Sprintf("1 ps + %d", n)
				roles = map[string]*mlaas.Role{
					mlaas.PS:     {Replicas: mlaas.Count{Min: 1, Max: 1}},
					mlaas.Worker: {Replicas: mlaas.Count{Min: n, Max: n}},
				}
			}
			c.done("%d layers, %s: %d iterations", layers, name, steps(layers))
			rate, accuracy, err := c.benchRun(ctx, cl, job, roles, map[string]any{"layers": layers, "steps": steps(layers)})
			if err != nil {
				return fmt.Errorf("%d layers, %s: %w", layers, name, err)
			}
			seconds := func(row string) string {
				if s := paper[row][layers]; s > 0 {
					return fmt.Sprintf("%.0f s", s)
				}
				return "-"
			}
			t.row(fmt.Sprint(layers), name, fmt.Sprintf("%.0f", rate), fmt.Sprintf("%.3f", accuracy),
				fmt.Sprintf("%.0f s", paperIterations/rate), seconds("single host"), seconds("4 CPU"), seconds("16 CPU"))
		}
	}
	fmt.Fprint(c.Out, t.String())
	return nil
}

// benchJob makes the example's job under a name of its own, once, with the code
// as it is now; alone is without a parameter server.
func (c *cli) benchJob(ctx context.Context, cl *client.Client, example, name string, alone bool) (job mlaas.Job, err error) {
	spec, err := readSpec(filepath.Join(example, "mlaas.yaml"))
	if err != nil {
		return job, err
	}
	spec.Name = name
	if alone {
		spec.Roles = map[string]*mlaas.Role{mlaas.Worker: {Replicas: mlaas.Count{Min: 1, Max: 1}}}
	}
	had, err := jobNamed(ctx, cl, name)
	switch {
	case err != nil:
		return job, err
	case had != nil:
		job = *had
	default:
		if job, err = cl.CreateJob(ctx, *spec, mlaas.NewID(time.Now())); err != nil {
			return job, err
		}
	}
	code, err := collect(example)
	if err != nil {
		return job, err
	}
	_, err = c.push(ctx, cl, job, code)
	return job, err
}

// benchRun runs once and returns the iterations per second of all workers
// together, between the first and the last point of the curve "worker_steps",
// and the test accuracy.
func (c *cli) benchRun(ctx context.Context, cl *client.Client, job mlaas.Job, roles map[string]*mlaas.Role, parameters map[string]any) (rate, accuracy float64, err error) {
	run, err := cl.StartRun(ctx, string(job.ID), client.RunAsk{Roles: roles, Parameters: parameters}, mlaas.NewID(time.Now()))
	if err != nil {
		return 0, 0, err
	}
	for sight, err := range cl.Watch(ctx, run.ID) {
		if err != nil {
			return 0, 0, err
		}
		if s := sight.Run.Status; s.State.Final() && s.State != mlaas.Succeeded {
			return 0, 0, fmt.Errorf("the run %s: %s: %w", s.State, s.Reason, mlaas.ErrInternal)
		}
	}
	var steps, millis int64
	for curve, err := range cl.Metrics(ctx, run.ID, client.MetricQuery{}) {
		if err != nil {
			return 0, 0, err
		}
		if len(curve.Points) == 0 {
			continue
		}
		first, last := curve.Points[0], curve.Points[len(curve.Points)-1]
		switch {
		case curve.Key == "test_accuracy":
			accuracy = float64(last.Last)
		case curve.Key == "loss" && last.Step-first.Step > steps:
			steps, millis = last.Step-first.Step, last.Time-first.Time
		}
	}
	if steps == 0 || millis == 0 {
		return 0, 0, fmt.Errorf("run %s logged no curve named loss: %w", run.ID, mlaas.ErrNotFound)
	}
	return float64(steps) / (float64(millis) / 1000), accuracy, nil
}
