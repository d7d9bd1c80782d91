package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas/client"
)

func (c *cli) replicasCommand() *cobra.Command {
	var history bool
	cmd := &cobra.Command{
		Use:     "replicas JOB|JOB/N",
		Aliases: []string{"nodes"},
		Short:   "Show each replica of a run, how it stands and why",
		Example: `  mlaas replicas mnist
  mlaas replicas mnist/7 --history    all that happened to each`,
		Args: one("JOB or JOB/N", "mlaas replicas mnist"),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			run, err := findRun(ctx, cl, args[0])
			if err != nil {
				return err
			}
			all, err := client.Collect(cl.Replicas(ctx, string(run.Job), run.ID))
			if err != nil {
				return err
			}
			now := time.Now()
			t := table{Head: []string{"REPLICA", "STATUS", "ATTEMPT", "STEP", "PEAK MEMORY", "CPU", "EXIT", "REASON"}}
			if history {
				t.Head = []string{"TIME", "REPLICA", "ATTEMPT", "STATUS", "EXIT", "REASON"}
			}
			var names []string
			for _, r := range all {
				names = append(names, r.ID)
				if history {
					for _, e := range r.History {
						t.row(e.Time.UTC().Format("15:04:05.000"), r.ID, fmt.Sprint(e.Epoch), string(e.Status), exitText(e.ExitCode), e.Reason)
					}
					continue
				}
				t.row(r.ID, string(r.Status), fmt.Sprint(r.Attempt), fmt.Sprint(r.Step), max(r.Usage.Peak, r.Usage.Memory).String(),
					span(time.Duration(r.Usage.CPUSeconds*float64(time.Second))), exitText(r.ExitCode), strings.TrimSpace(r.Reason+heard(r, now)))
			}
			if len(all) == 0 {
				c.say("%s has no replicas yet: %s", runName(run), dash(run.Status.Reason))
			}
			return c.show(all, names, t.String)
		}),
	}
	cmd.Flags().BoolVar(&history, "history", false, "all that happened to each replica")
	return cmd
}

func exitText(code *int) string {
	if code == nil {
		return "-"
	}
	return fmt.Sprint(*code)
}

// heard says so where a live replica has been silent for long.
func heard(r client.Replica, now time.Time) string {
	if r.Status.Final() || r.Heard.IsZero() || now.Sub(r.Heard) < time.Minute {
		return ""
	}
	return fmt.Sprintf(" (last heard of %s)", ago(now, r.Heard))
}
