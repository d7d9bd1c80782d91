package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
	"mlaas.dev/mlaas/internal/stream"
)

func (c *cli) shellCommand() *cobra.Command {
	var plain bool
	cmd := &cobra.Command{
		Use:   "shell JOB|JOB/N [REPLICA] [-- COMMAND...]",
		Short: "Open a shell in a running replica, or run a command there",
		Long: `Opens a shell beside the program of a running replica: as the program's user, in
its sandbox, with its variables, in the folder of its code. What it uses counts
as the program's. It goes through the platform, wherever the replica runs, and
ends with this command (what it left in the background ends with the replica);
that you opened it stands in the replica's history.`,
		Example: `  mlaas shell mnist                            the first replica of the newest run
  mlaas shell mnist/7 worker-1
  mlaas shell mnist worker-0 -- nvidia-smi
  echo 'print(1)' | mlaas shell mnist -- python3 -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var command []string
			if n := cmd.ArgsLenAtDash(); n >= 0 {
				args, command = args[:n], args[n:]
			}
			if len(args) < 1 || len(args) > 2 {
				return tell{What: "mlaas shell takes a job and perhaps a replica", Fix: "write   mlaas shell mnist worker-0   with a command after --", Kind: mlaas.ErrSyntax}
			}
			return c.with(func(ctx context.Context, cl *client.Client, args []string) error {
				run, replica, err := findReplica(ctx, cl, args[0], slices.Concat(args[1:], []string{""})[0])
				if err != nil {
					return err
				}
				ask := client.ShellAsk{Command: command}
				in, typed := c.In.(*os.File)
				if typed && c.Terminal && !plain && term.IsTerminal(int(in.Fd())) {
					return c.terminal(ctx, cl, run, replica, ask, in)
				}
				at, err := cl.Shell(ctx, string(run.Job), run.ID, replica, ask)
				if err != nil {
					return err
				}
				code, err := pump(ctx, at, c.In, c.Out, c.Err)
				return exited(code, err)
			})(cmd, args)
		},
	}
	cmd.Flags().BoolVarP(&plain, "no-terminal", "T", false, "do not ask for a terminal, also where this is one")
	return cmd
}

// exited makes the end of a command in a replica the end of ours.
func exited(code int, err error) error {
	if err == nil && code != 0 {
		return exit(code & 0xff)
	}
	return err
}

// findReplica finds a replica that can be looked into: the one that is named,
// or the first of the run that lives.
func findReplica(ctx context.Context, cl *client.Client, ref, name string) (client.Run, string, error) {
	run, err := findRun(ctx, cl, ref)
	if err != nil {
		return run, "", err
	}
	all, err := client.Collect(cl.Replicas(ctx, string(run.Job), run.ID))
	if err != nil {
		return run, "", err
	}
	var names []string
	for _, r := range all {
		names = append(names, r.ID)
		if r.ID == name || name == "" && !r.Status.Final() && r.Ready != nil {
			return run, r.ID, nil
		}
	}
	if name != "" {
		return run, "", absent("replica", name, names, "mlaas replicas "+runName(run))
	}
	return run, "", tell{What: runName(run) + " has no replica that runs", Why: run.Status.Reason, Fix: "see   mlaas replicas " + runName(run), Kind: mlaas.ErrConflict}
}

// terminal is a shell in this terminal: what is typed goes there as it is, and
// its size follows ours.
func (c *cli) terminal(ctx context.Context, cl *client.Client, run client.Run, replica string, ask client.ShellAsk, in *os.File) error {
	size := func() mlaas.Size {
		columns, rows, err := term.GetSize(int(in.Fd()))
		if err != nil || columns < 1 || rows < 1 {
			return mlaas.Size{Columns: 80, Rows: 24}
		}
		return mlaas.Size{Columns: columns, Rows: rows}
	}
	now := size()
	ask.Terminal, ask.Term = &now, c.Env("TERM")
	at, err := cl.Shell(ctx, string(run.Job), run.ID, replica, ask)
	if err != nil {
		return err
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		at.Close()
		return err
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	ctx, cancel := context.WithCancel(ctx)
	sizes := make(chan stream.Packet, 1)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-resized:
				select {
				case sizes <- stream.JSON(stream.Size, size()):
				case <-ctx.Done():
				}
			}
		}
	}()
	code, err := pumpSized(ctx, at, in, c.Out, c.Err, sizes)
	cancel()
	signal.Stop(resized)
	return errors.Join(exited(code, err), term.Restore(int(in.Fd()), before))
}

// pump brings in to the other end of a stream and what comes back to out and
// wrong, until the other end says how it ended. It closes the stream.
func pump(ctx context.Context, at *stream.Stream, in io.Reader, out, wrong io.Writer) (code int, err error) {
	return pumpSized(ctx, at, in, out, wrong, nil)
}

func pumpSized(ctx context.Context, at *stream.Stream, in io.Reader, out, wrong io.Writer, sizes <-chan stream.Packet) (code int, err error) {
	defer at.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	packets := make(chan stream.Packet)
	go func() { // one that waits for a key cannot be told to stop: it ends with the process
		for {
			buf := make([]byte, stream.Chunk)
			n, err := in.Read(buf)
			p := stream.Packet{Kind: stream.Data, Data: buf[:n]}
			if n == 0 && err != nil {
				p = stream.Packet{Kind: stream.End}
			}
			select {
			case packets <- p:
			case <-ctx.Done():
				return
			}
			if p.Kind == stream.End {
				return
			}
		}
	}()
	go func() {
		for {
			var p stream.Packet
			select {
			case <-ctx.Done():
				return
			case p = <-packets:
			case p = <-sizes:
			}
			if at.Send(ctx, p) != nil {
				return // whoever receives hears why
			}
		}
	}()
	for {
		p, err := at.Receive(ctx)
		if err != nil {
			return 0, fmt.Errorf("the connection to the replica is lost: %w", mlaas.ErrUnavailable)
		}
		switch p.Kind {
		case stream.Data:
			_, err = out.Write(p.Data)
		case stream.Errors:
			_, err = wrong.Write(p.Data)
		case stream.Exit:
			var end stream.Ending
			if err := json.Unmarshal(p.Data, &end); err != nil {
				return 0, fmt.Errorf("how it ended cannot be read: %w: %w", err, mlaas.ErrInternal)
			}
			return end.Code, end.Err()
		}
		if err != nil {
			return 0, err // nobody reads what it says
		}
	}
}

// place is one side of a copy: a file here, or one in a replica.
type place struct{ job, replica, path string }

// placeOf reads PATH, JOB:PATH or JOB:REPLICA:PATH. A path here that has a
// colon is written with a slash before it.
func placeOf(text string) place {
	job, rest, ok := strings.Cut(text, ":")
	if !ok || strings.HasPrefix(text, ".") || strings.HasPrefix(text, "/") {
		return place{path: text}
	}
	if replica, path, ok := strings.Cut(rest, ":"); ok {
		if _, _, err := mlaas.SplitReplica(replica); err == nil {
			return place{job, replica, path}
		}
	}
	return place{job: job, path: rest}
}
