package main

import (
	"context"
	"log/slog"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	remote "mlaas.dev/mlaas/supervisor/source"
)

// fetchWithin is how long a repository may take, as long as a request waits.
const fetchWithin = 2 * time.Minute

// privateGit is what a flag of that name says.
const privateGit = "fetch repositories from addresses that are not public too: whoever may make a job can then ask servers of this network"

// repositories fetches code from git for management.
type repositories struct {
	Private bool // also from addresses that are not public
	Log     *slog.Logger
}

// Fetch puts the files of a commit into dir. No secret goes along: the
// repository is one that anybody may read.
func (r repositories) Fetch(ctx context.Context, from, dir, work string, most blob.Limits) (mlaas.Fetched, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchWithin, mlaas.ErrUnavailable)
	defer cancel()
	f := &remote.Fetcher{
		Guard: remote.Reach{Private: r.Private}.Transport, Getenv: func(string) string { return "" },
		Say:  func(sentence string) { r.Log.Info("code is fetched", "says", sentence) },
		Most: most.Bytes, Files: most.Files,
	}
	return f.Commit(ctx, from, dir, work, nil)
}
