package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) notifyCommand() *cobra.Command {
	notify := &cobra.Command{Use: "notify", Short: "Be told when runs end: add, ls, rm, test, deliveries",
		Example: `  mlaas notify add mnist --email ada@example.org     when a run of mnist fails
  mlaas notify add --webhook https://hooks.example.org/x --on succeeded,failed
  mlaas notify test ID                               whether it arrives`,
		Long: `Has a webhook or a mailbox told when runs end. A webhook gets a CloudEvent, as
those of action rules do; e-mail needs a mail server, which the operator of the
platform sets with MLAAS_SMTP.`}
	notify.AddCommand(c.completesJobs(c.notifyAddCommand()), c.notifyListCommand(), c.notifyRemoveCommand(), c.notifyTestCommand(), c.notifiedCommand())
	return notify
}

func (c *cli) notifyAddCommand() *cobra.Command {
	var n client.Notification
	var on []string
	cmd := &cobra.Command{Use: "add [JOB]", Short: "Have a webhook or a mailbox told when runs of a job end; without JOB, of every job", Args: cobra.MaximumNArgs(1),
		Example: "  mlaas notify add mnist --email ada@example.org\n  mlaas notify add --webhook https://hooks.example.org/x --secret hook --on succeeded,failed",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			if len(args) == 1 {
				n.Job = args[0]
			}
			for _, end := range on {
				n.On = append(n.On, mlaas.State(end))
			}
			s, err := cl.Notify(ctx, n)
			if err != nil {
				return err
			}
			c.done("%s is told; see whether it arrives   mlaas notify test %s", s.URL+s.Email, s.ID)
			return nil
		})}
	f := cmd.Flags()
	f.StringVar(&n.URL, "webhook", "", "URL that gets a CloudEvent")
	f.StringVar(&n.Secret, "secret", "", "name of the secret that signs it")
	f.StringVar(&n.Email, "email", "", "mailbox, instead of a webhook")
	f.StringSliceVar(&on, "on", nil, "of which ends: succeeded, failed, stopped (else failed)")
	return cmd
}

func (c *cli) notifyListCommand() *cobra.Command {
	return &cobra.Command{Use: "ls", Short: "List whom you want to be told", Args: cobra.NoArgs, Example: "  mlaas notify ls",
		RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
			all, err := client.Collect(cl.Notifications(ctx))
			if err != nil {
				return err
			}
			t := table{Head: []string{"ID", "JOB", "ON", "TOLD", "SINCE"}}
			var ids []string
			for _, s := range all {
				var on []string
				for _, end := range s.On {
					on = append(on, string(end))
				}
				ids = append(ids, s.ID)
				t.row(s.ID, first(string(s.Job), "every"), strings.Join(on, ","), s.URL+s.Email, ago(time.Now(), s.Created))
			}
			return c.show(all, ids, t.String)
		})}
}

func (c *cli) notifyRemoveCommand() *cobra.Command {
	return &cobra.Command{Use: "rm ID...", Short: "Have them told no more", Args: some("one ID or more", "mlaas notify rm 01k4x3v0c8r2m5d1q7s9t6w0ze"),
		Example: "  mlaas notify rm 01k4x3v0c8r2m5d1q7s9t6w0ze",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			for _, id := range args {
				if err := cl.DeleteNotification(ctx, id); err != nil {
					return err
				}
				c.done("%s is told no more", id)
			}
			return nil
		})}
}

func (c *cli) notifyTestCommand() *cobra.Command {
	return &cobra.Command{Use: "test ID", Short: "Send a test", Args: one("one ID", "mlaas notify test 01k4x3v0c8r2m5d1q7s9t6w0ze"),
		Example: "  mlaas notify test 01k4x3v0c8r2m5d1q7s9t6w0ze",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			d, err := cl.TestNotification(ctx, args[0])
			if err != nil {
				return err
			}
			c.done("test %s is sent; see   mlaas notify deliveries %s", d, args[0])
			return nil
		})}
}

func (c *cli) notifiedCommand() *cobra.Command {
	return &cobra.Command{Use: "deliveries ID", Short: "List what was sent, newest first, and how that went", Args: one("one ID", "mlaas notify deliveries 01k4x3v0c8r2m5d1q7s9t6w0ze"),
		Example: "  mlaas notify deliveries 01k4x3v0c8r2m5d1q7s9t6w0ze\n  mlaas notify deliveries 01k4x3v0c8r2m5d1q7s9t6w0ze -o json    with each try",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			all, err := client.Collect(cl.Notified(ctx, args[0]))
			if err != nil {
				return err
			}
			t := table{Head: []string{"ID", "RUN", "STATE", "TRIES", "MADE", "LAST"}}
			var ids []string
			for _, d := range all {
				last := "-"
				if n := len(d.Tries); n > 0 {
					if last = d.Tries[n-1].Error; last == "" {
						last = "taken"
					}
				}
				ids = append(ids, d.ID)
				t.row(d.ID, first(string(d.Run), "test"), string(d.State), fmt.Sprint(len(d.Tries)), ago(time.Now(), d.Created), last)
			}
			return c.show(all, ids, t.String)
		})}
}
