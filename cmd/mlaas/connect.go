package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

// folder is the data folder of the platform on this machine: --dir, else
// MLAAS_DIR, else ~/.mlaas.
func (c *cli) folder() (string, error) {
	for _, d := range []string{c.dir, c.Env("MLAAS_DIR")} {
		if d != "" {
			return filepath.Abs(d)
		}
	}
	home := c.Env("HOME")
	if home == "" {
		return "", tell{What: "this user has no home folder", Fix: "name the data folder by --dir or MLAAS_DIR", Kind: mlaas.ErrInvalid}
	}
	return filepath.Join(home, ".mlaas"), nil
}

// connect finds the platform: flags, then the environment, then the data
// folder of this machine. A token of the folder is given only to the server
// that wrote it.
func (c *cli) connect() (*client.Client, error) {
	at, token := c.url, c.token
	if c.dir == "" {
		at, token = first(at, c.Env("MLAAS_URL")), first(token, c.Env("MLAAS_TOKEN"))
	}
	if at == "" || token == "" {
		dir, err := c.folder()
		if err != nil && at == "" {
			return nil, err
		}
		local, err := readLine(filepath.Join(dir, "url"))
		switch {
		case at == "" && errors.Is(err, fs.ErrNotExist):
			return nil, tell{What: "no platform is known here", Why: "neither --url nor MLAAS_URL is set, and there is no " + filepath.Join(dir, "url"),
				Fix: "start one with   mlaas up", Kind: mlaas.ErrUnavailable}
		case at == "" && err != nil:
			return nil, err
		}
		at = first(at, local)
		if token == "" && strings.TrimSuffix(at, "/") == strings.TrimSuffix(local, "/") {
			if token, err = readLine(filepath.Join(dir, "token")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	cl := &client.Client{URL: at, Token: token, Patience: time.Second, Agent: fmt.Sprintf("mlaas/%s (%s; %s)", release(), runtime.GOOS, runtime.GOARCH)}
	if c.debug {
		cl.Trace = func(method, url, outcome string) {
			fmt.Fprintln(c.Err, c.paint(dim, fmt.Sprintf("%s %s: %s", method, url, outcome)))
		}
	}
	return cl, nil
}

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

func readLine(file string) (string, error) {
	text, err := os.ReadFile(file)
	return strings.TrimSpace(string(text)), err
}

// with makes a command of what it does with a client.
func (c *cli) with(do func(ctx context.Context, cl *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cl, err := c.connect()
		if err != nil {
			return err
		}
		return do(cmd.Context(), cl, args)
	}
}

// completesJobs makes a command offer the names of jobs as its first argument.
func (c *cli) completesJobs(cmd *cobra.Command) *cobra.Command {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		cl, err := c.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		var names []string
		for j, err := range cl.Jobs(ctx, false) {
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			if strings.HasPrefix(j.Name, begun) {
				names = append(names, j.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

// findJob finds a job by its name, its id or the unique beginning of its id.
func findJob(ctx context.Context, cl *client.Client, ref string) (mlaas.Job, error) {
	ref, _, _ = strings.Cut(ref, "/")
	if ref == "" {
		return mlaas.Job{}, tell{What: "a job has no empty name", Kind: mlaas.ErrInvalid, Fix: "see   mlaas job ls"}
	}
	j, err := cl.Job(ctx, ref)
	if err == nil || !errors.Is(err, mlaas.ErrNotFound) {
		return j, err
	}
	jobs, err := client.Collect(cl.Jobs(ctx, false))
	if err != nil {
		return mlaas.Job{}, err
	}
	var names []string
	var near []mlaas.Job
	for _, j := range jobs {
		names = append(names, j.Name)
		if strings.HasPrefix(string(j.ID), ref) {
			near = append(near, j)
		}
	}
	switch {
	case len(near) == 1:
		return cl.Job(ctx, string(near[0].ID)) // whole, with its results
	case len(near) > 1:
		return mlaas.Job{}, tell{What: fmt.Sprintf("%q begins the ids of %d jobs", ref, len(near)), Kind: mlaas.ErrNotFound,
			Fix: "write more of the id, or the name: " + near[0].Name + ", " + near[1].Name + " ..."}
	}
	return mlaas.Job{}, absent("job", ref, names, "mlaas job ls")
}

// findRun finds a run: NAME/7, the newest of NAME, or a run by its id.
func findRun(ctx context.Context, cl *client.Client, ref string) (client.Run, error) {
	if name, number, ok := strings.Cut(ref, "/"); ok || len(ref) == 26 {
		at := ref
		if ok {
			at = name + "." + number
		}
		if r, err := cl.Run(ctx, at); err == nil || !errors.Is(err, mlaas.ErrNotFound) {
			return r, err
		}
	}
	j, err := findJob(ctx, cl, ref)
	if err != nil {
		return client.Run{}, err
	}
	_, text, numbered := strings.Cut(ref, "/")
	number, err := strconv.Atoi(text)
	if numbered && (err != nil || number < 1) {
		return client.Run{}, tell{What: fmt.Sprintf("%q is no run", ref), Fix: "write NAME/NUMBER, such as " + j.Name + "/1", Kind: mlaas.ErrInvalid}
	}
	var numbers []int
	for r, err := range cl.Runs(ctx, string(j.ID)) {
		if err != nil {
			return client.Run{}, err
		}
		if !numbered || r.Number == number {
			return r, nil
		}
		numbers = append(numbers, r.Number)
	}
	if len(numbers) == 0 && !numbered {
		return client.Run{}, tell{What: j.Name + " was never run", Fix: "run it:   mlaas job run " + j.Name, Kind: mlaas.ErrNotFound}
	}
	t := tell{What: fmt.Sprintf("%s has no run %s", j.Name, text), Kind: mlaas.ErrNotFound, Fix: "see   mlaas job get " + j.Name}
	if len(numbers) > 0 {
		t.Why = fmt.Sprintf("its runs are %d to %d", slices.Min(numbers), slices.Max(numbers))
	}
	return client.Run{}, t
}

func runName(r client.Run) string { return fmt.Sprintf("%s/%d", r.JobName, r.Number) }
