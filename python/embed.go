// Package python holds the files of the Python package mlaas, so that the one
// binary can put them before every program that it runs.
package python

import "embed"

// Files holds the package as a folder named mlaas. What is in Site goes first
// on PYTHONPATH.
//
//go:embed mlaas/*.py mlaas/py.typed mlaas/_site/*.py mlaas/_hooks/*.py mlaas/_spread/*.py
var Files embed.FS

// Site is the folder that holds the package's sitecustomize.
const Site = "mlaas/_site"
