package management

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// aged is a management whose blobs go by its clock too.
func aged(t *testing.T) *api {
	var a *api
	a = start(t, func(m *Management) {
		b, err := files.Open(filepath.Join(filepath.Dir(m.store().Dir), "blob"), func() time.Time {
			if a == nil {
				return time.Now()
			}
			return a.now()
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		m.Blob, m.store().Blob, m.Auth.Now = b, b, func() time.Time { return a.now() }
	})
	return a
}

func (a *api) put(text string) mlaas.Digest {
	a.t.Helper()
	d, err := blob.PutBytes(a.t.Context(), a.Blob, []byte(text))
	if err != nil {
		a.t.Fatal(err)
	}
	return d
}

// tree stores a folder of one file and returns the digests of both.
func (a *api) tree(text string) (tree, file mlaas.Digest) {
	a.t.Helper()
	file = a.put(text)
	tree, _, err := blob.PutTree(a.t.Context(), a.Blob, []mlaas.File{{Path: "f", Digest: file, Size: int64(len(text))}})
	if err != nil {
		a.t.Fatal(err)
	}
	return tree, file
}

func (a *api) has(d mlaas.Digest) bool {
	a.t.Helper()
	_, err := a.Blob.Stat(a.t.Context(), d)
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		a.t.Fatal(err)
	}
	return err == nil
}

// saved writes what booster would write of a checkpoint.
func (a *api) saved(run string, epoch int, step int64, replica, best string) (tree, file mlaas.Digest) {
	a.t.Helper()
	tree, file = a.tree(fmt.Sprint("checkpoint ", run, epoch, step, replica))
	a.commit(store.Batch{Put: []store.Row{store.Checkpoints(a.DB).Put(mlaas.Checkpoint{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run),
		Epoch: epoch, Replica: replica, Step: step, Tree: tree, Best: best, Created: a.stamp()}, 0)}})
	return tree, file
}

func (a *api) steps(run string) string {
	a.t.Helper()
	all, err := store.Checkpoints(a.DB).All(a.t.Context(), store.Query{Prefix: run + "/"})
	if err != nil {
		a.t.Fatal(err)
	}
	var out []string
	for _, f := range all {
		out = append(out, fmt.Sprintf("%d/%d/%s", f.Value.Epoch, f.Value.Step, f.Value.Replica))
	}
	return strings.Join(out, " ")
}

