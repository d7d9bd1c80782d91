package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/backup"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/client"
	"mlaas.dev/mlaas/store/sqlitestore"
)

func (c *cli) backupCommand() *cobra.Command {
	var withKey bool
	cmd := &cobra.Command{Use: "backup FILE|-", Short: "Copy the platform while it works, into one file", Args: cobra.ExactArgs(1),
		Example: `  mlaas backup mlaas.tar
  mlaas backup - | zstd | ssh vault 'cat > mlaas.tar.zst'
  mlaas backup mlaas.tar --with-key      secrets can be opened where it is restored`,
		Long: `Copies the platform while it works: records and messages as they are after one
commit, what runs have said and measured, and all content that those name (code,
data, checkpoints, outputs). Everything that was acknowledged before is in it.

Secrets are in it as they are kept: sealed. The key that opens them is DIR/key of
the platform; keep a copy of it elsewhere, once. --with-key, on the platform's
own machine, puts it into the file: whoever has that file can read the secrets.

The file is whole or it is not there: it ends with the hash of each part, and
they are verified as it is written.`,
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			var key []byte
			if withKey {
				dir, err := c.folder()
				if err != nil {
					return err
				}
				if key, err = readKey(filepath.Join(dir, "key")); err != nil {
					return err
				}
			}
			if args[0] == "-" {
				return c.copyPlatform(ctx, cl, c.Out, key)
			}
			return whole(args[0], func(f *os.File) error { return c.copyPlatform(ctx, cl, f, key) })
		})}
	cmd.Flags().BoolVar(&withKey, "with-key", false, "put the key of the secrets into the file")
	return cmd
}

