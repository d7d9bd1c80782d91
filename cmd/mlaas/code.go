package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) codeCommand() *cobra.Command {
	code := &cobra.Command{Use: "code", Short: "A job's code: push, pull, versions, diff, preview, compose, eject",
		Example: `  mlaas code push mnist ./mnist      a new version, or the one that is equal
  mlaas code pull mnist v3 ./old     its files into a folder
  mlaas code diff mnist v3 v7        what changed between two
  mlaas code preview mnist           what a run would start`}
	code.AddCommand(
		&cobra.Command{Use: "push JOB FILE|DIR", Short: "Send code as a new version", Args: cobra.ExactArgs(2),
			Example: "  mlaas code push mnist ./mnist",
			RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
				j, err := findJob(ctx, cl, args[0])
				if err != nil {
					return err
				}
				b, err := codeAt(args[1])
				if err != nil {
					return err
				}
				v, err := c.push(ctx, cl, j, b)
				if err != nil {
					return err
				}
				return c.show(v, []string{string(v.ID)}, func() string { return string(v.ID) + "\n" })
			})},
		c.codePull(),
		c.codePreview(),
		c.codeExec(),
		c.codeEject(),
		&cobra.Command{Use: "versions JOB", Short: "List the versions", Args: one("one JOB", "mlaas code versions mnist"),
			Example: "  mlaas code versions mnist",
			RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
				j, err := findJob(ctx, cl, args[0])
				if err != nil {
					return err
				}
				all, err := client.Collect(cl.Versions(ctx, string(j.ID)))
				if err != nil {
					return err
				}
				t := table{Head: []string{"VERSION", "FILES", "SIZE", "STARTS", "MADE", "CONTENT"}}
				var names []string
				for _, v := range all {
					t.row(string(v.ID), fmt.Sprint(len(v.Files)), size(v.Size), dash(v.Entry), ago(time.Now(), v.Created), short(v.Bundle))
					names = append(names, string(v.ID))
				}
				return c.show(all, names, t.String)
			})},
		&cobra.Command{Use: "diff JOB V1 [V2]", Short: "Show what changed between two versions; without V2, to the newest", Args: cobra.RangeArgs(2, 3),
			Example: "  mlaas code diff mnist v3 v7",
			RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
				j, err := findJob(ctx, cl, args[0])
				if err != nil {
					return err
				}
				to := fmt.Sprintf("v%d", j.Versions)
				if len(args) == 3 {
					to = args[2]
				}
				return c.codeDiff(ctx, cl, j, versionID(args[1]), versionID(to))
			})},
	)
	for _, sub := range code.Commands() {
		c.completesJobs(sub)
	}
	code.AddCommand(c.codeCompose())
	return code
}

// versionID takes "7" for "v7".
func versionID(s string) mlaas.VersionID {
	if _, err := strconv.Atoi(s); err == nil {
		s = "v" + s
	}
	return mlaas.VersionID(s)
}

func short(d mlaas.Digest) string {
	_, hex, _ := strings.Cut(string(d), ":")
	return hex[:min(12, len(hex))]
}

// codeAt collects a file with what it imports, or a folder.
func codeAt(at string) (*bundle, error) {
	info, err := os.Stat(at)
	if err != nil {
		return nil, missing(at, err)
	}
	if info.IsDir() {
		return collect(at)
	}
	s := &source{}
	root, base := filepath.Split(at)
	err = s.single(first(root, "."), base)
	return s.Bundle, err
}

func (c *cli) codePull() *cobra.Command {
	return &cobra.Command{Use: "pull JOB [V] [DIR]", Short: "Write the files of a version into a folder", Args: cobra.RangeArgs(1, 3),
		Example: "  mlaas code pull mnist            the newest, into ./mnist\n  mlaas code pull mnist v3 ./old",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			j, err := findJob(ctx, cl, args[0])
			if err != nil {
				return err
			}
			if j.Versions == 0 {
				return tell{What: j.Name + " has no code yet", Fix: "send some with   mlaas code push " + j.Name + " DIR", Kind: mlaas.ErrNotFound}
			}
			version, dir := fmt.Sprintf("v%d", j.Versions), j.Name
			if len(args) > 1 {
				version = args[1]
			}
			if len(args) > 2 {
				dir = args[2]
			}
			v, err := cl.Version(ctx, string(j.ID), versionID(version))
			if err != nil {
				return err
			}
			if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
				return tell{What: dir + " is not empty", Fix: fmt.Sprintf("name another folder:   mlaas code pull %s %s DIR", j.Name, v.ID), Kind: mlaas.ErrConflict}
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				return err
			}
			defer root.Close()
			for _, f := range v.Files {
				if err := fetch(ctx, cl, root, f); err != nil {
					return err
				}
			}
			c.done("%s of %s is in %s (%s)", v.ID, j.Name, dir, count(len(v.Files), "file"))
			return nil
		})}
}

func fetch(ctx context.Context, cl *client.Client, root *os.Root, f mlaas.File) error {
	from, err := cl.Blob(ctx, f.Digest)
	if err != nil {
		return err
	}
	defer from.Close()
	at := filepath.FromSlash(f.Path)
	if err := root.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if f.Exec {
		mode = 0o755
	}
	to, err := root.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return err
	}
	return to.Close()
}

// codeDiff prints a unified diff of two versions.
func (c *cli) codeDiff(ctx context.Context, cl *client.Client, j mlaas.Job, from, to mlaas.VersionID) error {
	a, err := cl.Version(ctx, string(j.ID), from)
	if err != nil {
		return err
	}
	b, err := cl.Version(ctx, string(j.ID), to)
	if err != nil {
		return err
	}
	old, all := map[string]mlaas.File{}, map[string]mlaas.File{}
	for _, f := range a.Files {
		old[f.Path], all[f.Path] = f, f
	}
	fresh := map[string]mlaas.File{}
	for _, f := range b.Files {
		fresh[f.Path], all[f.Path] = f, f
	}
	text := func(f mlaas.File, ok bool) ([]string, error) {
		if !ok {
			return nil, nil
		}
		r, err := cl.Blob(ctx, f.Digest)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		data, err := io.ReadAll(r)
		return lines(string(data)), err
	}
	for _, p := range sortedKeys(all) {
		x, had := old[p]
		y, has := fresh[p]
		if had && has && x.Digest == y.Digest {
			continue
		}
		before, err := text(x, had)
		if err != nil {
			return err
		}
		after, err := text(y, has)
		if err != nil {
			return err
		}
		nameA, nameB := fmt.Sprintf("%s/%s", from, p), fmt.Sprintf("%s/%s", to, p)
		if !had {
			nameA = "/dev/null"
		}
		if !has {
			nameB = "/dev/null"
		}
		for _, l := range unified(nameA, nameB, before, after) {
			switch l[0] {
			case '+':
				l = c.paintOut(green, l)
			case '-':
				l = c.paintOut(red, l)
			case '@':
				l = c.paintOut(cyan, l)
			}
			fmt.Fprintln(c.Out, l)
		}
	}
	return nil
}
