package contractor

import (
	"testing"

	"mlaas.dev/mlaas/store"
)

func open(t testing.TB) store.Driver { return newMemory() }
