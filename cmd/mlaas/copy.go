package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) copyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cp FROM TO",
		Short: "Copy files to or from a running replica",
		Long: `Copies a file or a folder between here and a running replica, as the program's
user. A place in a replica is JOB:PATH or JOB/N:REPLICA:PATH; a path that does
not begin with a slash is in the folder of the code. It needs tar in the replica.`,
		Example: `  mlaas cp mnist:out/model.pt .
  mlaas cp mnist/7:worker-1:/tmp/trace.json traces/
  mlaas cp fix.py mnist:fix.py`,
		Args: cobra.ExactArgs(2),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			from, to := placeOf(args[0]), placeOf(args[1])
			if (from.job == "") == (to.job == "") {
				return tell{What: "one of the two must be in a replica", Fix: "write   mlaas cp mnist:out/model.pt .   or   mlaas cp fix.py mnist:", Kind: mlaas.ErrInvalid}
			}
			if from.job != "" {
				return c.fetch(ctx, cl, from, to.path)
			}
			return c.send(ctx, cl, from.path, to)
		}),
	}
}

// in runs a command in a replica.
func (p *place) in(ctx context.Context, cl *client.Client, run client.Run, in io.Reader, out io.Writer, command ...string) error {
	at, err := cl.Shell(ctx, string(run.Job), run.ID, p.replica, client.ShellAsk{Command: command})
	if err != nil {
		return err
	}
	var wrong bytes.Buffer
	code, err := pump(ctx, at, in, out, &limited{&wrong, 4 << 10})
	if err == nil && code != 0 {
		err = &failedThere{code, strings.TrimSpace(wrong.String()), command[0]}
	}
	return err
}

// failedThere is a command in a replica that did not succeed.
type failedThere struct {
	code        int
	text, named string
}

func (e *failedThere) Error() string {
	if e.text == "" {
		return fmt.Sprintf("%s ended with exit code %d there", e.named, e.code)
	}
	return e.text
}

// limited writes the first n bytes.
type limited struct {
	w io.Writer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	some := p[:min(l.n, len(p))]
	l.n -= len(some)
	if _, err := l.w.Write(some); err != nil {
		return 0, err
	}
	return len(p), nil
}

// fetch copies out of a replica.
func (c *cli) fetch(ctx context.Context, cl *client.Client, from place, to string) (err error) {
	run, replica, err := findReplica(ctx, cl, from.job, from.replica)
	if err != nil {
		return err
	}
	from.replica = replica
	clean := path.Clean(from.path)
	dir, name := path.Split(clean)
	if from.path == "" || name == ".." || name == "" {
		return tell{What: fmt.Sprintf("%q names no file", from.path), Fix: "write   mlaas cp " + from.job + ":out/model.pt .", Kind: mlaas.ErrInvalid}
	}
	as := name
	if info, err := os.Stat(to); err == nil && info.IsDir() || strings.HasSuffix(to, "/") {
		if name == "." {
			as = ""
		}
	} else {
		to, as = filepath.Split(filepath.Clean(to))
	}
	if to == "" {
		to = "."
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	if dir == "" {
		dir = "."
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	var files, skipped int
	go func() {
		var err error
		files, skipped, err = unpack(r, root, name, as)
		r.CloseWithError(errors.Join(err, errStopped)) // before it is told: whoever writes must not wait
		done <- err
	}()
	err = from.in(ctx, cl, run, strings.NewReader(""), w, "tar", "-cf", "-", "-C", dir, "--", name)
	w.CloseWithError(errors.Join(err, io.EOF))
	unpacked := <-done
	if err != nil && !errors.Is(err, errStopped) {
		return err
	}
	if unpacked != nil && !errors.Is(unpacked, io.EOF) {
		return unpacked
	}
	note := ""
	if skipped > 0 {
		note = fmt.Sprintf("; %d links and devices were left out", skipped)
	}
	c.done("%s from %s of %s%s", count(files, "file"), replica, runName(run), note)
	return nil
}

var errStopped = errors.New("nothing more is read")

// unpack writes the files of a tar below root, those of name as those of as.
// What comes from a replica may be hostile: nothing is written elsewhere.
func unpack(r io.Reader, root *os.Root, name, as string) (files, skipped int, err error) {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r) // the padding, so that who writes is not cut off
			return files, skipped, err
		}
		if err != nil {
			return files, skipped, err
		}
		at := path.Clean(h.Name)
		if rest, ok := strings.CutPrefix(at, name); ok && (rest == "" || rest[0] == '/') {
			at = path.Join(as, rest)
		}
		if at = strings.TrimPrefix(at, "/"); at == "" {
			at = "."
		}
		switch mode := fs.FileMode(h.Mode).Perm(); h.Typeflag {
		case tar.TypeDir:
			if err := root.MkdirAll(filepath.FromSlash(at), mode|0o700); err != nil {
				return files, skipped, err
			}
		case tar.TypeReg:
			if err := root.MkdirAll(filepath.Dir(filepath.FromSlash(at)), 0o755); err != nil {
				return files, skipped, err
			}
			f, err := root.OpenFile(filepath.FromSlash(at), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode|0o200)
			if err == nil {
				_, err = io.Copy(f, t)
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				return files, skipped, err
			}
			files++
		default:
			skipped++
		}
	}
}

// send copies into a replica.
func (c *cli) send(ctx context.Context, cl *client.Client, from string, to place) error {
	info, err := os.Stat(from)
	if err != nil {
		return missing(from, err)
	}
	run, replica, err := findReplica(ctx, cl, to.job, to.replica)
	if err != nil {
		return err
	}
	to.replica = replica
	where, as := path.Clean(to.path), filepath.Base(filepath.Clean(from))
	if as == "." || as == ".." || as == "/" {
		as = "."
	}
	err = to.in(ctx, cl, run, strings.NewReader(""), io.Discard, "test", "-d", where)
	if there, failed := errors.AsType[*failedThere](err); failed && there.code == 1 && !strings.HasSuffix(to.path, "/") {
		where, as = path.Split(where)
		if where == "" {
			where = "."
		}
	} else if err != nil && !failed {
		return err
	}
	r, w := io.Pipe()
	packed := make(chan int, 1)
	go func() {
		n, err := pack(w, from, as, info)
		w.CloseWithError(err)
		packed <- n
	}()
	err = to.in(ctx, cl, run, r, io.Discard, "tar", "-xof", "-", "-C", where)
	r.CloseWithError(errStopped)
	n := <-packed
	if err != nil {
		return err
	}
	c.done("%s to %s of %s", count(n, "file"), replica, runName(run))
	return nil
}

// pack writes a file, or a folder with all below it, as a tar. Links are
// followed where they lead to files; what else there is, is left out.
func pack(w io.Writer, from, as string, info fs.FileInfo) (files int, err error) {
	t := tar.NewWriter(w)
	add := func(at, name string, info fs.FileInfo) error {
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		h.Name, h.Uid, h.Gid, h.Uname, h.Gname = filepath.ToSlash(name), 0, 0, "", ""
		if info.IsDir() {
			h.Name += "/"
			return t.WriteHeader(h)
		}
		f, err := os.Open(at)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		files++
		_, err = io.CopyN(t, f, info.Size())
		return err
	}
	err = filepath.WalkDir(from, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(from, at)
		if err != nil {
			return err
		}
		info, err := os.Stat(at)
		switch {
		case err != nil:
			return err
		case d.IsDir() || info.Mode().IsRegular():
			return add(at, path.Join(as, filepath.ToSlash(below)), info)
		}
		return nil
	})
	return files, errors.Join(err, t.Close())
}
