//go:build !race

package bubble_test

// racing: see race_test.go.
const racing = false
