package sqlitestore

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/storetest"
)

func open(t *testing.T, path string, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMemory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		return storetest.Harness{Bubble: true, Open: func(t *testing.T) store.Driver { return open(t, ":memory:", Options{}) }}
	})
}

func TestFile(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Harness { return file(t) })
}

func file(t *testing.T) storetest.Harness {
	dir, n := t.TempDir(), 0
	path := filepath.Join(dir, "mlaas.db")
	return storetest.Harness{
		Bubble:  true,
		Durable: true,
		Open:    func(t *testing.T) store.Driver { return open(t, path, Options{}) },
		// What a killed process leaves is what is in its files: a copy of them
		// is opened next.
		Crash: func(t *testing.T, _ store.Driver) {
			n++
			next := filepath.Join(dir, string(rune('a'+n))+".db")
			for _, part := range []string{"", "-wal"} {
				copyFile(t, path+part, next+part)
			}
			path = next
		},
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
}
