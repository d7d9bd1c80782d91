package redisstore

import (
	"testing"

	"mlaas.dev/mlaas/internal/redistest"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/storetest"
)

func open(t *testing.T, url string, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSuite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		server := redistest.Start(t, &redistest.Server{})
		return storetest.Harness{
			Durable: true,
			Open:    func(t *testing.T) store.Driver { return open(t, server.URL("suite"), Options{}) },
			Crash: func(t *testing.T, _ store.Driver) {
				if err := server.Restart(); err != nil { // it kills first
					t.Fatal(err)
				}
			},
		}
	})
}
