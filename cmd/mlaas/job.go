package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

// one is the rule for a command that takes one argument.
func one(what, example string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		return tell{What: fmt.Sprintf("%s takes %s, not %s", cmd.Name(), what, count(len(args), "argument")), Fix: example, Kind: mlaas.ErrSyntax}
	}
}

// some is the rule for a command that takes at least one argument.
func some(what, example string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return nil
		}
		return tell{What: fmt.Sprintf("%s takes %s", cmd.Name(), what), Fix: example, Kind: mlaas.ErrSyntax}
	}
}

func (c *cli) jobCommand() *cobra.Command {
	job := &cobra.Command{Use: "job", Aliases: []string{"jobs"}, Short: "Jobs: ls, get, create, edit, run, stop, wait, rm, restore",
		Example: `  mlaas job ls                     every job and how its newest run stands
  mlaas job get mnist -o yaml      what it is, ready for mlaas.yaml
  mlaas job wait mnist             until its newest run has ended
  mlaas job stop mnist/7           one run; without /7 all that live`}
	job.AddCommand(c.jobList(), c.jobCreate(), c.jobRestore())
	for _, sub := range []*cobra.Command{c.jobGet(), c.jobEdit(), c.jobRun(), c.jobStop(), c.jobAnywhere(), c.jobWait(), c.jobRemove()} {
		job.AddCommand(c.completesJobs(sub))
	}
	return job
}

func (c *cli) jobList() *cobra.Command {
	var deleted bool
	cmd := &cobra.Command{Use: "ls", Short: "List the jobs", Args: cobra.NoArgs,
		Example: "  mlaas job ls\n  mlaas job ls -o name",
		RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
			all, err := client.Collect(cl.Jobs(ctx, deleted))
			if err != nil {
				return err
			}
			t := table{Head: []string{"NAME", "STATE", "RUN", "CODE", "REPLICAS", "RESULT", "CHANGED", "REASON"}}
			var names []string
			for _, j := range all {
				state, reason, run := "-", "", "-"
				if j.Status != nil {
					state, reason = string(j.Status.State), j.Status.Reason
					if j.Status.Number > 0 {
						run = fmt.Sprintf("%s/%d", j.Name, j.Status.Number)
					}
				}
				code := "-"
				if j.Versions > 0 {
					code = fmt.Sprintf("v%d", j.Versions)
				}
				result := ""
				if j.Results != nil {
					result = strings.Join(few(j.Results.Metrics, j.Evaluation.Metric, 2), " ")
				}
				t.row(j.Name, state, run, code, roleText(j.JobSpec), dash(result), ago(time.Now(), j.Updated), reason)
				names = append(names, j.Name)
			}
			if len(all) == 0 && !deleted {
				c.say("no job yet: run one with   mlaas run train.py")
			}
			return c.show(all, names, t.String)
		})}
	cmd.Flags().BoolVar(&deleted, "deleted", false, "those that can still be restored")
	return cmd
}

// roleText is "ps 1, worker 1-2".
func roleText(spec mlaas.JobSpec) string {
	var out []string
	for _, name := range mlaas.RoleOrder {
		if r := spec.Roles[name]; r != nil {
			n := fmt.Sprint(r.Replicas.Max)
			if r.Replicas.Min != r.Replicas.Max {
				n = fmt.Sprintf("%d-%d", r.Replicas.Min, r.Replicas.Max)
			}
			out = append(out, name+" "+n)
		}
	}
	return strings.Join(out, ", ")
}

func (c *cli) jobGet() *cobra.Command {
	return &cobra.Command{Use: "get JOB|JOB/N", Short: "Show a job, or one of its runs", Args: one("JOB or JOB/N", "mlaas job get mnist"),
		Example: "  mlaas job get mnist\n  mlaas job get mnist/7\n  mlaas job get mnist -o yaml > mlaas.yaml",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			if strings.Contains(args[0], "/") {
				return c.getRun(ctx, cl, args[0])
			}
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			runs, err := client.Collect(limit(cl.Runs(ctx, string(j.ID)), 10))
			if err != nil {
				return err
			}
			if c.output == "yaml" { // what its user writes, so that it can be written again
				return c.show(j.JobSpec, nil, nil)
			}
			return c.show(j, []string{j.Name}, func() string { return describe(j, runs) })
		})}
}

