package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) dataCommand() *cobra.Command {
	data := &cobra.Command{Use: "data", Short: "Datasets: put, ls, rm",
		Example: `  mlaas data put mnist ./files     send a folder or a file, only what is new
  mlaas data ls
  mlaas run train.py --data mnist  find it at $MLAAS_DATA/mnist`}
	data.AddCommand(
		&cobra.Command{Use: "put NAME PATH", Short: "Send a folder or a file as the next version of a dataset", Args: cobra.ExactArgs(2),
			Example: "  mlaas data put mnist ./files",
			RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
				d, err := c.sendData(ctx, cl, args[0], args[1])
				if err != nil {
					return err
				}
				name := fmt.Sprintf("%s@%d", d.Name, d.Version)
				return c.show(d, []string{name}, func() string { return name + "\n" })
			})},
		&cobra.Command{Use: "ls", Short: "List the datasets", Args: cobra.NoArgs,
			Example: "  mlaas data ls -o json",
			RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
				all, err := client.Collect(cl.Datasets(ctx))
				if err != nil {
					return err
				}
				t := table{Head: []string{"NAME", "VERSION", "FILES", "SIZE", "MADE"}}
				var names []string
				for _, d := range all {
					t.row(d.Name, fmt.Sprint(d.Version), fmt.Sprint(d.Files), size(d.Size), ago(time.Now(), d.Created))
					names = append(names, d.Name)
				}
				return c.show(all, names, t.String)
			})},
		&cobra.Command{Use: "rm NAME...", Short: "Delete datasets", Args: cobra.MinimumNArgs(1),
			Example: "  mlaas data rm mnist",
			RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
				for _, name := range args {
					if err := cl.DeleteDataset(ctx, name); err != nil {
						return err
					}
					c.done("%s is deleted", name)
				}
				return nil
			})},
	)
	return data
}

// sendData makes the next version of a dataset from a file or a folder. It
// sends only what the server has not, and shows how far it is.
func (c *cli) sendData(ctx context.Context, cl *client.Client, name, from string) (mlaas.Dataset, error) {
	if err := mlaas.CheckName("name", name); err != nil {
		return mlaas.Dataset{}, err
	}
	members, err := dataFiles(from)
	if err != nil {
		return mlaas.Dataset{}, err
	}
	s := screen{c: c}
	defer s.hide()
	var whole, done int64
	for _, m := range members {
		whole += m.Size
	}
	files := make([]mlaas.File, len(members))
	for i, m := range members {
		s.bar = fmt.Sprintf("%s reading %s, %s of %s", gauge(part(done, whole), 24), m.Path, size(done), size(whole))
		s.draw()
		if files[i], err = m.digest(); err != nil {
			return mlaas.Dataset{}, err
		}
		done += m.Size
	}
	sent, fresh := make(chan int64, len(members)), 0
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(4)
	seen := map[mlaas.Digest]bool{}
	var todo []int
	for i, f := range files {
		if !seen[f.Digest] {
			seen[f.Digest] = true
			todo = append(todo, i)
		}
	}
	go func() {
		for _, i := range todo {
			work.Go(func() error {
				f, m := files[i], members[i]
				has, err := cl.HasBlob(wctx, f.Digest)
				if err == nil && !has {
					err = cl.PutBlob(wctx, f.Digest, f.Size, func() (io.ReadCloser, error) { return os.Open(m.file) })
				}
				if has {
					sent <- -f.Size - 1
				} else {
					sent <- f.Size
				}
				return err
			})
		}
		_ = work.Wait() // it is asked for again below
		close(sent)
	}()
	done = 0
	for n := range sent {
		if n >= 0 {
			done, fresh = done+n, fresh+1
		} else {
			whole += n + 1
		}
		s.bar = fmt.Sprintf("%s sending %s, %s of %s", gauge(part(done, whole), 24), name, size(done), size(whole))
		s.draw()
	}
	if err := work.Wait(); err != nil {
		return mlaas.Dataset{}, err
	}
	d, err := cl.MakeDataset(ctx, name, files)
	if err != nil {
		return d, err
	}
	s.hide()
	c.done("data %s@%d (%s, %s; %s sent)", d.Name, d.Version, count(len(files), "file"), size(d.Size), size(done))
	return d, nil
}

func part(done, whole int64) float64 {
	if whole <= 0 {
		return 1
	}
	return float64(done) / float64(whole)
}

type dataFile struct {
	member
	file string
}

func (d dataFile) digest() (mlaas.File, error) {
	f, err := os.Open(d.file)
	if err != nil {
		return mlaas.File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return mlaas.File{Path: d.Path, Digest: mlaas.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), Size: n, Exec: d.Exec}, err
}

// dataFiles lists a file, or every file of a folder. Links are followed where
// they name a file: data is often linked.
func dataFiles(from string) (out []dataFile, err error) {
	info, err := os.Stat(from)
	if err != nil {
		return nil, missing(from, err)
	}
	if !info.IsDir() {
		return []dataFile{{member{filepath.Base(from), info.Size(), false}, from}}, nil
	}
	err = filepath.WalkDir(from, func(at string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := os.Stat(at)
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(from, at)
		out = append(out, dataFile{member{filepath.ToSlash(rel), info.Size(), info.Mode()&0o111 != 0}, at})
		return err
	})
	if err == nil && len(out) == 0 {
		err = tell{What: from + " holds no files", Kind: mlaas.ErrInvalid, Fix: "name a folder with files in it"}
	}
	return out, err
}
