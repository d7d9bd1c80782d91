package contractor

import (
	"log/slog"
	"testing"

	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

func open(t *testing.T) store.Driver {
	t.Helper()
	db, err := sqlitestore.Open(t.Context(), ":memory:", sqlitestore.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}
