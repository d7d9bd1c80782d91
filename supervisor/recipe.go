package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/supervisor/prepare"
)

// OriginalDir is the folder of a replica that keeps, as they were written, the
// files of the code that a recipe has changed. The program does not see it.
const OriginalDir = "original"

// prepareTime is far longer than any code takes to be read.
const prepareTime = 2 * time.Minute

// prepare applies the recipe to the code, where there is something to apply: the
// program then finds the prepared files at the paths of its own.
func (s *Supervisor) prepare(ctx context.Context, recipe *mlaas.Recipe, code mlaas.Tree, run *Runtime) error {
	if !recipe.Changes() {
		return nil
	}
	if run.Python == "" && recipe.Marks == 0 && len(recipe.Files) == 0 {
		return nil // not a program of Python: it runs as it was written, on each replica
	}
	if run.Python == "" || run.Library == "" {
		return fmt.Errorf("its code cannot be prepared: its environment has no Python, and code.mode is %s; use plain", recipe.Mode)
	}
	s.say("preparing its code")
	defer s.stage(mlaas.StagePrepare)()
	ctx, cancel := context.WithTimeoutCause(ctx, prepareTime, fmt.Errorf("it took more than %s", prepareTime))
	defer cancel()
	// As the program's user, in a sandbox over the same folders, in which it
	// counts to the same groups.
	box := prepare.Sandbox{Enter: s.Join, See: append(slices.Clone(s.See), run.ReadOnly...), Dir: filepath.Join(s.Folder, CodeDir)}
	p := prepare.Preparer{Python: run.Python, Library: run.Library, Run: box.Run}
	out, err := p.Apply(ctx, filepath.Join(s.Folder, CodeDir), code, recipe)
	if err != nil {
		return fmt.Errorf("its code cannot be prepared: %w", err)
	}
	if err := s.roomily(ctx, func() error { return s.write(out.Changes) }); err != nil {
		return fmt.Errorf("its prepared code could not be written: %w", err)
	}
	s.setPhase(func(p *mlaas.Phase) { p.Prepared = &out.Prepared })
	return nil
}

// write puts changes into the code, and what was there into OriginalDir. It may
// be done again, where the disk was full in between.
func (s *Supervisor) write(changes []mlaas.Change) error {
	root, err := os.OpenRoot(s.Folder)
	if err != nil {
		return err
	}
	defer root.Close()
	made := map[string]bool{CodeDir: true}
	for _, c := range changes {
		at, keep := path.Join(CodeDir, c.Path), path.Join(OriginalDir, c.Path)
		mode := fs.FileMode(0o644)
		if err := root.MkdirAll(path.Dir(keep), 0o755); err != nil {
			return err
		}
		if _, err := root.Lstat(keep); errors.Is(err, fs.ErrNotExist) && !c.New {
			err := root.Rename(at, keep)
			if err != nil {
				return err
			}
		}
		if info, err := root.Lstat(keep); err == nil {
			mode = info.Mode().Perm()
		}
		if err := s.folders(root, path.Dir(at), made, true); err != nil {
			return err
		}
		if err := root.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a try for which there was no room
			return err
		}
		f, err := root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = f.Write(c.Content)
		if err == nil {
			err = f.Chmod(mode)
		}
		if err == nil && s.Owner != 0 {
			err = f.Chown(s.Owner, s.Owner)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}
