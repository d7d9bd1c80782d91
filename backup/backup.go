// Package backup copies a platform while it works, and brings it back.
//
// A backup is one tar, written as it is read: a header; the records and
// messages of one commit; the files of the series; every piece of content that
// those name, by digest; and last a manifest with the hash of each entry, so
// that a backup which was cut off or changed is found out before anything of it
// is used. [Source] writes one, [Target] reads one.
package backup

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// Format is the version of the tar's layout that this program writes, and the
// newest that it reads.
const Format = 1

// The entries of a backup, in their order.
const (
	headerName   = "mlaas-backup.json"
	keyName      = "key"
	recordsName  = "records.jsonl"
	manifests    = "series.jsonl" // the records of the series
	messagesName = "messages.jsonl"
	seriesFolder = "series/"
	blobFolder   = "blob/"
	manifestName = "manifest.json"
)

// A Header is the first entry: what is needed to know whether the rest can be
// read.
type Header struct {
	Format  int            `json:"format"`
	Version string         `json:"version"`          // of the mlaas that wrote it
	Schema  map[string]int `json:"schema,omitempty"` // the form of each kind of record, those of form 1 left away
	Created time.Time      `json:"created"`
	Seq     int64          `json:"seq"`   // of the commit that the records and messages are of
	Whole   bool           `json:"whole"` // the messages are there too; else what they would have told is found in the records
	Key     string         `json:"key"`   // the fingerprint of the key by which secrets are sealed
}

// A Manifest is the last entry.
type Manifest struct {
	Entries []Entry `json:"entries"`
	Summary Summary `json:"summary"`
}

// An Entry is one entry of the tar before the manifest.
type Entry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// A Summary is what a backup has.
type Summary struct {
	Seq      int64          `json:"seq"`
	Records  map[string]int `json:"records"` // by kind
	Messages int            `json:"messages"`
	Series   int            `json:"series"` // files of lines and points
	Blobs    int            `json:"blobs"`
	Bytes    mlaas.Bytes    `json:"bytes"`
	Missing  []mlaas.Digest `json:"missing,omitempty"` // content that records name and that was not there before either
}

// A row is a line of records.jsonl.
type row struct {
	Kind   string          `json:"kind"`
	Tenant mlaas.Tenant    `json:"tenant,omitempty"`
	ID     string          `json:"id"`
	Rev    int64           `json:"rev"`
	Index  []string        `json:"index,omitempty"`
	Data   json.RawMessage `json:"data"`
}

// A message is a line of messages.jsonl.
type message struct {
	To      string          `json:"to"`
	Subject string          `json:"subject"`
	Key     string          `json:"key,omitempty"`
	Due     time.Time       `json:"due,omitzero"`
	Body    json.RawMessage `json:"body,omitempty"`
	Why     string          `json:"why,omitempty"`
}

// Progress is called now and then with what is done of a kind of thing, and of
// how many; 0: that is not known.
type Progress func(what string, done, of int64)

// Series are lines and points that can be copied as of one moment, as
// *series.Store and *series.Remote do.
type Series interface {
	Snapshot(ctx context.Context, file func(name string, size int64, data io.Reader) error) (series.Copied, error)
	Blobs(ctx context.Context, f func(mlaas.Digest) error) error
}

// A Source is a platform that is to be copied. It may be in use.
type Source struct {
	DB       store.Driver
	Blob     blob.Driver
	Series   Series
	Key      []byte // seals secrets; it is not in the backup, its fingerprint is
	Version  string
	Progress Progress // nil: nobody listens
	Now      func() time.Time
}

// Fingerprint names a key without telling it.
func Fingerprint(key []byte) string {
	b, err := hkdf.Key(sha256.New, key, nil, "mlaas backup key fingerprint", 16)
	if err != nil {
		panic(err) // 16 bytes can always be had
	}
	return hex.EncodeToString(b)
}

// tries is how often a copy is begun again because content went between the
// commit that it is of and the moment that it was looked for.
const tries = 5

// Write writes a backup. It is of one commit: everything that was acknowledged
// before Write was called is in it. Lines and points are those of a moment
// after that commit, so that none that a record knows of is missing.
func (s Source) Write(ctx context.Context, w io.Writer) (Summary, error) {
	for try := 1; ; try++ {
		c := &copying{Source: s, tar: tar.NewWriter(w), sum: Summary{Records: map[string]int{}}}
		err := c.gather(ctx)
		if errors.Is(err, errMoved) && try < tries {
			c.close()
			continue
		}
		if err == nil {
			err = c.write(ctx)
		}
		c.close()
		return c.sum, err
	}
}

var errMoved = errors.New("content was removed while it was copied")

