package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) ruleCommand() *cobra.Command {
	rules := &cobra.Command{Use: "rule", Short: "Action rules: test, deliveries, redeliver",
		Example: `  mlaas rule test mnist/7 -F rules.yaml   what these rules would have done in a run that was
  mlaas rule deliveries mnist             the webhooks that its rules sent`,
		Long: `Action rules say what is done when something is seen of a replica: its status,
reason or exit code, a line that it writes, no step or nothing used for a while.
They are a part of the job: "rules" in mlaas.yaml.`}
	rules.AddCommand(c.completesJobs(c.ruleTestCommand()), c.completesJobs(c.deliveriesCommand()), c.completesJobs(c.redeliverCommand()))
	return rules
}

func (c *cli) ruleTestCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "test JOB|JOB/N", Short: "Say what rules would have done in a run that was; nothing is done",
		Example: `  mlaas rule test mnist                    the rules of the job, on its newest run
  mlaas rule test mnist/7 -F rules.yaml    those of a file, which need not be the job's`,
		Args: one("JOB or JOB/N", "mlaas rule test mnist/7 -F rules.yaml"),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			run, err := findRun(ctx, cl, args[0])
			if err != nil {
				return err
			}
			var rules []mlaas.ActionRule
			if file != "" {
				if rules, err = rulesOf(file); err != nil {
					return err
				}
			}
			report, err := cl.TryRules(ctx, string(run.Job), run.ID, rules)
			if err != nil {
				return err
			}
			var names []string
			t := table{Head: []string{"TIME", "RULE", "DOES", "REPLICA", "ATTEMPT", "SAW"}}
			for _, f := range report.Fired {
				names = append(names, f.Rule)
				t.row(f.Time.UTC().Format("2006-01-02 15:04:05"), f.Rule, f.Do, f.Replica, fmt.Sprint(f.Attempt), f.Saw)
			}
			if len(report.Fired) == 0 {
				c.say("nothing would have fired in %s", runName(run))
			}
			for _, u := range report.Unknown {
				c.say("%s %s: %s", c.paint(yellow, "!"), u.Rule, u.Why)
			}
			return c.show(report, names, t.String)
		})}
	cmd.Flags().StringVarP(&file, "file", "F", "", "rules to try: a list, or a mlaas.yaml with rules (else those of the job)")
	return cmd
}

// rulesOf reads the rules of a file: a list of them, or a job that has some.
func rulesOf(file string) ([]mlaas.ActionRule, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, missing(file, err)
	}
	raw, err := fromYAML(text)
	if err != nil {
		return nil, inFile(filepath.Base(file), err)
	}
	var rules []mlaas.ActionRule
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("[")) {
		err = mlaas.Decode(raw, &rules)
	} else {
		var spec *mlaas.JobSpec
		if spec, err = readSpec(file); err != nil {
			return nil, err
		}
		rules = spec.Rules
	}
	if err == nil {
		err = mlaas.CheckRules(rules)
	}
	if err != nil {
		return nil, inFile(filepath.Base(file), err)
	}
	if len(rules) == 0 {
		return nil, tell{What: file + " has no rules", Fix: "write a list of {name, on, do}; see docs/how-to/rules.md", Kind: mlaas.ErrInvalid}
	}
	return rules, nil
}

func (c *cli) deliveriesCommand() *cobra.Command {
	return &cobra.Command{Use: "deliveries JOB|JOB/N", Short: "List the webhooks that the rules of a run sent, newest first", Args: one("JOB or JOB/N", "mlaas rule deliveries mnist"),
		Example: "  mlaas rule deliveries mnist/7\n  mlaas rule deliveries mnist -o json    with each try",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			run, err := findRun(ctx, cl, args[0])
			if err != nil {
				return err
			}
			all, err := client.Collect(cl.Deliveries(ctx, run.ID))
			if err != nil {
				return err
			}
			var ids []string
			t := table{Head: []string{"ID", "RULE", "REPLICA", "STATE", "TRIES", "MADE", "LAST"}}
			for _, d := range all {
				last := "-"
				if n := len(d.Tries); n > 0 {
					if last = d.Tries[n-1].Error; last == "" {
						last = fmt.Sprintf("taken with %d", d.Tries[n-1].Status)
					}
				}
				ids = append(ids, d.ID)
				t.row(d.ID, d.Rule, d.Replica, string(d.State), fmt.Sprint(len(d.Tries)), ago(time.Now(), d.Created), last)
			}
			return c.show(all, ids, t.String)
		})}
}

func (c *cli) redeliverCommand() *cobra.Command {
	return &cobra.Command{Use: "redeliver JOB|JOB/N ID", Short: "Send a webhook again: the same event, with the same id",
		Example: "  mlaas rule redeliver mnist/7 01k4x3v0c8r2m5d1q7s9t6w0ze",
		Args:    cobra.ExactArgs(2),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			run, err := findRun(ctx, cl, args[0])
			if err != nil {
				return err
			}
			d, err := cl.Redeliver(ctx, run.ID, args[1])
			if err != nil {
				return err
			}
			c.done("%s of rule %s is sent again; see   mlaas rule deliveries %s", d.ID, d.Rule, runName(run))
			return nil
		})}
}
