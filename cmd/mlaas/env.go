package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
	"mlaas.dev/mlaas/supervisor/environment"
)

func (c *cli) envCommand() *cobra.Command {
	env := &cobra.Command{Use: "env", Short: "Environments: ls, fill, upgrade, rollback",
		Example: `  mlaas env ls                 what there is to choose from, and what was resolved
  mlaas env fill /data/env mnist    put what a job needs on a volume for clusters
  mlaas env upgrade mnist      the newest packages: try them, show what changed
  mlaas env rollback mnist     the ones from before`}
	var framework string
	list := &cobra.Command{Use: "ls", Short: "List the frameworks there are, and the environments that were resolved", Args: cobra.NoArgs,
		Example: "  mlaas env ls\n  mlaas env ls --framework pytorch -o json",
		RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
			all, err := cl.Environments(ctx, framework)
			if err != nil {
				return err
			}
			var names []string
			choose := table{Head: []string{"FRAMEWORK", "INSTALLS", "PYTHON", "NOTE"}}
			for _, f := range all.Catalogue {
				choose.row(f.Name, dash(strings.Join(f.Packages, " ")), first(strings.Join(f.Pythons, " "), "any"), f.Notes)
				names = append(names, f.Name)
			}
			resolved := table{Head: []string{"RESOLVED", "PYTHON", "PACKAGES", "LOCK", "BEFORE", "MADE"}}
			for _, e := range all.Items {
				resolved.row(e.Framework, first(e.Python, "any"), dash(strings.Join(e.Packages, " ")), short(e.Lock), fmt.Sprint(len(e.Previous)), ago(time.Now(), e.Created))
			}
			return c.show(all, names, func() string {
				if len(resolved.Rows) == 0 {
					return choose.String()
				}
				return choose.String() + "\n" + resolved.String()
			})
		})}
	list.Flags().StringVar(&framework, "framework", "", "of one framework alone")
	env.AddCommand(list, c.envFill(), c.completesJobs(c.envUpgrade()), c.completesJobs(c.envRollback()))
	return env
}

func (c *cli) envFill() *cobra.Command {
	var env mlaas.Environment
	cmd := &cobra.Command{Use: "fill FOLDER [JOB...]", Short: "Put environments into a folder, such as a volume that clusters mount",
		Args:    cobra.MinimumNArgs(1),
		Example: "  mlaas env fill /data/mlaas/env mnist cifar\n  mlaas env fill /data/mlaas/env --framework tensorflow --package pandas",
		Long: `Makes the environments of jobs, as their next runs would have them, in a folder; or
one of a framework, for which no platform is asked. What is there already stays.

An environment knows its own path: FOLDER is where replicas see the volume. Run
it where the volume is mounted there, on a machine or in a pod with the system,
the CPU and the Python that the image of the replicas has. Then name it in the
settings of the cluster:   environments: {claim: CLAIM, path: FOLDER, readOnly: true}`,
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			m := &environment.Manager{Dir: folder, Log: slog.New(slog.DiscardHandler)}
			if (env.Framework != "") == (len(args) > 1) {
				return tell{What: "it is not said which environments", Fix: "name jobs   mlaas env fill FOLDER JOB   or a framework   mlaas env fill FOLDER --framework tensorflow", Kind: mlaas.ErrSyntax}
			}
			if env.Framework != "" {
				return c.fill(cmd.Context(), m, env, nil)
			}
			cl, err := c.connect()
			if err != nil {
				return err
			}
			for _, name := range args[1:] {
				j, err := findJob(cmd.Context(), cl, name)
				if err != nil {
					return err
				}
				_, lock, err := lockOf(cmd.Context(), cl, j)
				if err == nil {
					err = c.fill(cmd.Context(), m, j.Environment, lock)
				}
				if err != nil {
					return fmt.Errorf("the environment of %s: %w", j.Name, err)
				}
			}
			return nil
		}}
	cmd.Flags().StringVar(&env.Framework, "framework", "", "make one for this framework, and ask no platform")
	cmd.Flags().StringArrayVar(&env.Packages, "package", nil, "with --framework: another package that it has; may be repeated")
	cmd.Flags().StringVar(&env.Python, "python", "", "with --framework: of this version of Python")
	return cmd
}

// fill makes one environment in a folder.
func (c *cli) fill(ctx context.Context, m *environment.Manager, env mlaas.Environment, lock []byte) error {
	s := screen{c: c}
	made, err := m.Prepare(ctx, env, lock, func(sentence string) {
		s.bar = sentence
		if c.Width == nil {
			c.say("  %s", sentence)
		}
		s.draw()
	})
	s.hide()
	if err != nil {
		return err
	}
	if len(made.LockText) == 0 {
		c.done("%s needs no package: it runs in the Python of the image", env.Framework)
		return nil
	}
	c.done("%s is in %s: %s", env.Framework, m.Dir, short(environment.Digest(made.LockText)))
	return nil
}

// beforeLabel keeps the lock that a job had before its last upgrade.
const beforeLabel = "mlaas.dev/lock-before"