// A copying is one backup under way.
type copying struct {
	Source
	tar     *tar.Writer
	sum     Summary
	header  Header
	entries []Entry
	spool   *spool
	blobs   []mlaas.Digest
	release func()
}

// A spool holds the first entries on disk until all of them are there: a tar
// says how large an entry is before it has it.
type spool struct {
	file  *os.File
	buf   *bufio.Writer
	parts []part
}

type part struct {
	name       string
	from, size int64
}

func newSpool() (*spool, error) {
	f, err := os.CreateTemp("", "mlaas-backup-*")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name()) // it is gone when it is closed, whatever happens to us
	return &spool{file: f, buf: bufio.NewWriterSize(f, 256<<10)}, nil
}

// begin makes what is written from here on the next entry.
func (s *spool) begin(name string) {
	from := int64(0)
	if n := len(s.parts); n > 0 {
		from = s.parts[n-1].from + s.parts[n-1].size
	}
	s.parts = append(s.parts, part{name: name, from: from})
}

func (s *spool) Write(p []byte) (int, error) {
	n, err := s.buf.Write(p)
	s.parts[len(s.parts)-1].size += int64(n)
	return n, err
}

func (s *spool) line(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = s.Write(append(data, '\n'))
	return err
}

func (c *copying) close() {
	if c.spool != nil {
		c.spool.file.Close()
	}
	if c.release != nil {
		c.release()
	}
}

// skipped are records of no use elsewhere, such as who lives; and those that
// come with the series.
func skipped() []string { return append(series.RecordKinds(), "probe", "member", "copying") }

// gather takes the records, the messages and the series, and makes sure that
// every piece of content that they name stays until it is copied.
func (c *copying) gather(ctx context.Context) (err error) {
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	c.header = Header{Format: Format, Version: c.Version, Created: now().UTC(), Schema: map[string]int{}, Key: Fingerprint(c.Key)}
	if c.spool, err = newSpool(); err != nil {
		return err
	}
	c.spool.begin(recordsName)
	trees, others := map[mlaas.Digest]bool{}, map[mlaas.Digest]bool{}
	done, skip := int64(0), skipped()
	c.header.Seq, c.header.Whole, err = store.Export(ctx, c.DB, func(r store.Row) error {
		if slices.Contains(skip, r.Key.Kind) {
			return nil
		}
		ts, os, err := store.Blobs(r)
		if err != nil {
			return err
		}
		for _, d := range ts {
			trees[d] = true
		}
		for _, d := range os {
			others[d] = true
		}
		if done++; done%1000 == 0 {
			c.progress("records", done, 0)
		}
		return c.record(r)
	}, func(m store.Claim) error {
		if strings.HasPrefix(m.Message.To, "probe/") {
			return nil
		}
		if c.sum.Messages++; c.sum.Messages == 1 {
			c.spool.begin(messagesName)
		}
		return c.spool.line(message{m.Message.To, m.Message.Subject, m.Message.Key, m.Message.Due, m.Message.Body, m.Why})
	})
	if err != nil {
		return fmt.Errorf("read the records: %w", err)
	}
	c.progress("records", done, done)
	c.sum.Seq = c.header.Seq

	lines, err := c.Series.Snapshot(ctx, func(name string, size int64, data io.Reader) error {
		c.spool.begin(seriesFolder + name)
		n, err := io.Copy(c.spool, data)
		if err == nil && n != size {
			err = fmt.Errorf("%s has %d bytes, not %d: %w", name, n, size, io.ErrUnexpectedEOF)
		}
		c.sum.Series++
		return err
	})
	if err != nil {
		return fmt.Errorf("read the series: %w", err)
	}
	c.release = lines.Release
	for i, r := range lines.Records {
		if i == 0 {
			c.spool.begin(manifests)
		}
		if err := c.record(r); err != nil {
			return err
		}
	}
	for _, d := range lines.Blobs {
		others[d] = true
	}
	return c.pin(ctx, trees, others)
}

// record writes a record where the spool is.
func (c *copying) record(r store.Row) error {
	forms, err := store.FormsOf(r)
	if err != nil {
		return err
	}
	for kind, form := range forms {
		c.header.Schema[kind] = max(c.header.Schema[kind], form)
	}
	c.sum.Records[r.Key.Kind]++
	return c.spool.line(row{r.Key.Kind, r.Key.Tenant, r.Key.ID, r.Rev, r.Index, r.Data})
}