// limit ends an iterator after n.
func limit[T any](seq func(func(T, error) bool), n int) func(func(T, error) bool) {
	return func(yield func(T, error) bool) {
		left := n
		seq(func(v T, err error) bool {
			left--
			return yield(v, err) && left > 0
		})
	}
}

func describe(j mlaas.Job, runs []client.Run) string {
	var b strings.Builder
	line := func(what, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-13s%s\n", what, value)
		}
	}
	line("job", j.Name+" ("+string(j.ID)+")")
	if j.Status != nil {
		line("state", standing(j.Status.State, j.Status.Reason))
	}
	line("program", first(strings.Join(j.Execution.Command, " "), "the entry file of its code"))
	line("environment", first(j.Environment.Image, join(" ", join(" with Python ", j.Environment.Framework, j.Environment.Python), strings.Join(j.Environment.Packages, " "))))
	for _, name := range mlaas.RoleOrder {
		if r := j.Roles[name]; r != nil {
			line(name, replicas(r)+", "+perReplica(r))
		}
	}
	for _, d := range j.Data {
		line("data", "$MLAAS_DATA/"+d.Name+" from "+d.Source)
	}
	var params []string
	for _, k := range slices.Sorted(maps.Keys(j.Execution.Parameters)) {
		params = append(params, fmt.Sprintf("%s=%v", k, j.Execution.Parameters[k]))
	}
	line("parameters", strings.Join(params, " "))
	line("code", fmt.Sprintf("%s, %s", count(j.Versions, "version"), j.Code.Mode))
	line("changed", ago(time.Now(), j.Updated)+fmt.Sprintf(", revision %d", j.Revision))
	if len(runs) > 0 {
		t := table{Head: []string{"RUN", "STATE", "CODE", "ASKED", "TOOK", "REASON"}}
		for _, r := range runs {
			took := "-"
			if r.Status.Ended != nil {
				took = span(r.Status.Ended.Sub(r.Created))
			}
			t.row(runName(r), string(r.Status.State), string(r.Version.ID), ago(time.Now(), r.Created), took, r.Status.Reason)
		}
		b.WriteString("\n" + t.String())
	}
	return b.String()
}

func (c *cli) getRun(ctx context.Context, cl *client.Client, ref string) error {
	r, err := findRun(ctx, cl, ref)
	if err != nil {
		return err
	}
	return c.show(r, []string{runName(r)}, func() string {
		var b strings.Builder
		fmt.Fprintf(&b, "run          %s (%s)\n", runName(r), r.ID)
		fmt.Fprintf(&b, "state        %s\n", standing(r.Status.State, r.Status.Reason))
		fmt.Fprintf(&b, "code         %s\n", r.Version.ID)
		fmt.Fprintf(&b, "replicas     %s\n", roleText(r.Spec))
		t := table{Head: []string{"ATTEMPT", "CLUSTER", "BEGAN", "FROM STEP", "ENDED BECAUSE"}}
		for _, a := range r.Status.Attempts {
			t.row(fmt.Sprint(a.Epoch), a.Cluster, ago(time.Now(), a.Began), fmt.Sprint(a.Step), dash(a.Reason))
		}
		if len(t.Rows) > 0 {
			b.WriteString("\n" + t.String())
		}
		return b.String()
	})
}

