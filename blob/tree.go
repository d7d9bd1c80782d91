package blob

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
)

// Limits of what is taken in. A zero field has the value that it says.
type Limits struct {
	Files int         // 100,000, folders included
	Bytes mlaas.Bytes // 16 GiB, unpacked
	Ratio int         // 250: bytes unpacked for a byte packed, beyond the first 16 MiB
}

func (l Limits) orDefault() Limits {
	if l.Files == 0 {
		l.Files = 100_000
	}
	if l.Bytes == 0 {
		l.Bytes = 16 << 30
	}
	if l.Ratio == 0 {
		l.Ratio = 250
	}
	return l
}

const (
	maxTree = 256 << 20 // bytes of the JSON of a tree
	atOnce  = 8         // files read or written at the same time
)

// CheckPath reports whether p may be a file of a tree: relative, with slashes,
// and nothing in it that means another place on any system.
func CheckPath(p string) error {
	bad := func(want string) error { return mlaas.Invalid("path", want, p) }
	switch {
	case p == "" || !utf8.ValidString(p):
		return bad("a path in UTF-8")
	case len(p) > 4096:
		return mlaas.Invalid("path", "at most 4096 bytes", p[:60]+"...")
	case strings.HasPrefix(p, "/") || len(p) > 1 && p[1] == ':':
		return bad("a relative path")
	case strings.Contains(p, `\`):
		return bad("slashes between folders")
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return bad("no control characters")
	}
	for part := range strings.SplitSeq(p, "/") {
		switch {
		case part == "" || part == ".":
			return bad(`no empty part and no "."`)
		case part == "..":
			return bad(`no ".."`)
		case len(part) > 255:
			return mlaas.Invalid("path", "parts of at most 255 bytes", part[:60]+"...")
		}
	}
	return nil
}

// paths finds two files that cannot be in one folder.
type paths map[string]string // folded: as written; folders too

const folder = "/" // ends what is folded of a folder

func (seen paths) add(p string) error {
	if err := CheckPath(p); err != nil {
		return err
	}
	key := fold(p)
	if other, ok := seen[key]; ok {
		if other == p {
			return mlaas.Invalid("path", "each file once", p)
		}
		return mlaas.Invalid("path", "names that differ in more than upper and lower case, as there is "+other, p)
	}
	if _, ok := seen[key+folder]; ok {
		return mlaas.Invalid("path", "a file, where there is a folder of that name", p)
	}
	for dir := path.Dir(key); dir != "."; dir = path.Dir(dir) {
		if other, ok := seen[dir]; ok {
			return mlaas.Invalid("path", "no file inside "+other+", which is a file", p)
		}
		if _, ok := seen[dir+folder]; ok {
			break // and so are its parents
		}
		seen[dir+folder] = p
	}
	seen[key] = p
	return nil
}

// fold makes those strings equal that a file system without case makes equal.
func fold(s string) string { return strings.ToLower(strings.ToUpper(s)) }

// CheckTree reports whether these files can be one folder.
func CheckTree(files []mlaas.File) error {
	seen := make(paths, len(files))
	for _, f := range files {
		if err := seen.add(f.Path); err != nil {
			return err
		}
		if _, err := CheckDigest(f.Digest); err != nil {
			return mlaas.In(f.Path, err)
		}
		if f.Size < 0 {
			return mlaas.Invalid(f.Path+".size", "a number of bytes", f.Size)
		}
	}
	return nil
}

// PutTree stores the description of a folder whose files are stored already,
// in one form for one content, and returns its name.
func PutTree(ctx context.Context, d Driver, files []mlaas.File) (mlaas.Digest, mlaas.Tree, error) {
	if err := CheckTree(files); err != nil {
		return "", mlaas.Tree{}, err
	}
	t := mlaas.Tree{Files: append([]mlaas.File{}, files...)} // [] rather than null
	slices.SortFunc(t.Files, func(a, b mlaas.File) int { return strings.Compare(a.Path, b.Path) })
	data, err := json.Marshal(t)
	if err != nil {
		return "", mlaas.Tree{}, err
	}
	digest, err := PutBytes(ctx, d, data)
	return digest, t, err
}

// GetTree reads the description of a folder, checked: a blob that is anything
// else is mlaas.ErrInvalid.
func GetTree(ctx context.Context, d Driver, digest mlaas.Digest) (mlaas.Tree, error) {
	var t mlaas.Tree
	data, err := GetBytes(ctx, d, digest, maxTree)
	if err != nil {
		return t, err
	}
	if err := json.Unmarshal(data, &t); err != nil || t.Files == nil {
		return t, mlaas.Invalid("tree", "the digest of a folder, not of a file", string(digest))
	}
	return t, CheckTree(t.Files)
}

// TreeSize is how much the files of t are together.
func TreeSize(t mlaas.Tree) (size mlaas.Bytes) {
	for _, f := range t.Files {
		size += mlaas.Bytes(f.Size)
	}
	return size
}

// PutFolder stores dir with everything in it. Links, devices and sockets are
// refused, because elsewhere they would not mean the same; empty folders are
// left out.
func PutFolder(ctx context.Context, d Driver, dir string, most Limits) (mlaas.Digest, mlaas.Tree, error) {
	most = most.orDefault()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", mlaas.Tree{}, err
	}
	defer root.Close()
	var files []mlaas.File
	var count int
	var size mlaas.Bytes
	err = fs.WalkDir(root.FS(), ".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if count++; count > most.Files+1 { // dir itself is met too
			return fmt.Errorf("the folder has more than %d files: %w", most.Files, mlaas.ErrTooLarge)
		}
		if e.IsDir() {
			return ctx.Err()
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return mlaas.Invalid("path", "a file or a folder; links and devices cannot be stored", p)
		}
		if size += mlaas.Bytes(info.Size()); size > most.Bytes {
			return fmt.Errorf("the folder has more than %s: %w", most.Bytes, mlaas.ErrTooLarge)
		}
		files = append(files, mlaas.File{Path: p, Exec: info.Mode()&0o111 != 0})
		return ctx.Err()
	})
	if err != nil {
		return "", mlaas.Tree{}, err
	}
	if err := unstored(files); err != nil {
		return "", mlaas.Tree{}, err
	}
	g, some := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i := range files {
		g.Go(func() (err error) {
			files[i].Digest, files[i].Size, err = putFile(some, d, root, files[i].Path)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", mlaas.Tree{}, err
	}
	return PutTree(ctx, d, files)
}

// unstored checks the paths before anything is stored.
func unstored(files []mlaas.File) error {
	seen := make(paths, len(files))
	for _, f := range files {
		if err := seen.add(f.Path); err != nil {
			return err
		}
	}
	return nil
}

func putFile(ctx context.Context, d Driver, root *os.Root, p string) (mlaas.Digest, int64, error) {
	// It may have become something else since it was seen: neither follow a
	// link nor wait for the other end of a pipe.
	f, err := root.OpenFile(p, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", 0, errors.Join(err, mlaas.Invalid("path", "a file", p))
	}
	return d.Put(ctx, f, "")
}

// WriteTree writes the files of a tree into dir, which is made if it is not
// there. What the tree names anew is replaced; nothing is written outside dir,
// whatever links are in it. Every file is checked against its digest. After an
// error dir holds some of the files.
func WriteTree(ctx context.Context, d Driver, digest mlaas.Digest, dir string) (mlaas.Tree, error) {
	t, err := GetTree(ctx, d, digest)
	if err != nil {
		return t, err
	}
	return t, WriteFiles(ctx, d, t.Files, dir)
}

// WriteFiles does the same with some files of a tree, in its order.
func WriteFiles(ctx context.Context, d Driver, files []mlaas.File, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	last := ""
	for _, f := range files { // sorted, so that each folder is made about once
		if in := path.Dir(f.Path); in != last && in != "." {
			if err := root.MkdirAll(in, 0o755); err != nil {
				return err
			}
			last = in
		}
	}
	g, some := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, f := range files {
		g.Go(func() error { return writeFile(some, d, root, f) })
	}
	return g.Wait()
}

// full makes the kind of an error that says there is no room, or that the disk
// does not take what is written.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w", err, mlaas.ErrDisk)
	}
	return err
}

func writeFile(ctx context.Context, d Driver, root *os.Root, f mlaas.File) error {
	r, err := d.Get(ctx, f.Digest, 0)
	if err != nil {
		return fmt.Errorf("file %s: %w", f.Path, err)
	}
	defer r.Close()
	if err := root.Remove(f.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	mode := fs.FileMode(0o644)
	if f.Exec {
		mode = 0o755
	}
	out, err := root.OpenFile(f.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer out.Close()
	sum := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(out, sum), r, make([]byte, 128<<10))
	switch {
	case err != nil:
		return fmt.Errorf("file %s: %w", f.Path, full(err))
	case n != f.Size || Sum(sum.Sum(nil)) != f.Digest:
		return fmt.Errorf("file %s: blob %s of %d bytes is %w", f.Path, f.Digest, f.Size, ErrDamaged)
	}
	return full(out.Close())
}