// pin protects what is named from being collected, as somebody does who is
// about to name it. What is not there was lost before, or removed just now: a
// second look at the records tells.
func (c *copying) pin(ctx context.Context, trees, others map[mlaas.Digest]bool) error {
	var missing []mlaas.Digest
	touch := func(d mlaas.Digest) (bool, error) {
		_, err := blob.Touch(ctx, c.Blob, d)
		if errors.Is(err, mlaas.ErrNotFound) {
			missing = append(missing, d)
			return false, nil
		}
		return err == nil, err
	}
	for d := range trees {
		there, err := touch(d)
		if err != nil {
			return err
		}
		others[d] = true
		if !there {
			continue
		}
		t, err := blob.GetTree(ctx, c.Blob, d)
		if err != nil {
			return fmt.Errorf("tree %s: %w", d, err)
		}
		for _, f := range t.Files {
			others[f.Digest] = true
		}
	}
	for d := range others {
		if !trees[d] {
			if _, err := touch(d); err != nil {
				return err
			}
		}
		c.blobs = append(c.blobs, d)
	}
	slices.Sort(c.blobs)
	if len(missing) == 0 {
		return nil
	}
	named, err := c.named(ctx)
	if err != nil {
		return err
	}
	for _, d := range missing {
		if !named[d] {
			return fmt.Errorf("%s: %w", d, errMoved)
		}
	}
	slices.Sort(missing)
	c.sum.Missing = missing
	c.blobs = slices.DeleteFunc(c.blobs, func(d mlaas.Digest) bool { return slices.Contains(missing, d) })
	return nil
}

// named is all that the records and the series name now.
func (c *copying) named(ctx context.Context) (map[mlaas.Digest]bool, error) {
	all := map[mlaas.Digest]bool{}
	err := c.Series.Blobs(ctx, func(d mlaas.Digest) error {
		all[d] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, kind := range store.NamesBlobs() {
		q := store.Query{Kind: kind}
		for {
			page, next, err := c.DB.List(ctx, q)
			if err != nil {
				return nil, err
			}
			for _, r := range page {
				trees, others, err := store.Blobs(r)
				if err != nil {
					return nil, err
				}
				for _, d := range append(trees, others...) {
					all[d] = true
				}
				for _, d := range trees {
					t, err := blob.GetTree(ctx, c.Blob, d)
					if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
						return nil, err
					}
					for _, f := range t.Files {
						all[f.Digest] = true
					}
				}
			}
			if next == (store.Key{}) {
				break
			}
			q.After = next
		}
	}
	return all, nil
}

func (c *copying) progress(what string, done, of int64) {
	if c.Progress != nil {
		c.Progress(what, done, of)
	}
}

// write writes the tar.
func (c *copying) write(ctx context.Context) error {
	if err := c.json(headerName, c.header); err != nil {
		return err
	}
	if err := c.spool.buf.Flush(); err != nil {
		return err
	}
	for _, p := range c.spool.parts {
		if err := c.entry(p.name, p.size, io.NewSectionReader(c.spool.file, p.from, p.size)); err != nil {
			return err
		}
	}
	for i, d := range c.blobs {
		if err := c.blob(ctx, d); err != nil {
			return fmt.Errorf("copy %s: %w", d, err)
		}
		c.sum.Blobs++
		if i%100 == 99 || i == len(c.blobs)-1 {
			c.progress("content", int64(i+1), int64(len(c.blobs)))
		}
	}
	for _, e := range c.entries {
		c.sum.Bytes += mlaas.Bytes(e.Size)
	}
	if err := c.json(manifestName, Manifest{c.entries, c.sum}); err != nil {
		return err
	}
	return c.tar.Close()
}

func (c *copying) blob(ctx context.Context, d mlaas.Digest) error {
	info, err := c.Blob.Stat(ctx, d)
	if err != nil {
		return err
	}
	r, err := c.Blob.Get(ctx, d, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	return c.entry(blobFolder+string(d), info.Size, r)
}

func (c *copying) json(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	return c.entry(name, int64(len(data)), strings.NewReader(string(data)))
}

func (c *copying) entry(name string, size int64, r io.Reader) error {
	err := c.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: c.header.Created, Format: tar.FormatPAX})
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(c.tar, sum), r)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes, not %d: %w", name, n, size, io.ErrUnexpectedEOF)
	}
	c.entries = append(c.entries, Entry{name, size, hexSum(sum)})
	return err
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// WriteKey writes the sealing key as an entry that stands before a backup, so
// that both are one file.
func WriteKey(w io.Writer, key []byte) error {
	t := tar.NewWriter(w)
	text := []byte(hex.EncodeToString(key) + "\n")
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: keyName, Size: int64(len(text)), Mode: 0o600, Format: tar.FormatPAX}); err != nil {
		return err
	}
	if _, err := t.Write(text); err != nil {
		return err
	}
	return t.Flush() // not Close: the backup goes on here
}
