package blob

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"mlaas.dev/mlaas"
)

// PutArchive stores the files of a zip or tar.gz that a stranger sent and
// returns them; PutTree makes a folder of them. The format is "zip", "tar.gz",
// a content type, or empty, which looks at the bytes.
//
// The whole archive is checked before anything is stored, so one that is
// refused leaves nothing: paths that lead elsewhere, links, devices, two files
// of one name, damage, encryption, and more than the limits, counted while it
// is unpacked and not as it claims.
func PutArchive(ctx context.Context, d Driver, r io.Reader, format string, most Limits) ([]mlaas.File, error) {
	most = most.orDefault()
	packed, err := os.CreateTemp("", "mlaas-archive-")
	if err != nil {
		return nil, full(err)
	}
	defer packed.Close()
	if err := os.Remove(packed.Name()); err != nil { // it goes with us, however we end
		return nil, err
	}
	size, err := io.Copy(packed, &upTo{ctx, r, int64(most.Bytes)})
	if err != nil {
		return nil, fmt.Errorf("read the archive: %w", full(err))
	}
	a := &archive{ctx: ctx, packed: packed, size: size, most: most}
	if a.walk, err = a.kind(format); err != nil {
		return nil, err
	}
	// Once to check, with nothing kept, and once to store.
	if err := a.all(func(f mlaas.File, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	}); err != nil {
		return nil, err
	}
	files := []mlaas.File{}
	err = a.all(func(f mlaas.File, r io.Reader) (err error) {
		f.Digest, f.Size, err = d.Put(ctx, r, "")
		files = append(files, f)
		return err
	})
	return files, err
}

type archive struct {
	ctx    context.Context
	packed *os.File
	size   int64
	most   Limits
	walk   func(entry) error

	seen     paths
	entries  int
	unpacked int64
}

// An entry is called with each file and folder of an archive.
type entry func(name string, mode fs.FileMode, size int64, open func() (io.ReadCloser, error)) error

func (a *archive) kind(format string) (func(entry) error, error) {
	format, _, _ = strings.Cut(strings.ToLower(format), ";")
	switch strings.TrimSpace(format) {
	case "zip", "application/zip", "application/x-zip-compressed":
		return a.zip, nil
	case "tar.gz", "tgz", "application/gzip", "application/x-gzip", "application/x-tar+gzip", "application/x-compressed-tar":
		return a.tar, nil
	}
	var head [4]byte
	n, err := a.packed.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head[:n], []byte("PK")):
		return a.zip, nil
	case bytes.HasPrefix(head[:n], []byte{0x1f, 0x8b}):
		return a.tar, nil
	}
	return nil, mlaas.Invalid("archive", "a zip or tar.gz", format)
}

// all calls each with every file, checked so far.
func (a *archive) all(each func(mlaas.File, io.Reader) error) error {
	a.seen, a.entries, a.unpacked = paths{}, 0, 0
	return a.walk(func(name string, mode fs.FileMode, size int64, open func() (io.ReadCloser, error)) error {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		if a.entries++; a.entries > a.most.Files {
			return a.tooMany()
		}
		if mode.IsDir() {
			if name = strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/"); name == "" || name == "." {
				return nil
			}
			return CheckPath(name)
		}
		if !mode.IsRegular() {
			return mlaas.Invalid("archive", "files and folders alone; links and devices are refused", name)
		}
		name = strings.TrimPrefix(name, "./") // as tar writes it
		if err := a.seen.add(name); err != nil {
			return err
		}
		if size > int64(a.most.Bytes)-a.unpacked {
			return a.tooLarge()
		}
		r, err := open()
		if err != nil {
			return broken(err)
		}
		defer r.Close()
		return each(mlaas.File{Path: name, Exec: mode&0o111 != 0}, &counted{a, r})
	})
}

func (a *archive) tooMany() error {
	return fmt.Errorf("the archive has more than %d files: %w", a.most.Files, mlaas.ErrTooLarge)
}

func (a *archive) tooLarge() error {
	return fmt.Errorf("the archive unpacks to more than %s: %w", a.most.Bytes, mlaas.ErrTooLarge)
}

func (a *archive) zip(each entry) error {
	if n, err := zipEntries(a.packed, a.size, a.most.Files); err != nil {
		return err
	} else if n > a.most.Files {
		return a.tooMany()
	}
	// A section, so that an offset before its beginning is damage like any other.
	z, err := zip.NewReader(io.NewSectionReader(a.packed, 0, a.size), a.size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // we say better what is wrong with a path
		return broken(err)
	}
	for _, f := range z.File {
		if f.Flags&1 != 0 {
			return mlaas.Invalid("archive", "files that are not encrypted", f.Name)
		}
		mode := f.Mode()
		if strings.HasSuffix(f.Name, "/") {
			mode = fs.ModeDir | mode.Perm()
		}
		size := int64(-1)
		if f.UncompressedSize64 < 1<<62 {
			size = int64(f.UncompressedSize64)
		}
		if size < 0 {
			return a.tooLarge()
		}
		if err := each(f.Name, mode, size, f.Open); err != nil {
			return err
		}
	}
	return nil
}