// What a record names stays, with every file of it; the rest goes, once it is
// old enough.
func TestCollectKeeps(t *testing.T) {
	a := aged(t)
	job := a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	id := mlaas.RunID(run)
	a.becomes(run, mlaas.Running, "")
	a.do("POST", "/api/dataset/d", `{"files": {"a": "1", "b/c": "2"}}`).want(201)

	kept := map[string]mlaas.Digest{}
	both := func(what string, tree, file mlaas.Digest) {
		kept[what], kept[what+", its file"] = tree, file
	}
	tree, file := a.saved(run, 1, 10, "worker-0", "")
	both("a checkpoint", tree, file)
	outputs, result := a.tree("outputs")
	both("outputs", outputs, result)
	a.replica(run, "worker-0", mlaas.ReplicaRunning, func(r *mlaas.Replica) { r.Outputs = outputs })
	resume, state := a.tree("resume")
	both("what a launch resumes from", resume, state)
	bundle, code := a.tree("bundle")
	both("the code of a launch", bundle, code)
	data, word := a.tree("data")
	both("the data of a launch", data, word)
	kept["the lock of a launch"], kept["a lock"], kept["a lock to go back to"] = a.put("lock 1"), a.put("lock 2"), a.put("lock 3")
	spec := mlaas.Digest("sha256:" + strings.Repeat("1", 64))
	a.commit(store.Batch{Put: []store.Row{
		store.Launches(a.DB).Put(mlaas.Launch{Tenant: mlaas.DefaultTenant, Run: id, Epoch: 1, Bundle: bundle, Resume: resume,
			Environment: mlaas.Environment{Lock: kept["the lock of a launch"]}, Data: []mlaas.DataTree{{Name: "d", Tree: data}}}, 0),
		store.Locks(a.DB).Put(mlaas.Locked{Tenant: mlaas.DefaultTenant, Spec: spec, Lock: kept["a lock"], Previous: []mlaas.Digest{kept["a lock to go back to"]}}, 0),
	}})
	a.says(run, "worker-0", 1, 1, "one", "two")
	if err := a.store().Flush(t.Context()); err != nil { // into blobs
		t.Fatal(err)
	}
	sealed := 0
	if err := a.Series.Blobs(t.Context(), func(d mlaas.Digest) error {
		sealed++
		kept[fmt.Sprint("sealed lines ", sealed)] = d
		return nil
	}); err != nil || sealed == 0 {
		t.Fatalf("%d sealed: %v", sealed, err)
	}
	lostTree, lostFile := a.tree("named by nothing")
	young := func() mlaas.Digest { return a.put("an upload that goes on") }

	sweep := func(wantBlobs int) {
		t.Helper()
		a.do("POST", "/api/gc", nil).want(200).is("blobs", wantBlobs).is("jobs", 0).is("checkpoints", 0)
		for what, d := range kept {
			if !a.has(d) {
				t.Errorf("%s was collected", what)
			}
		}
	}
	sweep(0) // nothing is old enough
	a.later(23 * time.Hour)
	upload := young()
	a.later(2 * time.Hour)
	sweep(2)
	if a.has(lostTree) || a.has(lostFile) || !a.has(upload) {
		t.Errorf("nothing names them: %v %v; an hour old: %v", a.has(lostTree), a.has(lostFile), a.has(upload))
	}
	a.do("GET", "/api/job/"+job+"/code/v1/file/main.py", nil).want(200)
	a.do("GET", "/api/dataset/d/1", nil).want(200)
	if got := a.do("GET", "/api/run/"+run+"/log", nil).lines("line"); got != "one; two" {
		t.Errorf("the log is %q", got)
	}

	// What is named no more goes: a dataset of which nothing is left.
	a.do("DELETE", "/api/dataset/d", nil).want(204)
	a.later(24 * time.Hour)
	sweep(4) // its tree, its two files, and the upload that nobody finished
}

