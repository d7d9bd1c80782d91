// Package python holds the files of the Python package mlaas, so that the one
// binary can put them before every program that it runs.
package python

import "embed"

// Files holds the package as a folder named mlaas.
//
//go:embed mlaas/*.py mlaas/py.typed
var Files embed.FS
