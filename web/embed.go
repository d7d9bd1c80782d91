// Package web holds the files of the page, so that the one binary can serve
// them: a live view of jobs, replicas, log and curves over /api/stream.
package web

import "embed"

// Files holds index.html and what it loads.
//
//go:embed index.html watch.js style.css icon.svg
var Files embed.FS