// A deleted job can be restored for 7 days, and is gone with all of it after.
func TestPurge(t *testing.T) {
	a := aged(t)
	job := a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	a.becomes(run, mlaas.Running, "")
	a.replica(run, "worker-0", mlaas.ReplicaRunning, nil)
	tree, file := a.saved(run, 1, 10, "worker-0", "")
	a.commit(store.Batch{Put: []store.Row{store.Launches(a.DB).Put(mlaas.Launch{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: 1}, 0)}})
	a.says(run, "worker-0", 1, 1, "one")
	if err := a.store().Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := a.ready("other")
	theirs := a.do("POST", "/api/job/other/run", nil).want(202).get("id").(string)
	a.says(theirs, "worker-0", 1, 1, "theirs")

	a.do("DELETE", "/api/job/j?force=true", nil).want(204)
	a.later(keepDeleted - time.Hour)
	a.do("POST", "/api/gc", nil).want(200).is("jobs", 0)
	a.do("POST", "/api/job/"+job+"/restore", nil).want(200)
	if got := a.do("GET", "/api/run/"+run+"/log", nil).lines("line"); got != "one" {
		t.Errorf("after it was restored its log is %q", got)
	}
	a.do("DELETE", "/api/job/"+job+"?force=true", nil).want(204)
	a.later(keepDeleted + time.Minute)
	a.do("POST", "/api/gc", nil).want(200).is("jobs", 0) // its run is not over
	a.becomes(run, mlaas.Stopped, "")
	a.do("POST", "/api/job/"+job+"/restore", nil).refuses(410, "gone", "", "more than 7 days ago")
	a.do("POST", "/api/gc", nil).want(200).is("jobs", 1)
	if a.has(tree) || a.has(file) {
		t.Error("the bytes of its checkpoint stay")
	}
	a.do("POST", "/api/job/"+job+"/restore", nil).want(404)
	a.do("GET", "/api/run/"+run, nil).want(404)
	for _, kind := range []string{"job", "version", "run", "runstate", "replica", "launch", "checkpoint", "jobname"} {
		rows, _, err := a.DB.List(t.Context(), store.Query{Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if strings.Contains(row.Key.ID+string(row.Data), job) || strings.Contains(row.Key.ID, run) {
				t.Errorf("%s stays", row.Key)
			}
		}
	}
	if log, _, err := a.Series.LastCursor(t.Context(), mlaas.DefaultTenant, mlaas.RunID(run)); err != nil || log != 0 {
		t.Error("its log stays")
	}
	a.do("GET", "/api/job/"+other, nil).want(200)
	if got := a.do("GET", "/api/run/"+theirs+"/log", nil).lines("line"); got != "theirs" {
		t.Errorf("the log of another is %q", got)
	}
}

func TestThin(t *testing.T) {
	a := aged(t)
	a.ready("j")
	run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	a.becomes(run, mlaas.Running, "")
	a.saved(run, 1, 10, "worker-0", "accuracy")
	best, file := a.saved(run, 1, 20, "worker-0", "accuracy") // is better: it was saved for it later
	low, _ := a.saved(run, 1, 30, "worker-0", "loss")
	a.saved(run, 1, 40, "worker-0", "")
	a.saved(run, 2, 40, "worker-0", "")
	a.saved(run, 2, 50, "worker-0", "")
	a.saved(run, 2, 50, "worker-1", "") // another part of the same
	a.saved(run, 2, 60, "worker-0", "")
	a.saved(run, 2, 60, "worker-1", "")
	all := a.steps(run)
	a.do("POST", "/api/gc", nil).want(200).is("checkpoints", 0)
	if got := a.steps(run); got != all {
		t.Errorf("while it runs they are thinned to %s", got)
	}
	a.becomes(run, mlaas.Succeeded, "")
	a.later(25 * time.Hour)
	a.do("POST", "/api/gc", nil).want(200).is("checkpoints", 2).is("blobs", 4)
	if got, want := a.steps(run), "1/20/worker-0 1/30/worker-0 2/40/worker-0 2/50/worker-0 2/50/worker-1 2/60/worker-0 2/60/worker-1"; got != want {
		t.Errorf("kept are %s, want %s", got, want)
	}
	if !a.has(best) || !a.has(file) || !a.has(low) {
		t.Error("the bytes of the best are gone")
	}
	a.do("POST", "/api/gc", nil).want(200).is("checkpoints", 0).is("blobs", 0)
}

// Whoever asks whether bytes are here, and is told yes, can name them.
func TestCollectAfterHead(t *testing.T) {
	a := aged(t)
	d := a.put("old, and named by nothing")
	other := a.put("nobody asks")
	a.later(48 * time.Hour)
	a.do("HEAD", "/api/blob/"+string(d), nil).want(200)
	a.do("HEAD", "/api/blob/sha256:"+strings.Repeat("0", 64), nil).want(404)
	a.do("POST", "/api/gc", nil).want(200).is("blobs", 1)
	if a.has(other) || !a.has(d) {
		t.Errorf("asked for: %v; not asked for: %v", a.has(d), a.has(other))
	}
	a.do("POST", "/api/dataset", map[string]any{"name": "d", "files": []any{map[string]any{"path": "f", "digest": d, "size": 25}}}).want(201)
}

// Uploads, also of what was there long ago, lose nothing to collections that
// go on all the while.
func TestCollectWhileUploading(t *testing.T) {
	a := aged(t)
	for i := range 20 {
		a.tree(fmt.Sprint("text ", i))
	}
	a.later(48 * time.Hour)
	ctx, stop := context.WithCancel(t.Context())
	var collecting, uploading sync.WaitGroup
	collecting.Go(func() {
		for ctx.Err() == nil {
			if _, err := a.Collect(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("collect: %v", err)
				return
			}
		}
	})
	for w := range 2 {
		uploading.Go(func() {
			for i := range 20 {
				text := fmt.Sprint("text ", i)
				d := blob.Name([]byte(text))
				head, err := http.NewRequest("HEAD", a.url+"/api/blob/"+string(d), nil)
				if err != nil {
					t.Error(err)
					return
				}
				head.Header.Set("Authorization", "Bearer "+token)
				res, err := a.http.Do(head)
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				if res.StatusCode == 404 {
					if _, err := blob.PutBytes(ctx, a.Blob, []byte(text)); err != nil {
						t.Error(err)
					}
				}
				body := fmt.Sprintf(`{"name": "d-%d-%d", "files": [{"path": "f", "digest": %q, "size": %d}]}`, w, i, d, len(text))
				post, err := http.NewRequest("POST", a.url+"/api/dataset", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				post.Header.Set("Authorization", "Bearer "+token)
				if res, err = a.http.Do(post); err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				if res.StatusCode != 201 {
					t.Errorf("dataset %d: %d", i, res.StatusCode)
				}
			}
		})
	}
	uploading.Wait()
	stop()
	collecting.Wait()
	a.do("POST", "/api/gc", nil).want(200)
	for _, f := range func() []store.Found[mlaas.Dataset] {
		all, err := store.Datasets(a.DB).All(t.Context(), store.Query{})
		if err != nil || len(all) != 40 {
			t.Fatalf("%d datasets: %v", len(all), err)
		}
		return all
	}() {
		tree, err := blob.GetTree(t.Context(), a.Blob, f.Value.Tree)
		if err != nil {
			t.Fatalf("dataset %s: %v", f.Value.Name, err)
		}
		for _, file := range tree.Files {
			if !a.has(file.Digest) {
				t.Errorf("dataset %s lacks %s", f.Value.Name, file.Path)
			}
		}
	}
}

// The logs of runs that are over make room first, the oldest of them.
func TestTrim(t *testing.T) {
	a := start(t, func(m *Management) { m.Retention.Logs = 1 << 10; m.store().SegmentBytes = 4 << 10 })
	a.ready("j")
	var runs []string
	for i := range 2 {
		run := a.do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
		a.becomes(run, [2]mlaas.State{mlaas.Succeeded, mlaas.Running}[i], "")
		for n := range int64(50) {
			a.appends(series.Batch{Fence: mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: 1, Replica: "worker-0"},
				Frame: mlaas.Frame{Stream: mlaas.LogStream, First: n + 1, Lines: []mlaas.LogLine{{Stream: "stdout", Text: mlaas.NewID(time.Now()) + mlaas.NewID(time.Now())}}}})
		}
		runs = append(runs, run)
	}
	if err := a.store().Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.do("POST", "/api/gc", nil).want(200).get("logs") == "0" {
		t.Error("nothing made room")
	}
	if got := strings.Count(a.do("GET", "/api/run/"+runs[1]+"/log", nil).lines("stream"), "stdout"); got != 50 {
		t.Errorf("%d lines of the run that goes on, want 50", got)
	}
	if got := a.do("GET", "/api/run/"+runs[0]+"/log", nil).lines("stream"); got != "platform" {
		t.Errorf("of the one that is over: %q, want a word of the platform", got)
	}
}

func TestGivenUp(t *testing.T) {
	a := start(t)
	a.do("GET", "/api/message", nil).want(200).is("items.0", nil)
	a.commit(store.Batch{Tell: []store.Message{{To: "contractor", Subject: "RunAsked", Key: "r1", Body: []byte(`{"run":"r1"}`)}}})
	for range store.MaxDeliveries {
		c, err := a.DB.Next(t.Context(), "contractor", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		a.commit(store.Batch{Retry: &c, Why: "the moon is wrong"})
	}
	list := a.do("GET", "/api/message", nil).want(200).is("items.0.to", "contractor").is("items.0.subject", "RunAsked").is("items.0.key", "r1").
		is("items.0.deliveries", store.MaxDeliveries).is("items.0.body.run", "r1").is("items.1", nil)
	if why := fmt.Sprint(list.get("items.0.why")); !strings.Contains(why, "the moon is wrong") {
		t.Errorf("why: %s", why)
	}
	a.do("GET", "/api/status", nil).want(200).is("store.parked", 1)
	at := fmt.Sprintf("/api/message/%v/requeue", list.get("items.0.id"))
	a.do("POST", "/api/message/x/requeue", nil).want(404)
	a.do("POST", at, nil).want(204)
	a.do("POST", at, nil).want(404)
	if c, err := a.DB.Next(t.Context(), "contractor", time.Minute); err != nil || c.Delivery != 1 || c.Message.Key != "r1" {
		t.Errorf("delivered again: %+v %v", c, err)
	}
}
