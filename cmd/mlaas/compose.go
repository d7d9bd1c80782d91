package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
	"mlaas.dev/mlaas/compose"
	"mlaas.dev/mlaas/template"
)

func (c *cli) codeCompose() *cobra.Command {
	var backend, data string
	cmd := &cobra.Command{Use: "compose FILE [DIR]", Short: "Show the program of a composed network, or write it into a folder", Args: cobra.RangeArgs(1, 2),
		Long: `Reads a job file whose code.composed describes a network, and shows its
layers with their shapes and parameters, what is wrong with it, and its program.
It needs no platform.`,
		Example: "  mlaas code compose mlaas.yaml\n  mlaas code compose mlaas.yaml --backend pytorch\n  mlaas code compose mlaas.yaml ./mine      to change it and run it by hand",
		RunE: func(_ *cobra.Command, args []string) error {
			spec, err := readSpec(args[0])
			if err != nil {
				return err
			}
			if spec.Code.Composed == nil {
				return tell{What: args[0] + " describes no network", Why: "it has no code.composed", Kind: mlaas.ErrInvalid, Fix: "docs/reference/code-modes.md says how one is described"}
			}
			if backend != "" {
				spec.Code.Composed.Backend, spec.Environment.Framework = backend, ""
			}
			spec.Complete()
			looked, wrong := *spec, error(nil)
			if data != "" {
				if looked, wrong, err = lookAt(*spec, data); err != nil {
					return err
				}
			}
			return c.composition(looked, wrong, args[1:])
		}}
	cmd.Flags().StringVar(&data, "data", "", "folder of its data, to be looked at: what the job does not say of its input")
	cmd.Flags().StringVar(&backend, "backend", "", "keras, pytorch or tf1 (else code.composed.backend)")
	return cmd
}

// lookAt is a job whose network says what the data in a folder of this machine
// does, and what of it is otherwise there.
func lookAt(spec mlaas.JobSpec, dir string) (out mlaas.JobSpec, wrong, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return spec, nil, missing(dir, err)
	}
	defer root.Close()
	l := compose.Look{Open: func(f mlaas.File) (io.ReadCloser, error) { return root.Open(filepath.FromSlash(f.Path)) }}
	err = fs.WalkDir(root.FS(), ".", func(at string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			l.Files = append(l.Files, mlaas.File{Path: at})
		}
		return err
	})
	if err != nil {
		return spec, nil, err
	}
	out, wrong = l.Fill(spec)
	return out, wrong, nil
}

// composition shows what the network of a job comes to.
func (c *cli) composition(spec mlaas.JobSpec, wrong error, dir []string) error {
	report := compose.Check(spec)
	c.say("%s", trimLast(layers(report)))
	var all []string
	if wrong != nil {
		all = append(all, wrong.Error())
	}
	for _, m := range report.Messages {
		all = append(all, m.Message)
	}
	if len(all) > 0 {
		t := tell{What: "this network cannot be trained as it is", Kind: mlaas.ErrInvalid}
		t.Why = strings.Join(all, "\n  ")
		return t
	}
	files, err := compose.Program(spec)
	if err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(files))
	if len(dir) > 0 {
		if err := writeNew(dir[0], files); err != nil {
			return err
		}
		c.done("%s in %s", strings.Join(names, " and "), dir[0])
		return nil
	}
	return c.show(map[string]any{"report": report, "code": files}, names, func() string {
		var b strings.Builder
		for _, name := range slices.Backward(names) { // main.py first
			fmt.Fprintf(&b, "# ==== %s ====\n%s", name, files[name])
		}
		return b.String()
	})
}

// layers is a network as a table.
func layers(r compose.Report) string {
	t := table{Head: []string{"LAYER", "TYPE", "GIVES", "PARAMETERS"}}
	for _, l := range r.Layers {
		shape := strings.Trim(strings.ReplaceAll(fmt.Sprint(l.Shape), " ", "x"), "[]")
		t.row(l.Name, l.Type, dash(shape), fmt.Sprint(l.Parameters))
	}
	t.row("", "", "", fmt.Sprint(r.Parameters))
	return t.String()
}

// writeNew writes files into a folder, and overwrites none.
func writeNew(dir string, files map[string]string) error {
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return tell{What: filepath.Join(dir, name) + " is there already", Why: "nothing was written", Fix: "name another folder", Kind: mlaas.ErrConflict}
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		if _, err := f.WriteString(files[name]); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) codeEject() *cobra.Command {
	return &cobra.Command{Use: "eject JOB", Short: "Make a composed job an ordinary one, whose program you change", Args: one("one JOB", "mlaas code eject digits"),
		Example: "  mlaas code eject digits && mlaas code pull digits",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			e, err := cl.Eject(ctx, string(j.ID), j.Revision)
			if err != nil {
				return err
			}
			c.done("%s is an ordinary job; its program is %s", j.Name, e.Version.ID)
			c.say("  change it   mlaas code pull %s", j.Name)
			return c.show(e.Version, []string{string(e.Version.ID)}, func() string { return string(e.Version.ID) + "\n" })
		})}
}

func (c *cli) templateCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "template", Short: "Starting points of jobs: ls, init",
		Example: "  mlaas template init keras ./mine      then change mine/model.py\n  mlaas run ./mine --follow             or by hand: python main.py"}
	cmd.AddCommand(
		&cobra.Command{Use: "ls", Short: "List the templates", Args: cobra.NoArgs, Example: "  mlaas template ls",
			RunE: func(*cobra.Command, []string) error {
				t := table{Head: []string{"NAME", "FRAMEWORK", "WHAT IT IS"}}
				var names []string
				for _, one := range template.All() {
					t.row(one.Name, one.Framework, one.Doc)
					names = append(names, one.Name)
				}
				return c.show(template.All(), names, t.String)
			}},
		&cobra.Command{Use: "init NAME [DIR]", Short: "Write a template's files into a folder; without DIR into ./NAME", Args: cobra.RangeArgs(1, 2),
			Long: `Writes the files of a template. You fill the functions of model.py; main.py and
workflow.py train with them, record, keep checkpoints and go on from the last
one. They run by hand as they are, and the platform uses its own copy of them.`,
			Example: "  mlaas template init torch\n  mlaas template init tf1 ./mine",
			RunE: func(_ *cobra.Command, args []string) error {
				t, err := template.Find(args[0])
				if err != nil {
					return err
				}
				dir := args[len(args)-1]
				if err := writeNew(dir, t.Files); err != nil {
					return err
				}
				c.done("wrote %s into %s", count(len(t.Files), "file"), dir)
				c.say("  fill in   %s", filepath.Join(dir, template.User))
				c.say("  try it    cd %s && python %s", dir, template.Entry)
				c.say("  run it    mlaas run %s --follow", dir)
				return nil
			}},
	)
	return cmd
}