func (c *cli) jobCreate() *cobra.Command {
	var file, key string
	var s specFlags
	cmd := &cobra.Command{Use: "create [FILE] [flags]", Short: "Make a job without running it", Args: cobra.MaximumNArgs(1),
		Example: "  mlaas job create mlaas.yaml\n  mlaas job create --name mnist --framework tensorflow --workers 2\n  cat job.json | mlaas job create -",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			src := &source{Bundle: &bundle{}}
			if len(args) > 0 {
				file = args[0]
			}
			if file != "" {
				spec, err := c.specFrom(file)
				if err != nil {
					return err
				}
				src.File, src.FileName, src.Name = spec, file, choice{spec.Name, file}
			}
			p, err := s.make(src, nil, nil, os.LookupEnv)
			if err != nil {
				return err
			}
			j, err := cl.CreateJob(ctx, p.Spec, key)
			if err != nil {
				return err
			}
			c.done("job %s is there; send it code with   mlaas code push %s DIR", j.Name, j.Name)
			return c.show(j, []string{j.Name}, func() string { return string(j.ID) + "\n" })
		})}
	s.register(cmd.Flags())
	cmd.Flags().StringVarP(&file, "file", "F", "", "job file, the same as FILE; - for standard input")
	cmd.Flags().StringVar(&key, "idempotency-key", "", "repeated with the same key, it makes one job")
	return cmd
}

func (c *cli) specFrom(file string) (*mlaas.JobSpec, error) {
	if file != "-" {
		return readSpec(file)
	}
	text, err := io.ReadAll(c.In)
	if err != nil {
		return nil, err
	}
	spec, err := parseSpec(text)
	if err != nil {
		return nil, inFile("standard input", err)
	}
	return spec, nil
}

func (c *cli) jobEdit() *cobra.Command {
	var file string
	var s specFlags
	var revision int64
	cmd := &cobra.Command{Use: "edit JOB [flags]", Short: "Change a job: by flags, by a file, or in $EDITOR", Args: one("one JOB", "mlaas job edit mnist --workers 4"),
		Example: "  mlaas job edit mnist --workers 4 --mem 2Gi\n  mlaas job edit mnist -F mlaas.yaml\n  mlaas job edit mnist",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.connect()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			to := &j.JobSpec
			switch changed := cmd.Flags().NFlag() - inheritedFlags(cmd); {
			case file != "":
				if to, err = c.specFrom(file); err != nil {
					return err
				}
				to.Name = first(to.Name, j.Name)
			case changed == 0:
				if to, err = c.inEditor(ctx, j); err != nil {
					return err
				}
			}
			if to, err = s.change(to); err != nil {
				return err
			}
			if revision == 0 {
				revision = j.Revision
			}
			if diff, err := client.Diff(j.JobSpec, *to); err == nil && len(diff) == 0 && revision == j.Revision {
				c.say("nothing changed")
				return c.show(j, []string{j.Name}, func() string { return "" })
			}
			j, err = cl.EditJob(ctx, string(j.ID), j.JobSpec, *to, revision)
			if err != nil {
				return err
			}
			c.done("%s is changed, revision %d; it counts from the next run on", j.Name, j.Revision)
			return c.show(j, []string{j.Name}, func() string { return "" })
		}}
	s.register(cmd.Flags())
	cmd.Flags().StringVarP(&file, "file", "F", "", "job file, - for standard input")
	cmd.Flags().Int64Var(&revision, "revision", 0, "fail unless the job is at this revision")
	return cmd
}

