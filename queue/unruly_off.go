//go:build !failpoints

package queue

import "mlaas.dev/mlaas/store"

// Unruly is db. In a binary built with the tag failpoints it is what makes
// messages come twice and late.
func Unruly(db store.Driver) store.Driver { return db }
