package main

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) logsCommand() *cobra.Command {
	var q client.LogQuery
	var since time.Duration
	var tail int
	var times bool
	cmd := &cobra.Command{
		Use:   "logs JOB|JOB/N",
		Short: "Show what the replicas of a run said",
		Example: `  mlaas logs mnist               the newest run
  mlaas logs mnist/7 -f          the last 100 lines, and what comes
  mlaas logs mnist --replica worker-0 --tail 20
  mlaas logs mnist --grep 'loss|error' --since 10m`,
		Args: one("JOB or JOB/N", "mlaas logs mnist"),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			run, err := findRun(ctx, cl, args[0])
			if err != nil {
				return err
			}
			if _, err := regexp.Compile(q.Grep); err != nil {
				return tell{What: fmt.Sprintf("--grep %s: %v", q.Grep, err), Fix: "write a regular expression as RE2 has it", Kind: mlaas.ErrInvalid}
			}
			q.Last = tail
			if q.Follow && tail == 0 && since == 0 && q.From == 0 {
				q.Last = 100
			}
			q.Lost = func(err error) {
				if err != nil {
					c.say("%s %v; trying again", c.paint(yellow, "!"), err)
				} else {
					c.say("%s mlaas answers again", c.paint(green, "✓"))
				}
			}
			p := printer{c: c, alone: replicasOf(run.Spec) == 1 || q.Replica != "", times: times}
			after := time.Time{}
			if since > 0 {
				after = time.Now().Add(-since)
			}
			for l, err := range cl.Log(ctx, run.ID, q) {
				switch {
				case err != nil:
					return err
				case l.Time.Before(after):
				case c.output == "json":
					if err := c.line(l); err != nil {
						return err
					}
				default:
					fmt.Fprintln(c.Out, p.format(l))
				}
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&q.Follow, "follow", "f", false, "go on until the run has ended")
	f.StringVar(&q.Replica, "replica", "", "of one replica alone, such as worker-0")
	f.IntVar(&tail, "tail", 0, "the last so many lines (with -f: 100)")
	f.Int64Var(&q.From, "from", 0, "from this cursor on, as -o json shows it")
	f.DurationVar(&since, "since", 0, "lines younger than this: 10m, 2h")
	f.StringVar(&q.Grep, "grep", "", "lines that match a regular expression alone")
	f.BoolVarP(&times, "times", "t", false, "show when each line was written")
	cmd.MarkFlagsMutuallyExclusive("tail", "from")
	return cmd
}
