package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) runCommand() *cobra.Command {
	var s specFlags
	var follow, detach, dry bool
	cmd := &cobra.Command{
		Use:   "run FILE|DIR [-- ARGS]",
		Short: "Run a program: a file, a folder, or a job file",
		Example: `  mlaas run train.py --follow                     watch it; the exit code is the program's own
  mlaas run train.py -- --lr 0.01                 what follows -- goes to the program
  mlaas run ./mnist --ps 1 --workers 2 -f         a folder on three replicas
  mlaas run ./mnist --cpu 1.5 --mem 2Gi           any amount; stated amounts are ceilings
  mlaas run ./mnist --data mnist=./files          send ./files once, find it at $MLAAS_DATA/mnist
  mlaas run job.yaml --param steps=2000           a job file, with one parameter changed
  mlaas run train.py -d                           print the run's name alone and leave`,
		Long: `Run a program on the platform.

A file takes along what it imports from beside it; a folder takes everything
but what .mlaasignore names. The framework is read from the imports. A file
mlaas.yaml in the folder says everything else; it is the same object as the job
of the REST API, and flags change it. The same name again is a new version and
a new run of the same job, and what no flag says stays as it was.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); n == 1 || n < 0 && len(args) == 1 {
				return nil
			}
			t := tell{What: "run takes one file or folder", Kind: mlaas.ErrSyntax, Fix: "mlaas run train.py"}
			if len(args) > 1 && cmd.ArgsLenAtDash() < 0 {
				t.Fix = fmt.Sprintf("what the program is to get goes after --:   mlaas run %s -- %s", args[0], args[1])
			}
			return t
		},
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			src, err := look(args[0], s.Entry)
			if err != nil {
				return err
			}
			if s.Name != "" {
				src.Name.Value = s.Name
			}
			job, err := c.prepare(ctx, cl, &s, src, args[1:], dry)
			if err != nil || dry {
				return err
			}
			var ask client.RunAsk
			if !src.composed() {
				version, err := c.push(ctx, cl, job, src.Bundle)
				if err != nil {
					return err
				}
				ask.Version = version.ID
			}
			if ask.Version != "" {
				if err := c.sayOfReplicas(ctx, cl, job, ask.Version); err != nil {
					return err
				}
			}
			run, err := c.start(ctx, cl, job, ask)
			if err != nil {
				return err
			}
			return c.leaveOrFollow(ctx, cl, run, follow && !detach)
		}),
	}
	s.register(cmd.Flags())
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "show the run until it has ended; Ctrl+C detaches")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "print the run's name alone")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show the plan and do nothing")
	cmd.MarkFlagsMutuallyExclusive("follow", "detach")
	cmd.PreRun = func(*cobra.Command, []string) { c.quiet = c.quiet || detach }
	return cmd
}

// prepare makes the job what the plan says, and shows the plan.
func (c *cli) prepare(ctx context.Context, cl *client.Client, s *specFlags, src *source, args []string, dry bool) (mlaas.Job, error) {
	had, err := jobNamed(ctx, cl, src.Name.Value)
	if err != nil {
		return mlaas.Job{}, err
	}
	var before *mlaas.JobSpec
	if had != nil {
		before = &had.JobSpec
	}
	p, err := s.make(src, before, args, os.LookupEnv)
	if err != nil {
		return mlaas.Job{}, err
	}
	if err := knownFramework(ctx, cl, p.Spec.Environment.Framework); err != nil {
		return mlaas.Job{}, err
	}
	c.say("%s", c.paint(bold, "Plan"))
	c.say("%s", trimLast(p.String()))
	for _, n := range p.Notes {
		c.say("%s %s", c.paint(yellow, "!"), n)
	}
	if dry {
		if err := c.foresee(ctx, cl, p.Spec, src.Bundle); err != nil {
			return mlaas.Job{}, err
		}
		return mlaas.Job{}, c.show(p.Spec, []string{p.Spec.Name}, func() string { return "" })
	}
	for _, name := range slices.Sorted(maps.Keys(p.Send)) {
		d, err := c.sendData(ctx, cl, name, p.Send[name])
		if err != nil {
			return mlaas.Job{}, err
		}
		for i := range p.Spec.Data {
			if p.Spec.Data[i].Name == name {
				p.Spec.Data[i].Source = fmt.Sprintf("dataset:%s@%d", name, d.Version)
			}
		}
	}
	if had == nil {
		return cl.CreateJob(ctx, p.Spec, "")
	}
	return cl.EditJob(ctx, string(had.ID), had.JobSpec, p.Spec, had.Revision)
}

// foresee says what the platform would do with a job that is run now. It is an
// error where the run would be refused, or could never start.
func (c *cli) foresee(ctx context.Context, cl *client.Client, spec mlaas.JobSpec, b *bundle) error {
	files, err := b.texts()
	if err != nil {
		return err
	}
	p, err := cl.Plan(ctx, client.PlanAsk{Spec: spec, Files: files})
	if err != nil {
		return err
	}
	c.say("%s", c.paint(bold, "If it ran now"))
	c.say("  %s", p.Reason)
	if p.Environment.Why != "" {
		c.say("  environment: %s", p.Environment.Why)
	}
	for _, says := range p.Says {
		c.say("  %s", says)
	}
	for _, n := range p.Notes {
		c.say("%s %s", c.paint(yellow, "!"), n)
	}
	var wrong []string
	for _, x := range p.Problems {
		wrong = append(wrong, x.Message)
	}
	switch {
	case len(wrong) > 0:
		return tell{What: "this run would be refused", Why: strings.Join(wrong, "\n  "), Kind: mlaas.ErrInvalid}
	case p.Starts == "never":
		return tell{What: "this run could never start", Why: p.Reason, Kind: mlaas.ErrInvalid, Fix: "mlaas cluster ls   shows what there is"}
	}
	return nil
}

// jobNamed finds a job by its whole name; nil where there is none.
func jobNamed(ctx context.Context, cl *client.Client, name string) (*mlaas.Job, error) {
	j, err := cl.Job(ctx, name)
	switch {
	case errors.Is(err, mlaas.ErrNotFound) || err == nil && j.Name != name:
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &j, nil
}

// push sends a bundle as a version of a job.
func (c *cli) push(ctx context.Context, cl *client.Client, job mlaas.Job, b *bundle) (mlaas.Version, error) {
	file, err := os.CreateTemp("", "mlaas-code-*.tar.gz")
	if err != nil {
		return mlaas.Version{}, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if err := b.pack(file); err != nil {
		return mlaas.Version{}, err
	}
	sent, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return mlaas.Version{}, err
	}
	v, err := cl.PushCode(ctx, string(job.ID), sent, func() (io.ReadCloser, error) { return os.Open(file.Name()) })
	if err != nil {
		return v, err
	}
	note := ""
	if v.Number <= job.Versions {
		note = ", nothing new in it"
	}
	c.done("code %s (%s, %s%s)", v.ID, count(len(b.Files), "file"), size(b.Size), note)
	return v, nil
}

// sayOfReplicas says what several replicas do with the code: train as one, and
// what that changes, or each for itself. Where the platform cannot read code
// before a run, its replicas say it.
func (c *cli) sayOfReplicas(ctx context.Context, cl *client.Client, job mlaas.Job, version mlaas.VersionID) error {
	if !job.Spreads() {
		return nil
	}
	p, err := cl.Prepared(ctx, string(job.ID), version)
	switch {
	case errors.Is(err, mlaas.ErrInvalid):
		return err
	case err != nil || p.Spread == nil:
		return nil
	}
	for _, says := range p.Spread.Says {
		c.say("  %s", says)
	}
	return nil
}

// start asks for a run and says its name.
func (c *cli) start(ctx context.Context, cl *client.Client, job mlaas.Job, ask client.RunAsk) (client.Run, error) {
	run, err := cl.StartRun(ctx, string(job.ID), ask, "")
	if err == nil {
		c.done("run %s", runName(run))
	}
	return run, err
}

// leaveOrFollow ends a command that started a run.
func (c *cli) leaveOrFollow(ctx context.Context, cl *client.Client, run client.Run, follow bool) error {
	if follow {
		last, err := c.follow(ctx, cl, run, client.LogQuery{})
		return c.ended(ctx, cl, last, err)
	}
	name := runName(run)
	err := c.show(run, []string{name}, func() string { return name + "\n" })
	c.say("  watch it   mlaas logs %s -f", name)
	c.say("  stop it    mlaas job stop %s", name)
	return err
}

func trimLast(text string) string { return string(bytes.TrimRight([]byte(text), "\n")) }