func (c *cli) envUpgrade() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{Use: "upgrade JOB", Short: "Lock a job's environment anew: try it, show what changed, take it", Args: one("one JOB", "mlaas env upgrade mnist"),
		Example: "  mlaas env upgrade mnist --dry-run\n  mlaas env upgrade mnist",
		Long: `Resolves the packages of a job to the newest that fit, runs the gallery program
of its framework with them, shows what changed, and takes them for the runs to
come. If the program fails, the job stays as it is. It works on the machine of
the platform.`,
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			m, err := c.environments(cl)
			if err != nil {
				return err
			}
			before, old, err := lockOf(ctx, cl, j)
			if err != nil {
				return err
			}
			s := screen{c: c}
			say := func(sentence string) {
				s.bar = sentence
				if c.Width == nil {
					c.say("  %s", sentence)
				}
				s.draw()
			}
			fresh, locked, err := m.Resolve(ctx, j.Environment, say)
			s.hide()
			if err != nil {
				return err
			}
			if before == locked.Lock {
				c.done("%s has the newest packages that fit already", j.Name)
				return nil
			}
			changes := environment.Diff(old, fresh)
			trial, err := m.Try(ctx, j.Environment, fresh, say)
			s.hide()
			if err != nil {
				return err
			}
			t := table{Head: []string{"PACKAGE", "BEFORE", "NEW"}}
			for _, ch := range changes {
				t.row(ch.Name, dash(ch.Old), dash(ch.New))
			}
			if err := c.show(changes, nil, t.String); err != nil {
				return err
			}
			if !trial.OK {
				return tell{What: "the gallery program of " + j.Environment.Framework + " does not run with the new packages, so " + j.Name + " keeps those it has",
					Why: join("; its last words: ", trial.Why, lastLine(trial.Output)), Fix: "name versions that work together in environment.packages", Kind: mlaas.ErrConflict}
			}
			c.done("the gallery program of %s runs with them (%.1f s)", j.Environment.Framework, trial.Seconds)
			if dry {
				return nil
			}
			body := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(fresh)), nil }
			if err := cl.PutBlob(ctx, locked.Lock, int64(len(fresh)), body); err != nil {
				return err
			}
			if _, err := cl.PatchJob(ctx, string(j.ID), lockPatch(locked.Lock, before), j.Revision); err != nil {
				return err
			}
			c.done("%s takes them from the next run on; go back with   mlaas env rollback %s", j.Name, j.Name)
			return nil
		})}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "try it and show what changed, and leave the job as it is")
	return cmd
}

func (c *cli) envRollback() *cobra.Command {
	return &cobra.Command{Use: "rollback JOB", Short: "Give a job the packages back that it had before its last upgrade", Args: one("one JOB", "mlaas env rollback mnist"),
		Example: "  mlaas env rollback mnist",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			before := mlaas.Digest(j.Labels[beforeLabel])
			if before == "" {
				return tell{What: j.Name + " has no upgrade to go back from", Fix: "see   mlaas env ls", Kind: mlaas.ErrConflict}
			}
			old, err := lockText(ctx, cl, j.Environment.Lock)
			if err != nil {
				return err
			}
			back, err := lockText(ctx, cl, before)
			if err != nil {
				return err
			}
			if _, err := cl.PatchJob(ctx, string(j.ID), lockPatch(before, ""), j.Revision); err != nil {
				return err
			}
			t := table{Head: []string{"PACKAGE", "BEFORE", "NEW"}}
			for _, ch := range environment.Diff(old, back) {
				t.row(ch.Name, dash(ch.Old), dash(ch.New))
			}
			c.done("%s has the packages of lock %s from the next run on", j.Name, short(before))
			return c.show(environment.Diff(old, back), []string{string(before)}, t.String)
		})}
}

// lockPatch gives a job a lock, and remembers the one before it; empty forgets.
func lockPatch(lock, before mlaas.Digest) map[string]any {
	labels := map[string]any{beforeLabel: nil}
	if before != "" {
		labels[beforeLabel] = before
	}
	return map[string]any{"environment": map[string]any{"lock": lock}, "labels": labels}
}

// environments is the maker of environments of the platform, which this
// machine must be.
func (c *cli) environments(cl *client.Client) (*environment.Manager, error) {
	dir, err := c.folder()
	if err != nil {
		return nil, err
	}
	if at, err := readLine(filepath.Join(dir, "url")); err != nil || strings.TrimSuffix(at, "/") != strings.TrimSuffix(cl.URL, "/") {
		return nil, tell{What: "an environment is upgraded on the machine of the platform", Why: dir + " is not the data folder of " + cl.URL,
			Fix: "name its data folder by --dir", Kind: mlaas.ErrConflict}
	}
	return &environment.Manager{Dir: filepath.Join(dir, "env"), Log: slog.New(slog.DiscardHandler)}, nil
}

// lockOf is the lock that the next run of a job would take; empty where it was
// never resolved.
func lockOf(ctx context.Context, cl *client.Client, j mlaas.Job) (mlaas.Digest, []byte, error) {
	lock := j.Environment.Lock
	if lock == "" {
		all, err := cl.Environments(ctx, j.Environment.Framework)
		if err != nil {
			return "", nil, err
		}
		for _, l := range all.Items {
			if l.Spec == j.Environment.Spec() {
				lock = l.Lock
			}
		}
	}
	text, err := lockText(ctx, cl, lock)
	return lock, text, err
}

func lockText(ctx context.Context, cl *client.Client, lock mlaas.Digest) ([]byte, error) {
	if lock == "" {
		return nil, nil
	}
	r, err := cl.Blob(ctx, lock)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}

// knownFramework reports whether the platform can make an environment of this
// framework, and names the nearest where it cannot.
func knownFramework(ctx context.Context, cl *client.Client, framework string) error {
	if framework == "" {
		return nil // an image
	}
	all, err := cl.Environments(ctx, framework)
	if err != nil || len(all.Catalogue) == 0 {
		return err
	}
	var names []string
	for _, f := range all.Catalogue {
		if f.Name == framework {
			return nil
		}
		names = append(names, f.Name)
	}
	t := tell{What: fmt.Sprintf("there is no framework %q", framework), Fix: "use one of " + strings.Join(names, ", "), Kind: mlaas.ErrInvalid}
	if near := meant(framework, names); near != "" {
		t.Fix = fmt.Sprintf("did you mean   --framework %s ?   There are %s", near, strings.Join(names, ", "))
	}
	return t
}