// zipEntries counts what the directory of a zip lists, up to more than most,
// holding none of it: the count that the zip itself states may be a lie, and
// reading the directory would take memory for each entry.
func zipEntries(r io.ReaderAt, size int64, most int) (int, error) {
	const tail, end = 22, 64<<10 + 22
	n := min(size, end)
	buf := make([]byte, n)
	if _, err := r.ReadAt(buf, size-n); err != nil && err != io.EOF {
		return 0, err
	}
	at := bytes.LastIndex(buf[:max(0, int(n)-tail+4)], []byte("PK\x05\x06"))
	if at < 0 || at+tail > len(buf) {
		return 0, mlaas.Invalid("archive", "a whole zip", fmt.Sprintf("%d bytes without its end", size))
	}
	if at+tail+int(binary.LittleEndian.Uint16(buf[at+20:])) > len(buf) {
		return 0, mlaas.Invalid("archive", "a whole zip", "one whose end is cut off")
	}
	// A reader may believe where the directory begins, or how long it is before
	// its end, in the small form or in that of zip64.
	stop := size - n + int64(at)
	begins := []int64{int64(binary.LittleEndian.Uint32(buf[at+16:])), stop - int64(binary.LittleEndian.Uint32(buf[at+12:]))}
	if at >= 20 && bytes.HasPrefix(buf[at-20:], []byte("PK\x06\x07")) {
		var big [56]byte
		where := int64(binary.LittleEndian.Uint64(buf[at-12:]))
		if where >= 0 && where < size {
			if _, err := r.ReadAt(big[:], where); err == nil {
				begins = append(begins, int64(binary.LittleEndian.Uint64(big[48:])), where-int64(binary.LittleEndian.Uint64(big[40:])))
			}
		}
	}
	found := 0
	for _, from := range begins {
		if from < 0 || from >= size {
			continue
		}
		dir := bufio.NewReaderSize(io.NewSectionReader(r, from, size-from), 64<<10)
		count := 0
		for ; count <= most; count++ {
			head, err := dir.Peek(46)
			if err != nil || !bytes.HasPrefix(head, []byte("PK\x01\x02")) {
				break
			}
			skip := 46 + int(binary.LittleEndian.Uint16(head[28:])) + int(binary.LittleEndian.Uint16(head[30:])) + int(binary.LittleEndian.Uint16(head[32:]))
			if _, err := dir.Discard(skip); err != nil {
				break
			}
		}
		found = max(found, count)
	}
	return found, nil
}

func (a *archive) tar(each entry) error {
	z, err := gzip.NewReader(bufio.NewReaderSize(io.NewSectionReader(a.packed, 0, a.size), 64<<10))
	if err != nil {
		return broken(err)
	}
	t := tar.NewReader(&bounded{z, int64(a.most.Bytes) + int64(a.most.Files)*2048, a})
	for {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return broken(err)
		}
		mode := fs.FileMode(h.Mode).Perm()
		switch h.Typeflag {
		case tar.TypeReg:
			if strings.HasSuffix(h.Name, "/") {
				mode |= fs.ModeDir
			}
		case tar.TypeDir:
			mode |= fs.ModeDir
		case tar.TypeXGlobalHeader: // git archive writes its commit there
			continue
		default:
			mode |= fs.ModeIrregular
		}
		if err := each(h.Name, mode, h.Size, func() (io.ReadCloser, error) { return io.NopCloser(t), nil }); err != nil {
			return err
		}
	}
}

// counted is what one entry unpacks to; it ends where the archive has unpacked
// to too much.
type counted struct {
	a *archive
	r io.Reader
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.a.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.a.unpacked += int64(n)
	switch {
	case c.a.unpacked > int64(c.a.most.Bytes):
		return n, c.a.tooLarge()
	case c.a.unpacked > 16<<20 && c.a.unpacked/int64(c.a.most.Ratio) > c.a.size:
		return n, fmt.Errorf("the archive unpacks to more than %d times its size: %w", c.a.most.Ratio, mlaas.ErrTooLarge)
	case err != nil && err != io.EOF:
		return n, broken(err)
	}
	return n, err
}

// bounded is the tar inside the gzip, headers and gaps included.
type bounded struct {
	r    io.Reader
	left int64
	a    *archive
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, b.a.tooLarge()
	}
	if err := b.a.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// upTo is the archive as it comes.
type upTo struct {
	ctx  context.Context
	r    io.Reader
	left int64
}

func (u *upTo) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := u.r.Read(p)
	if u.left -= int64(n); u.left < 0 {
		return 0, fmt.Errorf("the archive is larger than what it may unpack to: %w", mlaas.ErrTooLarge)
	}
	return n, err
}

// broken is what is wrong with the bytes of an archive, unless it is something
// else that went wrong.
func broken(err error) error {
	if _, ok := errors.AsType[*mlaas.Kind](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err
	}
	return mlaas.Invalid("archive", "a whole zip or tar.gz", err.Error())
}
