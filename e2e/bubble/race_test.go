//go:build race

package bubble_test

// racing says that the race detector watches, which takes twenty times as long.
const racing = true