// whole makes a file of what do writes, or none. Its owner alone may read it.
func whole(path string, do func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := errors.Join(do(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// copyPlatform writes a backup to w, and reads it as it passes: what comes from
// the network may be cut off.
func (c *cli) copyPlatform(ctx context.Context, cl *client.Client, w io.Writer, key []byte) error {
	began := time.Now()
	if len(key) > 0 {
		if err := backup.WriteKey(w, key); err != nil {
			return err
		}
	}
	from, err := cl.Backup(ctx)
	if err != nil {
		return err
	}
	defer from.Close()
	s := screen{c: c}
	defer s.hide()
	copied, last := int64(0), time.Time{}
	counted := writerFunc(func(p []byte) (int, error) {
		if copied += int64(len(p)); time.Since(last) > 200*time.Millisecond {
			last = time.Now()
			s.bar = "copied " + size(copied)
			s.draw()
		}
		return w.Write(p)
	})
	passing := io.TeeReader(from, counted)
	header, sum, err := backup.Check(ctx, passing)
	if err == nil {
		_, err = io.Copy(io.Discard, passing) // what pads a tar
	}
	s.hide()
	if err != nil {
		return fmt.Errorf("the backup is not whole, and is thrown away: %w", err)
	}
	c.tellSummary("copied", sum, copied, began)
	if !header.Whole {
		c.say("  this store cannot list its messages: what they would have told is found in the records")
	}
	if n := sum.Records["secret"]; len(key) > 0 {
		c.say("  the key of the secrets is in it: whoever has this file can read %s", count(n, "secret"))
	} else if n > 0 {
		c.say("  the key of its %s is not in it: keep DIR/key of the platform elsewhere, or use --with-key", count(n, "secret"))
	}
	return nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (c *cli) tellSummary(did string, sum backup.Summary, bytes int64, began time.Time) {
	n := 0
	for _, of := range sum.Records {
		n += of
	}
	c.done("%s %s, %s, %s of %s, in %s: as of commit %d", did, count(n, "record"), count(sum.Messages, "message"),
		count(sum.Blobs, "piece")+" of content", size(bytes), span(time.Since(began)), sum.Seq)
	if n := len(sum.Missing); n > 0 {
		c.say("  %s that records name were gone already, such as %s", count(n, "piece")+" of content", sum.Missing[0])
	}
}

func readKey(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) < 32 {
		return nil, tell{What: path + " does not hold a key", Fix: "it is 32 bytes in hex, as mlaas up writes it to DIR/key", Kind: mlaas.ErrInvalid}
	}
	return key, nil
}

func (c *cli) restoreCommand() *cobra.Command {
	var keyFile string
	var check bool
	cmd := &cobra.Command{Use: "restore FILE|-", Short: "Make a platform of a backup, in an empty data folder", Args: cobra.ExactArgs(1),
		Example: `  mlaas restore mlaas.tar --dir /data/mlaas
  mlaas restore mlaas.tar --dir /data/mlaas --key key     its secrets can be opened
  mlaas restore mlaas.tar --check                         only look whether it is whole`,
		Long: `Makes a platform of a backup, in a data folder that is not there yet or empty.
Every hash is verified before a record is written, and the folder appears when
all of it is there. A backup of a newer mlaas is refused.

Runs that were live begin again from their last checkpoint, under epochs that
nobody has ever had: whatever the platform that was copied has left running is
refused when it calls. Logins are left out. Then start it with   mlaas up`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ctx, in := cmd.Context(), c.In
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			if check {
				began := time.Now()
				header, sum, err := backup.Check(ctx, in)
				if err != nil {
					return err
				}
				c.tellSummary("it is whole: it has", sum, int64(sum.Bytes), began)
				c.say("  of %s, by mlaas %s", header.Created.Format(time.RFC3339), header.Version)
				return nil
			}
			var key []byte
			if keyFile != "" {
				if key, err = readKey(keyFile); err != nil {
					return err
				}
			}
			dir, err := c.folder()
			if err != nil {
				return err
			}
			return c.restore(ctx, dir, in, key)
		}}
	f := cmd.Flags()
	f.StringVar(&keyFile, "key", "", "file with the key of the secrets, where the backup has it not: DIR/key of the platform that was copied")
	f.BoolVar(&check, "check", false, "write nothing: only look whether the backup is whole and can be read here")
	return cmd
}

// restore makes the data folder dir of a backup. It is made beside it and takes
// its name when it is complete.
func (c *cli) restore(ctx context.Context, dir string, in io.Reader, key []byte) (err error) {
	there, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(there) > 0 {
		return tell{What: dir + " is not empty", Why: "it has " + there[0].Name() + ", and a backup is restored into nothing",
			Fix: "name another folder by --dir, or move this one away", Kind: mlaas.ErrConflict}
	}
	began := time.Now()
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	half, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".restoring-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(half)
		}
	}()
	s := screen{c: c}
	defer s.hide()
	res, err := c.restoreInto(ctx, half, in, key, func(what string, done, of int64) {
		s.bar = fmt.Sprintf("restoring %s: %d", what, done)
		if of > 0 {
			s.bar = fmt.Sprintf("%s restoring %s, %d of %d", gauge(part(done, of), 24), what, done, of)
		}
		s.draw()
	})
	s.hide()
	if err != nil {
		return err
	}
	if len(res.Key) > 0 {
		if err := os.WriteFile(filepath.Join(half, "key"), []byte(hex.EncodeToString(res.Key)+"\n"), 0o600); err != nil {
			return err
		}
	}
	if err := os.Chmod(half, 0o711); err != nil { // as mlaas up makes it
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // it is empty
		return err
	}
	if err := os.Rename(half, dir); err != nil {
		return err
	}
	c.tellSummary("restored", res.Summary, int64(res.Summary.Bytes), began)
	c.say("  of %s, by mlaas %s", res.Header.Created.Format(time.RFC3339), res.Header.Version)
	if n := len(res.Queued); n > 0 {
		c.say("  %s, live then, will go on from the last checkpoint: %s", count(n, "run"), strings.Join(res.Queued, ", "))
	}
	c.say("  every epoch was raised by %d: what the other platform has left running is refused", res.Raised)
	if res.Logins > 0 {
		c.say("  %s left out: mlaas up prints a link for a new one", count(res.Logins, "login"))
	}
	if n := res.Summary.Records["secret"]; n > 0 && len(res.Key) == 0 {
		c.say("  %s cannot be opened without the key of the other platform: set them anew, or restore again with --key", count(n, "secret"))
	}
	c.say("start it with   mlaas up --dir %s", dir)
	return nil
}

// restoreInto restores into the drivers of one machine.
func (c *cli) restoreInto(ctx context.Context, dir string, in io.Reader, key []byte, progress backup.Progress) (res backup.Result, err error) {
	db, err := sqlitestore.Open(ctx, filepath.Join(dir, "mlaas.db"), sqlitestore.Options{})
	if err != nil {
		return res, err
	}
	defer db.Close()
	content, err := files.Open(filepath.Join(dir, "blob"), nil)
	if err != nil {
		return res, err
	}
	defer content.Close()
	return backup.Target{DB: db, Blob: content, Series: filepath.Join(dir, "series"), Key: key, Progress: progress}.Read(ctx, in)
}
