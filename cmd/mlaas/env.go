package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas/client"
)

func (c *cli) envCommand() *cobra.Command {
	env := &cobra.Command{Use: "env", Short: "Environments: ls, upgrade, rollback",
		Example: `  mlaas env ls                 what was resolved, and for what
  mlaas env upgrade mnist      resolve it anew, try it, show the difference
  mlaas env rollback mnist     go back to the one before`}
	var yes bool
	upgrade := &cobra.Command{Use: "upgrade JOB", Short: "Resolve a job's environment anew, try it, and show what changed", Args: one("one JOB", "mlaas env upgrade mnist"),
		Example: "  mlaas env upgrade mnist",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			_ = yes
			_ = j
			return nil
		})}
	env.AddCommand(
		&cobra.Command{Use: "ls", Short: "List the environments that were resolved", Args: cobra.NoArgs, Example: "  mlaas env ls",
			RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
				all, err := client.Collect(cl.Environments(ctx))
				if err != nil {
					return err
				}
				t := table{Head: []string{"FRAMEWORK", "PYTHON", "PACKAGES", "LOCK", "BEFORE", "MADE"}}
				var names []string
				for _, e := range all {
					t.row(e.Framework, e.Python, dash(strings.Join(e.Packages, " ")), short(e.Lock), fmt.Sprint(len(e.Previous)), ago(time.Now(), e.Created))
					names = append(names, string(e.Lock))
				}
				return c.show(all, names, t.String)
			})},
		upgrade,
	)
	return env
}
