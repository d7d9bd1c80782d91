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
	var since, until string
	var tail int
	var times bool
	cmd := &cobra.Command{
		Use:   "logs JOB|JOB/N",
		Short: "Show what the replicas of a run said",
		Example: `  mlaas logs mnist               the newest run
  mlaas logs mnist/7 -f          the last 100 lines, and what comes
  mlaas logs mnist --replica worker-0 --tail 20
  mlaas logs mnist --grep 'loss|error' --since 10m
  mlaas logs mnist --previous    of the attempt before, also when its replicas are gone`,
		Args: one("JOB or JOB/N", "mlaas logs mnist"),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			run, err := findRun(ctx, cl, args[0])
			if err != nil {
				return err
			}
			if _, err := regexp.Compile(q.Grep); err != nil {
				return tell{What: fmt.Sprintf("--grep %s: %v", q.Grep, err), Fix: "write a regular expression as RE2 has it", Kind: mlaas.ErrInvalid}
			}
			if q.Since, err = moment("--since", since, time.Now()); err != nil {
				return err
			}
			if q.Until, err = moment("--until", until, time.Now()); err != nil {
				return err
			}
			q.Last = tail
			if q.Follow && tail == 0 && since == "" && q.From == 0 {
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
			for l, err := range cl.Log(ctx, run.ID, q) {
				switch {
				case err != nil:
					return err
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
	f.StringVar(&since, "since", "", "lines written since then: 10m, 2h, or a time such as 2026-01-02T03:04:05Z")
	f.StringVar(&until, "until", "", "lines written before: the same")
	f.IntVar(&q.Attempt, "attempt", 0, "of one attempt alone")
	f.BoolVarP(&q.Previous, "previous", "p", false, "of the attempt before the newest")
	f.StringVar(&q.Grep, "grep", "", "lines that match a regular expression alone")
	f.BoolVarP(&times, "times", "t", false, "show when each line was written")
	cmd.MarkFlagsMutuallyExclusive("tail", "from")
	cmd.MarkFlagsMutuallyExclusive("attempt", "previous")
	return cmd
}

// moment reads a time, or how long before now; zero where nothing is said.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, mlaas.Invalid(flag, "how long ago, such as 10m, or a time such as 2026-01-02T03:04:05Z", text)
}
