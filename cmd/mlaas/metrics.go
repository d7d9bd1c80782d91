package main

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) metricsCommand() *cobra.Command {
	var q client.MetricQuery
	cmd := &cobra.Command{
		Use:   "metrics JOB|JOB/N",
		Short: "Show what a run measured",
		Example: `  mlaas metrics mnist                    every metric, each with its curve in small
  mlaas metrics mnist/7 --key loss -o json   the points: [step, time in ms, value]
  mlaas metrics mnist --buckets 100 -o json  [step, time, min, max, last]`,
		Args: one("JOB or JOB/N", "mlaas metrics mnist"),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			run, err := findRun(ctx, cl, args[0])
			if err != nil {
				return err
			}
			if q.Buckets == 0 && c.output == "table" {
				q.Buckets = 40
			}
			curves, err := client.Collect(cl.Metrics(ctx, run.ID, q))
			if err != nil {
				return err
			}
			t := table{Head: []string{"KEY", "REPLICA", "STEP", "LAST", "MIN", "MAX", "CURVE"}}
			var names []string
			for _, v := range curves {
				if len(v.Points) == 0 {
					continue
				}
				least, most := math.Inf(1), math.Inf(-1)
				for _, p := range v.Points {
					least, most = math.Min(least, float64(p.Min)), math.Max(most, float64(p.Max))
				}
				last := v.Points[len(v.Points)-1]
				t.row(v.Key, v.Replica, fmt.Sprint(last.Step), number(last.Last), number(mlaas.Number(least)), number(mlaas.Number(most)), spark(v.Points))
				names = append(names, v.Key)
			}
			if len(t.Rows) == 0 {
				c.say("%s measured nothing yet: a program does so by   mlaas.log({\"loss\": loss}, step=i)", runName(run))
			}
			return c.show(curves, names, t.String)
		}),
	}
	cmd.Flags().StringVar(&q.Key, "key", "", "one metric alone")
	cmd.Flags().StringVar(&q.Replica, "replica", "", "of one replica alone")
	cmd.Flags().IntVar(&q.Buckets, "buckets", 0, "at most so many stretches of each curve (else every point)")
	return cmd
}

// spark draws a curve in one line of text.
func spark(points []client.Sample) string {
	least, most := math.Inf(1), math.Inf(-1)
	for _, p := range points {
		if v := float64(p.Last); !math.IsNaN(v) && !math.IsInf(v, 0) {
			least, most = min(least, v), max(most, v)
		}
	}
	levels := []rune("▁▂▃▄▅▆▇█")
	var b strings.Builder
	for i := range min(40, len(points)) {
		v := float64(points[i*len(points)/min(40, len(points))].Last)
		switch {
		case math.IsNaN(v) || math.IsInf(v, 0):
			b.WriteRune('×')
		case most == least:
			b.WriteRune(levels[3])
		default:
			b.WriteRune(levels[int((v-least)/(most-least)*float64(len(levels)-1)+0.5)])
		}
	}
	return b.String()
}
