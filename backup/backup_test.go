package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
	"mlaas.dev/mlaas/blob/files"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// A house is the drivers of a platform.
type house struct {
	db     *sqlitestore.Store
	blob   *files.Files
	series *series.Store
	dir    string
}

func build(t *testing.T) *house {
	t.Helper()
	h := &house{dir: t.TempDir()}
	var err error
	if h.db, err = sqlitestore.Open(t.Context(), filepath.Join(h.dir, "db"), sqlitestore.Options{}); err != nil {
		t.Fatal(err)
	}
	if h.blob, err = files.Open(filepath.Join(h.dir, "blob"), nil); err != nil {
		t.Fatal(err)
	}
	h.series = &series.Store{Dir: filepath.Join(h.dir, "series"), Blob: h.blob}
	t.Cleanup(func() { h.db.Close(); h.blob.Close() })
	return h
}

func (h *house) target() Target {
	return Target{DB: h.db, Blob: h.blob, Series: h.series.Dir, Now: func() time.Time { return made.Add(90 * time.Minute) }}
}

func (h *house) openSeries(t *testing.T) {
	t.Helper()
	if err := h.series.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.series.Close() })
}

var (
	made = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	key  = bytes.Repeat([]byte{7}, 32)
)

const team = mlaas.DefaultTenant

