package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) kernelCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kernel JOB [start|stop|restart|interrupt|ls]",
		Short: "Show or change the kernel of a job: an interactive Python in its environment",
		Example: `  mlaas kernel mnist              where it stands
  mlaas kernel mnist start        it also starts with the first   mlaas code exec
  mlaas kernel mnist restart      begin again, with nothing of what it knew
  mlaas kernel mnist interrupt    what it executes, and drop what waits
  mlaas kernel mnist ls           what it was given, and how that went`,
		Args:      cobra.RangeArgs(1, 2),
		ValidArgs: []string{"start", "stop", "restart", "interrupt", "ls"},
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			job, do := string(j.ID), ""
			if len(args) > 1 {
				do = args[1]
			}
			var k client.Kernel
			switch do {
			case "":
				k, err = cl.Kernel(ctx, job)
			case "start":
				k, err = cl.StartKernel(ctx, job, rand.Text())
			case "stop", "restart", "interrupt":
				k, err = cl.TellKernel(ctx, job, do)
			case "ls":
				all, err := client.Collect(cl.Executions(ctx, job))
				if err != nil {
					return err
				}
				t := table{Head: []string{"EXECUTION", "STATE", "BEGAN", "TOOK", "FILE", "CODE", "ERROR"}}
				var names []string
				for _, e := range all {
					began, took, file := "-", "-", dash(e.Path)
					if e.Started != nil {
						began = ago(time.Now(), *e.Started)
						if e.Ended != nil {
							took = span(e.Ended.Sub(*e.Started))
						}
					}
					if e.Path != "" && e.Line > 0 {
						file = fmt.Sprintf("%s:%d", e.Path, e.Line)
					}
					code, _, _ := strings.Cut(strings.TrimSpace(e.Code), "\n")
					t.row(e.ID, e.State, began, took, file, clipped(code, 40), e.Error)
					names = append(names, e.ID)
				}
				return c.show(all, names, t.String)
			default:
				return mlaas.Invalid("kernel", "start, stop, restart, interrupt or ls", do)
			}
			if err != nil {
				return err
			}
			return c.show(k, []string{string(k.Run)}, func() string {
				text := fmt.Sprintf("kernel of %s: %s", j.Name, k.State)
				if k.Reason != "" {
					text += " (" + k.Reason + ")"
				}
				return text + "\n"
			})
		}),
	}
}

// clipped is s, or what fits of it.
func clipped(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func (c *cli) codeExec() *cobra.Command {
	var code, version string
	cmd := &cobra.Command{
		Use:   "exec JOB [FILE]",
		Short: "Execute code in the kernel of a job and show what it says",
		Example: `  mlaas code exec mnist -c 'print(model.count_params())'
  mlaas code exec mnist train.py              a file of this machine
  mlaas code exec mnist -c 'import data' --version v7   with the files of v7`,
		Args: cobra.RangeArgs(1, 2),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			ask := client.ExecuteAsk{Code: code}
			switch {
			case (len(args) == 2) == (code != ""):
				return mlaas.Invalid("FILE", "a file, or -c CODE", code)
			case len(args) == 2:
				data, err := os.ReadFile(args[1])
				if err != nil {
					return missing(args[1], err)
				}
				ask.Code, ask.Path, ask.Line = string(data), args[1], 1
				if strings.HasPrefix(ask.Path, "/") || strings.HasPrefix(ask.Path, "..") {
					ask.Path = ""
				}
			}
			if version != "" {
				ask.Version = versionID(version)
			}
			e, err := cl.Execute(ctx, string(j.ID), ask, rand.Text())
			if err != nil {
				return err
			}
			return c.followExecution(ctx, cl, j, e)
		}),
	}
	cmd.Flags().StringVarP(&code, "code", "c", "", "the code itself")
	cmd.Flags().StringVar(&version, "version", "", "have the files of this version: v7 or latest")
	return cmd
}

// followExecution shows what an execution says. Interrupted by its user, it
// interrupts the kernel.
func (c *cli) followExecution(ctx context.Context, cl *client.Client, j mlaas.Job, e client.Execution) error {
	var failed *mlaas.KernelEvent
	for ev, err := range cl.KernelEvents(ctx, e.Run, 0) {
		if err != nil {
			if ctx.Err() != nil {
				within, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
				defer cancel()
				_, _ = cl.TellKernel(within, string(j.ID), "interrupt") // it may be over; we leave either way
			}
			return err
		}
		if ev.Type == "kernel" && ev.Reason != "" && ev.Time.After(e.Created) {
			c.say("kernel: %s: %s", ev.State, ev.Reason)
		}
		if ev.Execution != e.ID {
			continue
		}
		if c.output == "json" {
			if err := c.line(ev); err != nil {
				return err
			}
		}
		switch ev.Type {
		case "stream":
			out := c.Out
			if ev.Name != "stdout" {
				out = c.Err
			}
			if c.output != "json" {
				fmt.Fprint(out, ev.Text)
			}
		case "result", "display", "update":
			var text string
			if json.Unmarshal(ev.Data["text/plain"], &text) == nil && c.output != "json" {
				fmt.Fprintln(c.Out, text)
			}
		case "error":
			failed = &ev
			if c.output != "json" {
				fmt.Fprintln(c.Err, strings.Join(ev.Traceback, "\n"))
			}
		case "input":
			fmt.Fprint(c.Out, ev.Prompt)
			line, err := bufio.NewReader(os.Stdin).ReadString('\n')
			if err != nil && err != io.EOF {
				return err
			}
			if err := cl.Answer(ctx, string(j.ID), strings.TrimSuffix(line, "\n")); err != nil {
				return err
			}
		case "execution":
			switch ev.State {
			case mlaas.ExecutionOK:
				return nil
			case mlaas.ExecutionError, mlaas.ExecutionInterrupted:
				what := ev.Error
				if failed != nil && failed.File != "" {
					what = fmt.Sprintf("%s:%d: %s", failed.File, failed.Line, ev.Error)
				}
				c.say("%s %s", c.paint(red, "✗"), what)
				return exit(1)
			}
		}
	}
	return nil
}
