package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) stackCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stack JOB|JOB/N [REPLICA]",
		Short: "Show what every thread of a running replica does now",
		Long: `Shows the stack of every thread of a running replica's Python processes, also of
one that hangs: the innermost call first. The program goes on as it was.`,
		Example: `  mlaas stack mnist                the first replica of the newest run
  mlaas stack mnist/7 worker-1`,
		Args: cobra.RangeArgs(1, 2),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			run, replica, err := findReplica(ctx, cl, args[0], append(args[1:], "")[0])
			if err != nil {
				return err
			}
			s, err := cl.Stacks(ctx, string(run.Job), run.ID, replica)
			if err != nil {
				return err
			}
			return c.show(s, nil, func() string { return stacks(s) })
		}),
	}
}

// stacks is how people read them.
func stacks(s mlaas.Stacks) string {
	var b strings.Builder
	for i, p := range s.Processes {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "process %d: %s\n", p.PID, strings.Join(p.Command, " "))
		if p.Error != "" {
			fmt.Fprintf(&b, "  %s\n", p.Error)
		}
		for _, t := range p.Threads {
			fmt.Fprintf(&b, "  thread %s\n", first(t.Name, t.ID))
			for _, f := range t.Frames {
				fmt.Fprintf(&b, "    %s:%d in %s\n", shortFile(f.File), f.Line, f.Function)
				if f.Text != "" {
					fmt.Fprintf(&b, "      %s\n", f.Text)
				}
			}
		}
	}
	return b.String()
}

// shortFile is a file of the program by its path in the code, and one of a
// package from where packages are.
func shortFile(file string) string {
	for _, root := range []string{"/code/", "/site-packages/", "/dist-packages/"} {
		if _, rest, ok := strings.Cut(file, root); ok {
			return rest
		}
	}
	if dir := filepath.Base(filepath.Dir(file)); strings.HasPrefix(dir, "python") {
		return filepath.Base(file)
	}
	return file
}

func (c *cli) debugCommand() *cobra.Command {
	var at int
	cmd := &cobra.Command{
		Use:   "debug JOB|JOB/N [REPLICA]",
		Short: "Attach a debugger to the program of a running replica",
		Long: `Has the program of a running replica let a debugger in, and brings it to a port
of this machine until Ctrl+C: attach there with any editor that speaks the debug
adapter protocol. The environment of the job must have debugpy: add it to
environment.packages, or run with --package debugpy.`,
		Example: `  mlaas debug mnist                then attach to the address that it prints
  mlaas debug mnist/7 worker-1 --at 5678`,
		Args: cobra.RangeArgs(1, 2),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			if at < 0 || at > 65535 {
				return mlaas.Invalid("--at", "0 to 65535", strconv.Itoa(at))
			}
			run, replica, err := findReplica(ctx, cl, args[0], append(args[1:], "")[0])
			if err != nil {
				return err
			}
			d, err := cl.Debugger(ctx, string(run.Job), run.ID, replica)
			if err != nil {
				return err
			}
			f := &forward{c: c, cl: cl, run: run, replica: replica}
			return f.serve(ctx, [][2]int{{at, d.Port}})
		}),
	}
	cmd.Flags().IntVar(&at, "at", 0, "port of this machine; 0 takes any that is free")
	return cmd
}