// full is a house with some of everything: a run that is over, one that runs,
// one that is stopping, one whose work is done and that nobody has seen yet,
// and one in line.
func full(t *testing.T) (*house, []byte) {
	t.Helper()
	h := build(t)
	h.openSeries(t)
	ctx := t.Context()
	put := func(text string) mlaas.Digest {
		d, _, err := h.blob.Put(ctx, strings.NewReader(text), "")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	code := put("print(1)")
	tree, _, err := blob.PutTree(ctx, h.blob, []mlaas.File{{Path: "main.py", Digest: code, Size: 8}})
	if err != nil {
		t.Fatal(err)
	}
	put("nobody names this")
	job := mlaas.Job{ID: "j1", Tenant: team, JobSpec: mlaas.JobSpec{Name: "mnist"}}
	version := mlaas.Version{ID: "v1", Job: job.ID, Tenant: team, Number: 1, Bundle: tree}
	b := store.Batch{Put: []store.Row{
		store.Jobs(h.db).Put(job, 0), store.Versions(h.db).Put(version, 0),
		store.Sessions(h.db).Put(store.Session{Tenant: team, ID: "s", Hash: "h"}, 0),
		store.Clusters(h.db).Put(mlaas.Cluster{Name: "local", Up: true}, 0),
		{Key: store.Key{Kind: "probe", ID: "up"}, Data: []byte("{}")},
		{Key: store.Key{Kind: "lease", ID: "admission"}, Data: []byte(`{"name":"admission","epoch":4,"holder":"me","url":"http://x"}`)},
	}, Tell: []store.Message{{To: "notices", Subject: "Notice", Body: []byte(`{"n":1}`)}, {To: "probe/up"}}}
	ledger := mlaas.Ledger{Cluster: "local", Grants: map[mlaas.RunID]mlaas.Grant{}}
	for i, state := range []mlaas.State{mlaas.Succeeded, mlaas.Running, mlaas.Stopping, mlaas.Running, mlaas.Queued} {
		run := mlaas.Run{ID: mlaas.RunID(fmt.Sprint("r", i+1)), Tenant: team, Job: job.ID, JobName: job.Name, Number: i + 1, Version: version}
		s := mlaas.RunState{Run: run.ID, Tenant: team, Job: job.ID, State: state, Epoch: 3, Attempts: []mlaas.Attempt{{Epoch: 3, Cluster: "local", Began: made}}}
		status := map[int]mlaas.ReplicaStatus{0: mlaas.ReplicaSucceeded, 1: mlaas.ReplicaRunning, 2: mlaas.ReplicaStopping, 3: mlaas.ReplicaSucceeded}[i]
		if state == mlaas.Queued {
			s.Epoch, s.Attempts = 0, nil
		} else {
			r := mlaas.Replica{Fence: mlaas.Fence{Tenant: team, Run: run.ID, Epoch: 3, Replica: "worker-0", Incarnation: 1}, Job: job.ID, Role: "worker", Status: status}
			old := mlaas.Replica{Fence: mlaas.Fence{Tenant: team, Run: run.ID, Epoch: 2, Replica: "worker-1", Incarnation: 1}, Job: job.ID, Role: "worker", Status: mlaas.ReplicaStopped}
			b.Put = append(b.Put, store.Replicas(h.db).Put(r, 0), store.Replicas(h.db).Put(old, 0),
				store.Checkpoints(h.db).Put(mlaas.Checkpoint{Tenant: team, Run: run.ID, Epoch: 3, Replica: "worker-0", Step: 5, Tree: tree}, 0))
			if err := h.series.Append(ctx, series.Batch{Fence: r.Fence, Frame: mlaas.Frame{Stream: mlaas.LogStream, First: 1, Lines: []mlaas.LogLine{{Time: made, Stream: "stdout", Text: "hello of " + string(run.ID)}}}}); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				if err := h.series.Flush(ctx); err != nil { // one is in chunks, the others in a segment
					t.Fatal(err)
				}
			}
			if !state.Final() {
				ledger.Grants[run.ID] = mlaas.Grant{Tenant: team, Epoch: 3}
			}
		}
		b.Put = append(b.Put, store.Runs(h.db).Put(run, 0), store.RunStates(h.db).Put(s, 0))
	}
	b.Put = append(b.Put, store.Ledgers(h.db).Put(ledger, 0))
	if err := h.db.Commit(ctx, b); err != nil {
		t.Fatal(err)
	}
	for range 4 { // its revision is kept
		row, err := h.db.Get(ctx, store.Key{Kind: "job", Tenant: team, ID: "j1"})
		if err == nil {
			err = h.db.Commit(ctx, store.Batch{Put: []store.Row{row}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	sum, err := Source{DB: h.db, Blob: h.blob, Series: h.series, Key: key, Version: "v9", Now: func() time.Time { return made }}.Write(ctx, &out)
	if err != nil {
		t.Fatal(err)
	}
	if sum.Records["job"] != 1 || sum.Records["probe"] != 0 || sum.Messages != 1 || sum.Blobs != 3 || len(sum.Missing) != 0 {
		t.Errorf("it says that it has %+v", sum)
	}
	return h, out.Bytes()
}

func TestRestore(t *testing.T) {
	from, data := full(t)
	to := build(t)
	ctx := t.Context()
	res, err := to.target().Read(ctx, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	const by = 1090
	if !slices.Equal(res.Queued, []string{"mnist/2", "mnist/4"}) || res.Raised != by || res.Logins != 1 || res.Key != nil || res.Header.Version != "v9" {
		t.Errorf("it did %+v", res)
	}
	all := func(db store.Driver) map[store.Key]store.Row {
		rows := map[store.Key]store.Row{}
		_, _, err := store.Export(ctx, db, func(r store.Row) error { rows[r.Key] = r; return nil }, func(store.Claim) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	before, after := all(from.db), all(to.db)
	delete(after, store.Key{Kind: "schema", ID: "forms"}) // which is of each store's own
	if err := store.Admit(ctx, to.db); err != nil {
		t.Errorf("it may not be used: %v", err)
	}
	for k, was := range before {
		is, ok := after[k]
		delete(after, k)
		switch {
		case k.Kind == "probe" || k.Kind == "session":
			if ok {
				t.Errorf("%s is there", k)
			}
			continue
		case !ok || is.Rev != was.Rev || !slices.Equal(is.Index, was.Index) && k.Kind != "runstate" && k.Kind != "replica":
			t.Errorf("%s: %+v, was %+v", k, is, was)
		}
		run := mlaas.RunID(k.ID)
		switch {
		case k.Kind == "lease":
			if string(is.Data) != `{"epoch":1094,"holder":"","name":"admission"}` {
				t.Errorf("the lease is %s", is.Data)
			}
		case k.Kind == "cluster":
			if c, _ := store.Clusters(nil).Decode(is); c.Up {
				t.Error("a cluster is up that nobody has heard of")
			}
		case k.Kind == "ledger":
			l, _ := store.Ledgers(nil).Decode(is)
			for run, g := range l.Grants {
				if g.Epoch != 3+by {
					t.Errorf("the grant of %s has epoch %d", run, g.Epoch)
				}
			}
		case k.Kind == "runstate" && run != "r1":
			s, err := store.RunStates(nil).Decode(is)
			want := map[mlaas.RunID]mlaas.State{"r2": mlaas.Queued, "r3": mlaas.Stopping, "r4": mlaas.Queued, "r5": mlaas.Queued}[run]
			epoch := 3 + by
			if run == "r5" {
				epoch = 0 // it never had one
			}
			if err != nil || s.State != want || s.Epoch != epoch || !slices.Contains(is.Index, "state="+string(want)) || run != "r5" && (s.Attempts[0].Ended == nil || s.Attempts[0].Reason != Why) {
				t.Errorf("%s: %+v", k, s)
			}
			if want == mlaas.Queued && run != "r5" && !strings.Contains(s.Reason, Why) {
				t.Errorf("%s says %q", k, s.Reason)
			}
		case k.Kind == "replica" && strings.HasSuffix(k.ID, "worker-0") && k.ID != "r1/worker-0":
			r, err := store.Replicas(nil).Decode(is)
			want := mlaas.ReplicaLost
			if k.ID == "r4/worker-0" {
				want = mlaas.ReplicaSucceeded // its work is done: the contractor sees it when it looks
			}
			if err != nil || r.Epoch != 3+by || r.Status != want {
				t.Errorf("%s: %+v", k, r)
			}
		case !bytes.Equal(is.Data, was.Data):
			t.Errorf("%s: %s, was %s", k, is.Data, was.Data)
		}
	}
	if len(after) > 0 {
		t.Errorf("more is there: %v", after)
	}
	to.openSeries(t)
	for i := range 4 {
		lines, err := to.series.Lines(ctx, series.LineQuery{Tenant: team, Run: mlaas.RunID(fmt.Sprint("r", i+1)), From: 1, Limit: 10})
		if err != nil || len(lines) != 1 || lines[0].Text != fmt.Sprint("hello of r", i+1) {
			t.Errorf("run %d says %+v, %v", i+1, lines, err)
		}
	}
	n := 0
	if err := to.blob.Each(ctx, func(blob.Info) error { n++; return nil }); err != nil || n != 3 {
		t.Errorf("%d pieces of content are there: %v", n, err)
	}
	if c, err := to.db.Next(ctx, "notices", time.Minute); err != nil || string(c.Message.Body) != `{"n":1}` {
		t.Errorf("the message: %+v, %v", c, err)
	}
	if _, err := to.target().Read(ctx, bytes.NewReader(data)); !errors.Is(err, mlaas.ErrConflict) {
		t.Errorf("into a store that is not empty: %v", err)
	}
}

// A backup of one machine becomes a platform whose lines and points are in
// objects and records, and one of that becomes a machine's again.
func TestAcross(t *testing.T) {
	_, data := full(t)
	ctx := t.Context()
	said := func(where string, lines series.Reader) {
		t.Helper()
		for i := range 4 {
			got, err := lines.Lines(ctx, series.LineQuery{Tenant: team, Run: mlaas.RunID(fmt.Sprint("r", i+1)), From: 1, Limit: 10})
			if err != nil || len(got) != 1 || got[0].Text != fmt.Sprint("hello of r", i+1) {
				t.Errorf("%s: run %d says %+v, %v", where, i+1, got, err)
			}
		}
	}
	apart := build(t)
	to := apart.target()
	to.Series = ""
	if _, err := to.Read(ctx, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	remote := &series.Remote{DB: apart.db, Blob: apart.blob, Objects: nothing{}}
	said("apart", remote)
	var again bytes.Buffer
	sum, err := Source{DB: apart.db, Blob: apart.blob, Series: remote, Key: key, Now: func() time.Time { return made }}.Write(ctx, &again)
	if err != nil || sum.Records["series"] != 4 || sum.Series != 0 || sum.Records["copying"] != 0 {
		t.Fatalf("a copy of it has %+v: %v", sum, err)
	}
	back := build(t)
	if _, err := back.target().Read(ctx, &again); err != nil {
		t.Fatal(err)
	}
	back.openSeries(t)
	said("together", back.series)
	if rows, _, err := store.Gather(ctx, back.db, series.RecordKinds()...); err != nil || len(rows) != 0 {
		t.Errorf("beside its folder there are %v, %v", rows, err)
	}
}

// nothing is a place for objects where none are: all is sealed.
type nothing struct{ series.Objects }

func (nothing) List(context.Context, string) ([]series.Object, error) { return nil, nil }

// Whatever is wrong with a backup is found before a record is written.
func TestRefused(t *testing.T) {
	_, data := full(t)
	type entry struct {
		name, text string
	}
	var entries []entry
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		text, err2 := io.ReadAll(r)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{h.Name, string(text)})
	}
	pack := func(entries []entry) []byte {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, e := range entries {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e.name, Size: int64(len(e.text)), Mode: 0o600}); err != nil {
				t.Fatal(err)
			}
			io.WriteString(w, e.text)
		}
		w.Close()
		return out.Bytes()
	}
	at := func(prefix string) int {
		return slices.IndexFunc(entries, func(e entry) bool { return strings.HasPrefix(e.name, prefix) })
	}
	change := func(prefix string, f func(string) string) []byte {
		all, i := slices.Clone(entries), at(prefix)
		all[i].text = f(all[i].text)
		return pack(all)
	}
	without := func(prefix string) []byte { i := at(prefix); return pack(slices.Delete(slices.Clone(entries), i, i+1)) }
	flip := func(s string) string { return strings.Replace(s, "mnist", "mnisu", 1) }
	header := func(edit func(*Header)) []byte {
		return change(headerName, func(s string) string {
			var h Header
			if err := json.Unmarshal([]byte(s), &h); err != nil {
				t.Fatal(err)
			}
			edit(&h)
			text, _ := json.Marshal(h)
			return string(text)
		})
	}
	var otherKey bytes.Buffer
	if err := WriteKey(&otherKey, bytes.Repeat([]byte{8}, 32)); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		data []byte
		kind error
		says string
	}{
		{"empty", nil, mlaas.ErrInvalid, "the manifest, which comes last, is not there"},
		{"no tar", bytes.Repeat([]byte("x"), 2000), mlaas.ErrInvalid, "no whole backup"},
		{"cut off in an entry", data[:len(data)/2], mlaas.ErrInvalid, "no whole backup"},
		{"cut off between entries", without(manifestName), mlaas.ErrInvalid, "cut off"},
		{"another tar", pack([]entry{{"etc/passwd", "root"}}), mlaas.ErrInvalid, `it begins with "etc/passwd"`},
		{"a record changed", change(recordsName, flip), mlaas.ErrInvalid, "records.jsonl is not what was written"},
		{"a message changed", change(messagesName, strings.ToUpper), mlaas.ErrInvalid, "messages.jsonl is not what was written"},
		{"a segment changed", change(seriesFolder+"0", strings.ToUpper), mlaas.ErrInvalid, "is not what was written"},
		{"content changed", change(blobFolder, strings.ToUpper), mlaas.ErrInvalid, "content sha256:"},
		{"content missing", without(blobFolder), mlaas.ErrInvalid, "is missing"},
		{"records missing", without(recordsName), mlaas.ErrInvalid, "records.jsonl is missing"},
		{"twice", pack(slices.Insert(slices.Clone(entries), 2, entries[1])), mlaas.ErrInvalid, "is there twice"},
		{"more", pack(slices.Insert(slices.Clone(entries), 2, entry{"blob/" + string(blob.Name([]byte("more"))), "more"})), mlaas.ErrInvalid, "is not in its manifest"},
		{"after the manifest", pack(append(slices.Clone(entries), entry{"blob/x", ""})), mlaas.ErrInvalid, "comes after the manifest"},
		{"outside", pack(slices.Insert(slices.Clone(entries), 2, entry{"series/../../x", ""})), mlaas.ErrInvalid, "a file of the series"},
		{"unknown", pack(slices.Insert(slices.Clone(entries), 2, entry{"x", ""})), mlaas.ErrInvalid, `"x" is none of its entries`},
		{"newer format", header(func(h *Header) { h.Format = 2 }), mlaas.ErrConflict, "was written by a newer mlaas (v9; format 2, this one reads up to 1)"},
		{"newer schema", header(func(h *Header) { h.Schema = map[string]int{"run": 7} }), mlaas.ErrConflict, "form 7 of a run"},
		{"another key", append(otherKey.Bytes(), data...), mlaas.ErrInvalid, "not the one that this backup's secrets were sealed with"},
	}
	notByHash := []string{"outside", "unknown"} // entries that are whole, and have no place here
	if header, sum, err := Check(t.Context(), bytes.NewReader(data)); err != nil || header.Version != "v9" || sum.Blobs != 3 {
		t.Errorf("a check of a good one: %+v, %+v, %v", header, sum, err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to := build(t)
			_, err := to.target().Read(t.Context(), bytes.NewReader(tt.data))
			if !errors.Is(err, tt.kind) || !strings.Contains(fmt.Sprint(err), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
			if err := store.Empty(t.Context(), to.db); err != nil {
				t.Errorf("it wrote something: %v", err)
			}
			if _, _, err := Check(t.Context(), bytes.NewReader(tt.data)); err == nil && !slices.Contains(notByHash, tt.name) {
				t.Error("a check finds nothing wrong")
			}
		})
	}
}

func TestKey(t *testing.T) {
	_, data := full(t)
	var with bytes.Buffer
	if err := WriteKey(&with, key); err != nil {
		t.Fatal(err)
	}
	with.Write(data)
	to := build(t)
	if res, err := to.target().Read(t.Context(), &with); err != nil || !bytes.Equal(res.Key, key) {
		t.Errorf("with its key: %x, %v", res.Key, err)
	}
	given := build(t).target()
	given.Key = key
	if res, err := given.Read(t.Context(), bytes.NewReader(data)); err != nil || !bytes.Equal(res.Key, key) {
		t.Errorf("with the key beside it: %x, %v", res.Key, err)
	}
	wrong := build(t).target()
	wrong.Key = bytes.Repeat([]byte{8}, 32)
	if _, err := wrong.Read(t.Context(), bytes.NewReader(data)); !errors.Is(err, mlaas.ErrInvalid) {
		t.Errorf("with another key: %v", err)
	}
}

// What a record names and was not there before is said; what goes while it is
// looked for makes the copy begin again.
func TestMissing(t *testing.T) {
	h := build(t)
	h.openSeries(t)
	ctx := t.Context()
	gone := blob.Name([]byte("gone"))
	lock := func(l mlaas.Digest, rev int64) store.Row {
		return store.Locks(h.db).Put(mlaas.Locked{Tenant: team, Spec: "sha256:spec", Lock: l}, rev)
	}
	if err := h.db.Commit(ctx, store.Batch{Put: []store.Row{lock(gone, 0)}}); err != nil {
		t.Fatal(err)
	}
	s := Source{DB: h.db, Blob: h.blob, Series: h.series, Key: key}
	sum, err := s.Write(ctx, io.Discard)
	if err != nil || !slices.Equal(sum.Missing, []mlaas.Digest{gone}) {
		t.Errorf("%+v, %v", sum, err)
	}
	// So it is with a chunk of lines.
	line := series.Batch{Fence: mlaas.Fence{Tenant: team, Run: "r", Epoch: 1, Replica: "worker-0", Incarnation: 1},
		Frame: mlaas.Frame{Stream: mlaas.LogStream, First: 1, Lines: []mlaas.LogLine{{Time: made, Stream: "stdout", Text: "hello"}}}}
	if err := errors.Join(h.series.Append(ctx, line), h.series.Flush(ctx)); err != nil {
		t.Fatal(err)
	}
	lost := []mlaas.Digest{gone}
	err = h.series.Blobs(ctx, func(d mlaas.Digest) error {
		lost = append(lost, d)
		return h.blob.Delete(ctx, d)
	})
	slices.Sort(lost)
	if err != nil || len(lost) != 2 {
		t.Fatalf("%v, %v", lost, err)
	}
	if sum, err = s.Write(ctx, io.Discard); err != nil || !slices.Equal(sum.Missing, lost) {
		t.Errorf("%+v, %v", sum, err)
	}
	if err := h.series.Delete(ctx, team, "r"); err != nil {
		t.Fatal(err)
	}
	// The record changes, and its content is collected, between the two looks.
	there, _, err := h.blob.Put(ctx, strings.NewReader("there"), "")
	if err != nil {
		t.Fatal(err)
	}
	looks := 0
	s.Blob = touching{h.blob, func() {
		if looks++; looks == 1 {
			if err := h.db.Commit(ctx, store.Batch{Put: []store.Row{lock(there, 1)}}); err != nil {
				t.Error(err)
			}
		}
	}}
	if sum, err = s.Write(ctx, io.Discard); err != nil || len(sum.Missing) != 0 || sum.Blobs != 1 || looks != 2 {
		t.Errorf("%+v, %v after %d looks", sum, err, looks)
	}
}

// touching tells when something is looked for.
type touching struct {
	blob.Driver
	then func()
}

func (d touching) Touch(ctx context.Context, of mlaas.Digest) (blob.Info, error) {
	info, err := d.Stat(ctx, of)
	d.then()
	return info, err
}
