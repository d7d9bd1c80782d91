package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/booster/local"
	"mlaas.dev/mlaas/client"
	"mlaas.dev/mlaas/contractor/codeengine"
	"mlaas.dev/mlaas/supervisor/environment"
	"mlaas.dev/mlaas/supervisor/prepare"
)

// A preview applies recipes before there is a replica, by a Python of this
// machine.
type preview struct {
	Dir    string // for what it unpacks
	Env    string // the folder of environments
	Binary string // the mlaas program
	Blob   blob.Driver
	Log    *slog.Logger
}

// How much a preview may take.
const (
	previewTime  = 30 * time.Second
	previewBytes = 256 << 20
)

// Prepare says what becomes of the code of a run.
func (p preview) Prepare(ctx context.Context, run mlaas.Run) (out mlaas.Preparation, err error) {
	if err := codeengine.Check(run); err != nil {
		return out, err
	}
	recipe := codeengine.Recipe(run)
	if !recipe.Changes() {
		return mlaas.Preparation{Prepared: mlaas.Prepared{Digest: run.Version.Bundle}, Changes: []mlaas.Change{}}, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, previewTime, fmt.Errorf("to read the code took more than %s: %w", previewTime, mlaas.ErrTooLarge))
	defer cancel()
	envs := &environment.Manager{Dir: p.Env, Log: p.Log}
	env, err := envs.Prepare(ctx, mlaas.Environment{Python: run.Spec.Environment.Python}, nil, nil)
	if err != nil {
		return out, fmt.Errorf("the machine of the platform cannot read the code before a run does: %s: %w", err, mlaas.ErrConflict)
	}
	tree, err := blob.GetTree(ctx, p.Blob, run.Version.Bundle)
	if err != nil {
		return out, err
	}
	var read []mlaas.File
	size := int64(0)
	for _, f := range tree.Files {
		if _, made := recipe.Files[f.Path]; made || strings.HasSuffix(f.Path, ".py") || strings.HasSuffix(f.Path, ".pyw") {
			read, size = append(read, f), size+f.Size
		}
	}
	if size > previewBytes {
		return out, fmt.Errorf("the Python files of %s have %s, more than %s: %w", run.Version.ID, mlaas.Bytes(size), mlaas.Bytes(previewBytes), mlaas.ErrTooLarge)
	}
	box, err := local.NewBox(p.Dir, p.Binary)
	if err != nil {
		return out, err
	}
	defer box.Close()
	if err := blob.WriteFiles(ctx, p.Blob, read, box.Code); err != nil {
		return out, err
	}
	sandbox := prepare.Sandbox{Enter: box.Enter, See: env.ReadOnly, Dir: box.Code}
	return prepare.Preparer{Python: env.Python, Library: env.Library, Run: sandbox.Run}.Apply(ctx, box.Code, tree, recipe)
}

func (c *cli) codePreview() *cobra.Command {
	return &cobra.Command{Use: "preview JOB [V]", Short: "Show what a run would start, as a diff from what was written", Args: cobra.RangeArgs(1, 2),
		Long: `Shows what a run of the job would start: each file that is not as it was
written, as a unified diff, and what else is otherwise than by hand. Nothing of
the code is run: a Python on the machine of the platform reads it.`,
		Example: "  mlaas code preview mnist\n  mlaas code preview mnist v3",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			if j.Versions == 0 {
				return tell{What: j.Name + " has no code yet", Fix: "send some with   mlaas code push " + j.Name + " DIR", Kind: mlaas.ErrNotFound}
			}
			version := fmt.Sprintf("v%d", j.Versions)
			if len(args) > 1 {
				version = args[1]
			}
			p, err := cl.Prepared(ctx, string(j.ID), versionID(version))
			if err != nil {
				return err
			}
			return c.show(p, []string{string(p.Digest)}, func() string {
				var b strings.Builder
				fmt.Fprintf(&b, "# %s %s, mode %s", j.Name, p.Version, p.Mode)
				if p.Python != "" {
					fmt.Fprintf(&b, ", read by Python %s", p.Python)
				}
				b.WriteString("\n")
				for _, s := range p.Says {
					fmt.Fprintf(&b, "# %s\n", s)
				}
				for _, f := range p.Files {
					b.WriteString(f.Diff)
				}
				return b.String()
			})
		})}
}
