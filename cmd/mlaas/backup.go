package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/backup"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/client"
	"mlaas.dev/mlaas/health"
	"mlaas.dev/mlaas/store"
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
the platform, or the key file of its services; keep a copy of it elsewhere, once.
--with-key, where that file is, puts it into the copy: whoever has that can read
the secrets.

The file is whole or it is not there: it ends with the hash of each part, and
they are verified as it is written.`,
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			var key []byte
			if withKey {
				dir, err := c.folder()
				if err != nil {
					return err
				}
				if key, err = readKey(first(c.Env("MLAAS_KEY_FILE"), filepath.Join(dir, "key"))); err != nil {
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
	var to target
	var check bool
	cmd := &cobra.Command{Use: "restore FILE|-", Short: "Make a platform of a backup, where nothing is yet", Args: cobra.ExactArgs(1),
		Example: `  mlaas restore mlaas.tar --dir /data/mlaas
  mlaas restore mlaas.tar --dir /data/mlaas --key key     its secrets can be opened
  mlaas restore mlaas.tar --store redis://:PASSWORD@10.0.0.2/mlaas --blob s3://mlaas?endpoint=https://10.0.0.3 --key-file key
  mlaas restore mlaas.tar --check                         only look whether it is whole`,
		Long: `Makes a platform of a backup: in a data folder that is not there yet or empty; or,
with --store and --blob, in a store and a bucket that hold nothing, for services
of their own. A backup of the one may become the other. Every hash is verified
before a record is written. The folder appears, and services take the store, when
all of it is there. A backup of a newer mlaas is refused.

