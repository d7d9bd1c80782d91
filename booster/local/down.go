package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mlaas.dev/mlaas/supervisor"
)

// Down ends every replica that runs, while no platform does, and returns how
// many there were. Each program is asked first and has grace to save its state;
// then nothing of it is left. Their runs are not over: whoever finds the
// folders the next time tells that they were lost, and delivers what they left.
func (e *Executor) Down(ctx context.Context, grace time.Duration) (int, error) {
	if err := e.complete(); err != nil {
		return 0, err
	}
	e.probe()
	entries, err := os.ReadDir(e.Dir)
	if err != nil {
		return 0, err
	}
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		n    int
		fail error
	)
	for _, entry := range entries {
		folder := filepath.Join(e.Dir, entry.Name())
		about, err := readAbout(folder)
		if err != nil {
			continue // not a replica
		}
		if _, over := readEnd(folder); over {
			continue
		}
		p, err := readProcess(folder, supervisor.ProcessFile)
		if err != nil {
			continue // its supervisor never began
		}
		w, err := watchProcess(p, false)
		if err != nil {
			continue // it is gone
		}
		all.Go(func() {
			defer w.Close()
			polite, stop := context.WithTimeout(ctx, grace)
			defer stop()
			w.Suspend()
			late := w.WaitFor(polite) // then it is killed
			r := &replica{e: e, about: about, folder: folder, gone: make(chan struct{})}
			err := r.killAll(context.WithoutCancel(ctx))
			err = errors.Join(err, os.WriteFile(filepath.Join(folder, downFile), nil, 0o600))
			if late != nil {
				e.Log.Info("a program was ended before it was done saving", "replica", about.Fence)
			}
			mu.Lock()
			defer mu.Unlock()
			n++
			fail = errors.Join(fail, err)
		})
	}
	all.Wait()
	return n, fail
}