// change is a spec with the flags applied.
func (s *specFlags) change(spec *mlaas.JobSpec) (*mlaas.JobSpec, error) {
	command := spec.Execution.Command
	p, err := s.make(&source{Bundle: &bundle{}, File: spec, FileName: asBefore, Name: choice{spec.Name, asBefore}}, nil, nil, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	if len(s.Set) == 0 {
		p.Spec.Execution.Command = command
	}
	return &p.Spec, nil
}

func inheritedFlags(cmd *cobra.Command) (n int) {
	for _, name := range []string{"url", "token", "dir", "output", "quiet", "debug"} {
		if cmd.Flags().Changed(name) {
			n++
		}
	}
	return n
}

// inEditor lets the user edit a job as YAML, again and again until it can be
// read or is left as it was.
func (c *cli) inEditor(ctx context.Context, j mlaas.Job) (*mlaas.JobSpec, error) {
	text, err := yaml.Marshal(j.JobSpec)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp("", "mlaas-"+j.Name+"-*.yaml")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	editor := first(c.Env("VISUAL"), c.Env("EDITOR"), "vi")
	note := "# What is saved is what the job will be. Leave it as it is to change nothing.\n"
	for {
		if err := os.WriteFile(f.Name(), append([]byte(note), text...), 0o600); err != nil {
			return nil, err
		}
		words := append(strings.Fields(editor), f.Name())
		e := exec.CommandContext(ctx, words[0], words[1:]...)
		e.Stdin, e.Stdout, e.Stderr = c.In, c.Err, c.Err
		if err := e.Run(); err != nil {
			return nil, tell{What: fmt.Sprintf("the editor %q did not end well: %v", editor, err), Fix: "set EDITOR, or use   mlaas job edit " + j.Name + " -F FILE", Kind: mlaas.ErrInvalid}
		}
		saved, err := os.ReadFile(f.Name())
		if err != nil {
			return nil, err
		}
		spec, err := parseSpec(saved)
		if err == nil {
			spec.Complete()
			err = spec.Check()
		}
		if err == nil {
			return spec, nil
		}
		saved = bytes.TrimPrefix(saved, []byte(note))
		if bytes.Equal(saved, text) {
			return nil, err // it was left with its mistake
		}
		note, text = fmt.Sprintf("# Not saved: %s\n", strings.ReplaceAll(err.Error(), "\n", " ")), saved
	}
}

func (c *cli) jobRun() *cobra.Command {
	var follow, detach bool
	var s specFlags
	var version, key string
	cmd := &cobra.Command{Use: "run JOB", Short: "Run a job again, as it is", Args: one("one JOB", "mlaas job run mnist"),
		Example: "  mlaas job run mnist -f\n  mlaas job run mnist --version v3 --param lr=0.01 --workers 4",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			ask := client.RunAsk{Version: mlaas.VersionID(version)}
			to, err := s.change(&j.JobSpec)
			if err != nil {
				return err
			}
			if len(s.Parameters) > 0 {
				ask.Parameters = to.Execution.Parameters
			}
			if first(s.Workers, s.PS, s.CPU, s.Memory, s.GPU) != "" {
				ask.Roles = to.Roles
			}
			run, err := cl.StartRun(ctx, string(j.ID), ask, key)
			if err != nil {
				return err
			}
			c.done("run %s of %s", runName(run), run.Version.ID)
			return c.leaveOrFollow(ctx, cl, run, follow)
		})}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "show the run until it has ended; Ctrl+C detaches")
	f.BoolVarP(&detach, "detach", "d", false, "print the run's name alone")
	f.StringVar(&version, "version", "", "of its code, such as v3 (else the newest)")
	f.StringArrayVar(&s.Parameters, "param", nil, "parameter for this run: k=v; may be repeated")
	f.StringVar(&s.Workers, "workers", "", "how many workers in this run")
	f.StringVar(&s.PS, "ps", "", "how many parameter servers in this run")
	f.StringVar(&s.CPU, "cpu", "", "cores for each replica in this run")
	f.StringVar(&s.Memory, "mem", "", "memory for each replica in this run")
	f.StringVar(&s.GPU, "gpu", "", "GPUs for each worker in this run")
	f.StringVar(&key, "idempotency-key", "", "repeated with the same key, it is one run")
	cmd.MarkFlagsMutuallyExclusive("follow", "detach")
	cmd.PreRun = func(*cobra.Command, []string) { c.quiet = c.quiet || detach }
	return cmd
}

func (c *cli) jobAnywhere() *cobra.Command {
	return &cobra.Command{Use: "anywhere JOB|JOB/N", Short: "Let a run on every node again, also those that its rules keep it from", Args: one("JOB or JOB/N", "mlaas job anywhere mnist"),
		Long: `Forgets on which nodes rules of the job let none of a role run any more. A run that
waits for another node begins its next attempt; one that runs goes on as it is. A
run that is started anew has nothing excluded.`,
		Example: "  mlaas job anywhere mnist       its newest run\n  mlaas job anywhere mnist/7",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			run, err := findRun(ctx, cl, args[0])
			if err != nil {
				return err
			}
			before, err := cl.Anywhere(ctx, run.ID)
			switch {
			case err != nil:
				return err
			case before.Status.State.Final():
				c.say("%s is over: it is %s", runName(before), before.Status.State)
			case len(before.Status.Excluded) == 0:
				c.say("%s may run on every node already", runName(before))
			default:
				c.done("%s may run on every node again", runName(before))
			}
			return nil
		})}
}