Runs that were live begin again from their last checkpoint, under epochs that
nobody has ever had: whatever the platform that was copied has left running is
refused when it calls. Logins are left out. Then start it with   mlaas up   or
start the services.`,
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
			dir, err := c.folder()
			if err != nil {
				return err
			}
			if to.store != "" || to.blob != "" {
				return c.restoreServices(ctx, to, dir, in)
			}
			if to.keyFile != "" {
				return mlaas.Invalid("--key-file", "of services, with --store and --blob; a folder has its own, and --key names the one to put there", to.keyFile)
			}
			var key []byte
			if to.key != "" {
				if key, err = readKey(to.key); err != nil {
					return err
				}
			}
			return c.restore(ctx, dir, in, key)
		}}
	f := cmd.Flags()
	f.StringVar(&to.key, "key", "", "file with the key of the secrets, where the backup has it not: DIR/key of the platform that was copied")
	f.StringVar(&to.store, "store", "", "restore into this store, such as redis://:PASSWORD@HOST:6379/NAME, and a bucket")
	f.StringVar(&to.blob, "blob", "", "the bucket for it, such as s3://BUCKET?endpoint=https://HOST")
	f.StringVar(&to.keyFile, "key-file", "", "file with the key that the services share (else MLAAS_KEY_FILE, else DIR/key); made of the backup's key if it is not there")
	f.BoolVar(&check, "check", false, "write nothing: only look whether the backup is whole and can be read here")
	return cmd
}

// A target is where a backup is restored that is no folder.
type target struct{ store, blob, key, keyFile string }

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
	res, err := c.restoreInto(ctx, half, in, key)
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
	c.tellRestored(res, began)
	c.say("start it with   mlaas up --dir %s", dir)
	return nil
}

// restoreInto restores into the drivers of one machine.
func (c *cli) restoreInto(ctx context.Context, dir string, in io.Reader, key []byte) (res backup.Result, err error) {
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
	return c.read(ctx, backup.Target{DB: db, Blob: content, Series: filepath.Join(dir, "series"), Key: key}, in)
}

// restoreServices restores into what services share, which must hold nothing.
func (c *cli) restoreServices(ctx context.Context, to target, dir string, in io.Reader) error {
	if to.store == "" || to.blob == "" {
		return mlaas.Invalid("--store and --blob", "both, or neither to restore into a folder", first(to.store, to.blob))
	}
	keyFile := first(to.keyFile, c.Env("MLAAS_KEY_FILE"), filepath.Join(dir, "key"))
	key, err := readKey(keyFile)
	none := errors.Is(err, fs.ErrNotExist)
	if none {
		key, err = nil, nil
		if to.key != "" {
			key, err = readKey(to.key)
		}
	}
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler) // what fails is told
	db, err := openStore(ctx, to.store, log)
	if err != nil {
		return err
	}
	defer db.Close()
	content, err := openBucket(ctx, to.blob, log)
	if err != nil {
		return err
	}
	if err := store.Empty(ctx, db); err != nil {
		return tell{What: "the store is not empty", Why: plain(err) + ", and a backup is restored into nothing",
			Fix: "name another, such as redis://HOST/ANOTHER-NAME", Kind: mlaas.ErrConflict}
	}
	if err := empty(ctx, content); err != nil {
		return err
	}
	began := time.Now()
	res, err := c.read(ctx, backup.Target{DB: db, Blob: content, Key: key}, in)
	if err != nil {
		if store.Empty(ctx, db) != nil || empty(ctx, content) != nil {
			c.say("what was put there stays, and no service starts on it: restore again into another NAME and another bucket or prefix")
		}
		return err
	}
	if none && len(res.Key) > 0 {
		if err := os.MkdirAll(filepath.Dir(keyFile), 0o711); err != nil {
			return err
		}
		if err := writeThrough(keyFile, hex.EncodeToString(res.Key)+"\n"); err != nil {
			return err
		}
		c.say("  the key of the secrets is in %s: give it to every service", keyFile)
	}
	c.tellRestored(res, began)
	c.say("start the services with the same --store, --blob and --key-file")
	return nil
}

// empty reports that a bucket holds nothing of a platform: what two have in one
// place, each collects as the other's garbage.
func empty(ctx context.Context, b bucket) error {
	full := tell{What: "the bucket is not empty", Why: "a backup is restored into nothing",
		Fix: "name another bucket, or another prefix in it: s3://BUCKET/PREFIX", Kind: mlaas.ErrConflict}
	err := b.Each(ctx, func(i blob.Info) error {
		if i.Digest == health.Kept() { // of a doctor
			return nil
		}
		return full
	})
	if err != nil {
		return err
	}
	lines, err := b.objects.List(ctx, "series/")
	if err == nil && len(lines) > 0 {
		return full
	}
	return err
}

// read restores, and shows how far it is.
func (c *cli) read(ctx context.Context, to backup.Target, in io.Reader) (backup.Result, error) {
	s := screen{c: c}
	defer s.hide()
	to.Progress = func(what string, done, of int64) {
		s.bar = fmt.Sprintf("restoring %s: %d", what, done)
		if of > 0 {
			s.bar = fmt.Sprintf("%s restoring %s, %d of %d", gauge(part(done, of), 24), what, done, of)
		}
		s.draw()
	}
	return to.Read(ctx, in)
}

func (c *cli) tellRestored(res backup.Result, began time.Time) {
	c.tellSummary("restored", res.Summary, int64(res.Summary.Bytes), began)
	c.say("  of %s, by mlaas %s", res.Header.Created.Format(time.RFC3339), res.Header.Version)
	if n := len(res.Queued); n > 0 {
		c.say("  %s, live then, will go on from the last checkpoint: %s", count(n, "run"), strings.Join(res.Queued, ", "))
	}
	c.say("  every epoch was raised by %d: what the other platform has left running is refused", res.Raised)
	if res.Logins > 0 {
		c.say("  %s left out: the start prints a link for a new one", count(res.Logins, "login"))
	}
	if n := res.Summary.Records["secret"]; n > 0 && len(res.Key) == 0 {
		c.say("  %s cannot be opened without the key of the other platform: set them anew, or restore again with --key", count(n, "secret"))
	}
}
