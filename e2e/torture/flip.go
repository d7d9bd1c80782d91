package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"mlaas.dev/mlaas/e2e/layout"
)

// Flip turns one bit of a file that holds lines, points or bytes, as a disk
// does that ages. It is done to copies, each started as a platform of its own:
// what is damaged there must be told, and never be wrong without a word.
type Flip struct{ Copies int }

func (*Flip) Name() string { return "a bit flipped in a segment or blob" }

func (*Flip) Fits(*Stage) error { return nil }

func (*Flip) Inject(context.Context, *Stage) error { return nil }

func (*Flip) Heal(context.Context, *Stage) error { return nil }

// Afterwards copies the platform as it lies, and damages the copies.
func (f *Flip) Afterwards(ctx context.Context, s *Stage, entries []Entry, tally *Tally) (err error) {
	if s.Short { // else they are over
		s.compare(ctx, nil, tally)
	}
	for _, p := range s.platform.Processes() {
		p.Kill()
	}
	defer func() { err = errors.Join(err, s.platform.Restart(ctx)) }()
	for range f.Copies {
		if err := flip(ctx, s, entries, tally); err != nil {
			return err
		}
	}
	return nil
}

func flip(ctx context.Context, s *Stage, entries []Entry, tally *Tally) (err error) {
	dir, blobs := filepath.Join(s.dir, "copy"), filepath.Join(s.dir, "copy-s3")
	defer func() { err = errors.Join(err, os.RemoveAll(dir), os.RemoveAll(blobs)) }()
	if err := do("cp", "-a", s.platform.Dir, dir); err != nil {
		return err
	}
	places := []string{filepath.Join(dir, "series"), filepath.Join(dir, "blob")}
	if s.Kind != layout.One {
		places = []string{blobs}
		if err := do("cp", "-a", s.platform.Blobs, blobs); err != nil {
			return err
		}
	}
	var files []string
	for _, place := range places {
		err := filepath.WalkDir(place, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			// One that is of what is looked at afterwards.
			if info, err := d.Info(); err == nil && info.Size() > 0 && info.ModTime().After(s.recent) {
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(files) == 0 {
		return errors.New("there is no file to flip a bit of")
	}
	file := files[s.Random.IntN(len(files))]
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	at, bit := s.Random.IntN(len(data)), s.Random.IntN(8)
	data[at] ^= 1 << bit
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return err
	}
	what := fmt.Sprintf("bit %d of byte %d of %s", bit, at, strings.TrimPrefix(file, s.dir))
	s.did("  %s", what)
	p, err := layout.Start(ctx, layout.Options{Kind: s.Kind, Binary: s.Binary, S3: s.S3, Dir: dir, Blobs: blobs, Log: &s.log,
		Env: s.platform.Env, Failover: s.platform.Failover}) // else the store has another name
	if err != nil {
		tally.illegal("with %s flipped it does not start: %v", what, err)
		return nil
	}
	defer func() { err = errors.Join(err, p.Down(ctx)) }()
	here := new(Tally)
	(&Check{api: newAPI(p.URL, p.Token), tally: here, full: s.full, damaged: true}).all(ctx, entries)
	if here.Lost+here.Duplicated+here.Illegal > 0 {
		tally.illegal("with %s flipped: %d lost, %d duplicated, %d illegal without a word, such as %s", what, here.Lost, here.Duplicated, here.Illegal, here.First[0])
	}
	tally.mu.Lock()
	tally.Told += here.Told
	tally.mu.Unlock()
	return nil
}