func (c *cli) jobStop() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{Use: "stop JOB|JOB/N", Short: "Stop the runs of a job, or one of them", Args: one("JOB or JOB/N", "mlaas job stop mnist"),
		Example: "  mlaas job stop mnist        every run of it that lives\n  mlaas job stop mnist/7 --wait",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			only := mlaas.RunID("")
			if strings.Contains(args[0], "/") {
				run, err := findRun(ctx, cl, args[0])
				if err != nil {
					return err
				}
				only = run.ID
			}
			stopped, err := cl.Stop(ctx, string(j.ID), only)
			if err != nil {
				return err
			}
			if len(stopped) == 0 {
				c.say("nothing of %s runs", args[0])
			}
			for _, run := range stopped {
				if !wait {
					c.done("%s is asked to stop", runName(run))
					continue
				}
				for seen, err := range cl.Watch(ctx, run.ID) {
					if err != nil {
						return err
					}
					run = seen.Run
				}
				c.done("%s: %s", runName(run), standing(run.Status.State, run.Status.Reason))
			}
			return nil
		})}
	cmd.Flags().BoolVar(&wait, "wait", false, "return when it has ended")
	return cmd
}

func (c *cli) jobWait() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{Use: "wait JOB|JOB/N", Short: "Wait for the end of a run; the exit code is the program's own", Args: one("JOB or JOB/N", "mlaas job wait mnist"),
		Example: "  mlaas job wait mnist && echo trained\n  mlaas job wait mnist/7 --timeout 1h",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			run, err := findRun(ctx, cl, args[0])
			if err != nil {
				return err
			}
			waiting := ctx
			if timeout > 0 {
				var cancel context.CancelFunc
				waiting, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			patient := *cl
			patient.Patience = 0
			for seen, err := range patient.Watch(waiting, run.ID) {
				if errors.Is(err, context.DeadlineExceeded) {
					c.say("%s %s is still %s after %s", c.paint(yellow, "!"), runName(run), run.Status.State, timeout)
					return exit(exitTimeout)
				}
				if err != nil {
					return err
				}
				run = seen.Run
			}
			c.summary(ctx, cl, run)
			if code := codeOf(run); code != 0 {
				return exit(code)
			}
			return nil
		})}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this long, with exit code 124")
	return cmd
}

func (c *cli) jobRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "rm JOB...", Short: "Delete jobs; they can be restored for 7 days", Args: some("one JOB or more", "mlaas job rm mnist"),
		Example: "  mlaas job rm mnist\n  mlaas job rm mnist --force     stop its runs first",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			for _, ref := range args {
				j, err := findJob(ctx, cl, ref)
				if err != nil {
					return err
				}
				err = cl.DeleteJob(ctx, string(j.ID), force)
				if errors.Is(err, mlaas.ErrConflict) {
					return tell{What: err.Error(), Fix: "stop it first:   mlaas job rm " + j.Name + " --force", Kind: mlaas.ErrConflict}
				}
				if err != nil {
					return err
				}
				c.done("%s is deleted; for 7 days   mlaas job restore %s   brings it back", j.Name, j.ID)
			}
			return nil
		})}
	cmd.Flags().BoolVar(&force, "force", false, "stop its runs first")
	return cmd
}

func (c *cli) jobRestore() *cobra.Command {
	return &cobra.Command{Use: "restore JOB", Short: "Bring a deleted job back", Args: one("one JOB", "mlaas job restore mnist"),
		Example: "  mlaas job ls --deleted\n  mlaas job restore mnist",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			var names []string
			for j, err := range cl.Jobs(ctx, true) {
				if err != nil {
					return err
				}
				if j.Deleted == nil {
					continue
				}
				if j.Name != args[0] && !strings.HasPrefix(string(j.ID), args[0]) {
					names = append(names, j.Name)
					continue
				}
				if j, err = cl.RestoreJob(ctx, string(j.ID)); err != nil {
					return err
				}
				c.done("%s is back", j.Name)
				return nil
			}
			return absent("deleted job", args[0], names, "mlaas job ls --deleted")
		})}
}
