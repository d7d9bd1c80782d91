// Command blob measures 1 GiB into a bucket and back through the driver,
// against the bare client on the same server and the same disk. The driver
// names the bytes by their SHA-256 on the way in and checks it on the way out.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/bench/rig"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/s3"
	"mlaas.dev/mlaas/internal/s3test"
)

func main() {
	mib := flag.Int64("mib", 1024, "how much, in MiB")
	rounds := flag.Int("rounds", 4, "of each kind, interleaved A B B A")
	dir := flag.String("dir", "", "a folder on the disk to be measured; empty: a temporary one")
	flag.Parse()
	ok, err := run(*dir, *mib<<20, *rounds)
	if err != nil {
		fmt.Fprintln(os.Stderr, "blob:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

// The smallest ratio of bytes a second that is good enough. Without a name the
// bytes wait on disk for it: that figure is there to be seen.
const limit = 0.8

type bench struct {
	ctx    context.Context
	driver *s3.S3
	bare   *minio.Client
	from   string // the file that is stored
	to     string
	size   int64
	digest mlaas.Digest
}

func run(dir string, size int64, rounds int) (bool, error) {
	dir, err := os.MkdirTemp(dir, "mlaas-blob-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	server := &s3test.Server{Dir: filepath.Join(dir, "server")}
	if err := server.Start(); err != nil {
		return false, err
	}
	defer server.Close()
	b := &bench{ctx: context.Background(), from: filepath.Join(dir, "from"), to: filepath.Join(dir, "to"), size: size}
	if b.driver, err = s3.Open(b.ctx, server.Bucket("bench", ""), s3.Options{Temp: dir}); err != nil {
		return false, err
	}
	b.bare, err = minio.New(server.Listen, &minio.Options{
		Creds:  credentials.NewStaticV4(s3test.AccessKey, s3test.SecretKey, ""),
		Region: s3test.Region, BucketLookup: minio.BucketLookupPath,
	})
	if err == nil {
		b.digest, err = write(b.from, size)
	}
	if err != nil {
		return false, err
	}
	steps := []struct {
		name         string
		driver, bare func() error
		limit        float64
	}{
		{"put named", b.putNamed, b.putBare, limit},
		{"put not named", b.putUnnamed, b.putBare, 0},
		{"get", b.get, b.getBare, limit},
	}
	ok := true
	for _, s := range steps {
		var ratios, mine, theirs []float64
		if s.name == "get" {
			if err := errors.Join(b.putBare(), b.putNamed()); err != nil {
				return false, err
			}
		}
		for r := range rounds + 1 { // the first is to warm up
			rates := make([]float64, 2)
			for i := range 2 {
				which := (i + r) % 2
				do := s.driver
				if which == 1 {
					do = s.bare
				}
				if s.name != "get" {
					if err := b.clear(); err != nil {
						return false, err
					}
				} else if err := os.RemoveAll(b.to); err != nil {
					return false, err
				}
				began := time.Now()
				if err := do(); err != nil {
					return false, fmt.Errorf("%s: %w", s.name, err)
				}
				rates[which] = float64(size) / (1 << 20) / time.Since(began).Seconds()
			}
			if r > 0 {
				ratios, mine, theirs = append(ratios, rates[0]/rates[1]), append(mine, rates[0]), append(theirs, rates[1])
			}
		}
		holds := rig.Row(fmt.Sprintf("%s of %s: driver / bare client", s.name, mlaas.Bytes(size)), rig.Median(ratios), s.limit, "x", false,
			fmt.Sprintf("%.0f against %.0f MiB/s", rig.Median(mine), rig.Median(theirs)))
		ok = ok && holds
	}
	return ok, nil
}

// write makes a file of bytes that do not repeat.
func write(name string, size int64) (mlaas.Digest, error) {
	f, err := os.Create(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, sum), rand.NewChaCha8([32]byte{7}), size); err != nil {
		return "", err
	}
	return blob.Sum(sum.Sum(nil)), f.Close()
}

// clear removes what was stored, so that it is stored again.
func (b *bench) clear() error {
	if err := b.bare.RemoveObject(b.ctx, "bench", "bare", minio.RemoveObjectOptions{}); err != nil {
		return err
	}
	return b.driver.Delete(b.ctx, b.digest)
}

func (b *bench) put(want mlaas.Digest) error {
	f, err := os.Open(b.from)
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, err = b.driver.Put(b.ctx, f, want)
	return err
}

func (b *bench) putNamed() error { return b.put(b.digest) }

func (b *bench) putUnnamed() error { return b.put("") }

func (b *bench) putBare() error {
	_, err := b.bare.FPutObject(b.ctx, "bench", "bare", b.from, minio.PutObjectOptions{})
	return err
}

func (b *bench) get() error {
	in, err := b.driver.Get(b.ctx, b.digest, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(b.to)
	if err != nil {
		return err
	}
	defer out.Close()
	if n, err := io.Copy(out, in); err != nil || n != b.size {
		return fmt.Errorf("%d bytes came: %w", n, err)
	}
	return out.Close()
}

func (b *bench) getBare() error {
	return b.bare.FGetObject(b.ctx, "bench", "bare", b.to, minio.GetObjectOptions{})
}
