//go:build failpoints

package sqlitestore

import "testing"

// The store is killed at each of its points, early and late.
func TestFailpoints(t *testing.T) { newKilled(t).Failpoints(t) }
