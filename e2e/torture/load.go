package main

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"mlaas.dev/mlaas"
)

//go:embed program.py
var program string

// A Load is clients at work: they make jobs, versions, datasets and blobs, run
// and stop programs, read logs, and edit jobs that others edit too. Every
// client asks until it has an answer, and writes into the ledger what that was.
type Load struct {
	api       *API
	ledger    *Ledger
	tally     *Tally
	name      string // of this load: part of every name that it makes
	fault     string
	witness   string // where programs report
	blobs     string // the files of the S3 server; empty: there is none
	registers *Registers

	serial  atomic.Int64
	acked   atomic.Int64
	news    chan struct{} // something was acknowledged
	stop    chan struct{} // closed: no new work
	give    context.Context
	giveUp  context.CancelFunc
	all     sync.WaitGroup
	mu      sync.Mutex
	running []string // runs that were started, newest last
}

// stopPatience is how long, after everything is well again, a client may still
// have to wait for the answer that it insists on.
const stopPatience = 60 * time.Second

const (
	runLines  = 24    // of a program that ends by itself
	longLines = 10000 // of one that is stopped
	editors   = 8
)

// start lets the clients begin.
func (l *Load) start(ctx context.Context, seed *rand.Rand) {
	l.news, l.stop = make(chan struct{}, 1), make(chan struct{})
	l.give, l.giveUp = context.WithCancel(ctx)
	client := func(work func(context.Context, *rand.Rand) error) {
		random := rand.New(rand.NewPCG(seed.Uint64(), 0))
		l.all.Go(func() {
			for !l.stopped() && l.give.Err() == nil {
				if err := work(l.give, random); err != nil && ctx.Err() == nil {
					l.bad(err)
				}
			}
		})
	}
	for range 2 {
		client(l.makeJob)
		client(l.runJob)
	}
	client(l.stopJob)
	client(l.hurry)
	client(l.makeData)
	client(l.readLog)
	if l.blobs != "" {
		client(l.collect)
	}
	for id := range editors {
		random := rand.New(rand.NewPCG(seed.Uint64(), 0))
		l.all.Go(func() { l.registers.client(l.give, id, random, l.stop, l.ledger, l.fault, l.bad) })
	}
}

func (l *Load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// bad notes what a client was answered that no fault excuses.
func (l *Load) bad(err error) { l.tally.illegal("%v", err) }

// end lets every client finish what it has begun, and returns when all have.
func (l *Load) end() {
	close(l.stop)
	late := time.AfterFunc(stopPatience, l.giveUp)
	l.all.Wait()
	late.Stop()
	l.giveUp()
}

// warm waits until n things are acknowledged, or the time is over.
func (l *Load) warm(n int64, patience time.Duration) error {
	late := time.After(patience)
	for l.acked.Load() < n {
		select {
		case <-l.news:
		case <-late:
			return fmt.Errorf("%d things were acknowledged in %v, want %d", l.acked.Load(), patience, n)
		}
	}
	return nil
}

// write puts what was acknowledged into the ledger.
func (l *Load) write(e Entry) error {
	e.Fault = l.fault
	err := l.ledger.write(e)
	l.acked.Add(1)
	select {
	case l.news <- struct{}{}:
	default:
	}
	return err
}

// next is a name that nothing had before.
func (l *Load) next(kind string) string {
	return fmt.Sprintf("%s-%s-%d", l.name, kind, l.serial.Add(1))
}

// made is what a creation is answered with.
type made struct {
	ID string
	// Version is a number of a dataset, and more of a run.
	Version json.RawMessage
}

// create makes something with a key of its own.
func (l *Load) create(ctx context.Context, path, key string, body any) (m made, err error) {
	got, err := l.api.insist(ctx, Ask{Method: "POST", Path: path, Key: key, JSON: body})
	if err == nil {
		err = json.Unmarshal(got.Body, &m)
	}
	return m, err
}

// coded makes a job with one version of code.
func (l *Load) coded(ctx context.Context, name, code string) (job string, err error) {
	m, err := l.create(ctx, "/api/job", name+"-job", map[string]any{"name": name})
	if err != nil {
		return "", err
	}
	job = m.ID
	if err := l.write(Entry{Kind: "job", Key: name + "-job", ID: job, Name: name}); err != nil {
		return "", err
	}
	return job, l.version(ctx, name+"-code", job, code)
}

func (l *Load) version(ctx context.Context, key, job, code string) error {
	m, err := l.create(ctx, "/api/job/"+job+"/code", key, map[string]any{"files": map[string]string{"main.py": code}})
	if err != nil {
		return err
	}
	return l.write(Entry{Kind: "version", Key: key, Job: job, ID: m.ID, Digest: sum([]byte(code))})
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// makeJob makes a job with two versions.
func (l *Load) makeJob(ctx context.Context, random *rand.Rand) error {
	name := l.next("job")
	job, err := l.coded(ctx, name, program+"# "+name)
	if err != nil || random.IntN(3) > 0 {
		return err
	}
	return l.version(ctx, name+"-code-2", job, program+"# again "+name)
}

// makeData sends bytes, and makes a dataset of them.
func (l *Load) makeData(ctx context.Context, random *rand.Rand) error {
	name := l.next("data")
	data := noise(random, 1000+random.IntN(200_000))
	digest := sum(data)
	if err := l.put(ctx, digest, data); err != nil {
		return err
	}
	if err := l.write(Entry{Kind: "blob", Key: name + "-blob", ID: digest, Digest: digest}); err != nil {
		return err
	}
	body := map[string]any{"name": name, "files": []map[string]any{{"path": "bytes", "digest": "sha256:" + digest, "size": len(data)}}}
	m, err := l.create(ctx, "/api/dataset", name, body)
	if err != nil {
		return err
	}
	return l.write(Entry{Kind: "dataset", Key: name, ID: string(m.Version), Name: name, Digest: digest})
}

func noise(random *rand.Rand, size int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], random.Uint64())
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(data) // it never fails
	return data
}

func (l *Load) put(ctx context.Context, digest string, data []byte) error {
	_, err := l.api.insist(ctx, Ask{Method: "PUT", Path: "/api/blob/sha256:" + digest, Bytes: data})
	return err
}

// collect has removed what nothing needs. It makes that by letting content look
// as if it had lain there for days: bytes that nobody names, which go, and a
// dataset's, which are sent again meanwhile and stay.
func (l *Load) collect(ctx context.Context, random *rand.Rand) error {
	name := l.next("kept")
	kept, waste := noise(random, 3000), noise(random, 2000)
	if random.IntN(3) == 0 {
		waste = noise(random, 16<<20+1) // more than a bucket takes at once
	}
	digest, unnamed := sum(kept), sum(waste)
	if err := errors.Join(l.put(ctx, digest, kept), l.put(ctx, unnamed, waste)); err != nil {
		return err
	}
	m, err := l.create(ctx, "/api/dataset", name, map[string]any{"name": name, "files": []map[string]any{{"path": "bytes", "digest": "sha256:" + digest, "size": len(kept)}}})
	if err == nil {
		err = l.write(Entry{Kind: "dataset", Key: name, ID: string(m.Version), Name: name, Digest: digest})
	}
	if err == nil {
		err = l.write(Entry{Kind: "blob", Key: name + "-blob", ID: digest, Digest: digest})
	}
	if err == nil {
		err = age(l.blobs, map[string]bool{digest: true, unnamed: true})
	}
	if err != nil {
		return err
	}
	if err := l.put(ctx, digest, kept); err != nil {
		return err
	}
	_, err = l.api.do(ctx, Ask{Method: "POST", Path: "/api/gc"})
	if err != nil && later(err) {
		err = nil // it is done again
	}
	select {
	case <-time.After(500 * time.Millisecond):
	case <-l.stop:
	}
	return err
}

// age lets the objects of these names in the files of an S3 server look as if
// they were old.
func age(blobs string, names map[string]bool) error {
	then := time.Now().Add(-48 * time.Hour)
	return filepath.WalkDir(blobs, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && names[d.Name()] {
			err = os.Chtimes(path, then, then)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has gone meanwhile
		}
		return err
	})
}

// startRun makes a job and runs it.
func (l *Load) startRun(ctx context.Context, kind string, lines int, pause float64) (run string, err error) {
	name := l.next(kind)
	job, err := l.coded(ctx, name, program+"# "+name)
	if err != nil {
		return "", err
	}
	m, err := l.create(ctx, "/api/job/"+job+"/run", name+"-run", map[string]any{
		"parameters": map[string]any{"lines": lines, "pause": pause, "witness": l.witness}})
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	l.running = append(l.running, m.ID)
	l.mu.Unlock()
	return m.ID, l.write(Entry{Kind: kind, Key: name + "-run", Job: job, ID: m.ID, Lines: lines})
}

// runJob runs a program that ends by itself, and waits for its end: there are
// never many at once.
func (l *Load) runJob(ctx context.Context, _ *rand.Rand) error {
	run, err := l.startRun(ctx, "run", runLines, 0.03)
	if err != nil {
		return err
	}
	l.until(ctx, run, func(s runStatus) bool { return mlaas.State(s.State).Final() })
	return nil
}

// stopJob runs a program that never ends, and stops it once it runs.
func (l *Load) stopJob(ctx context.Context, random *rand.Rand) error {
	run, err := l.startRun(ctx, "long", longLines, 0.05)
	if err != nil {
		return err
	}
	l.until(ctx, run, func(s runStatus) bool { return s.State == "running" || mlaas.State(s.State).Final() })
	return l.stopRun(ctx, run, time.Duration(random.IntN(1000))*time.Millisecond)
}

// hurry runs a program and stops it while it begins.
func (l *Load) hurry(ctx context.Context, random *rand.Rand) error {
	run, err := l.startRun(ctx, "long", longLines, 0.05)
	if err != nil {
		return err
	}
	if err := l.stopRun(ctx, run, time.Duration(random.IntN(400))*time.Millisecond); err != nil {
		return err
	}
	l.until(ctx, run, func(s runStatus) bool { return mlaas.State(s.State).Final() })
	return nil
}

// stopRun stops a run after a while.
func (l *Load) stopRun(ctx context.Context, run string, after time.Duration) error {
	select {
	case <-time.After(after):
	case <-l.stop:
	}
	key, asked := "stop "+run, time.Now()
	if _, err := l.api.insist(ctx, Ask{Method: "POST", Path: "/api/run/" + run + "/stop", Key: key}); err != nil {
		return err
	}
	return l.write(Entry{Kind: "stop", Key: key, ID: run, Asked: asked})
}

type runStatus struct{ State, Reason string }

// until looks at a run until it is as wanted, no answer counting as not yet,
// or until the work is over.
func (l *Load) until(ctx context.Context, run string, is func(runStatus) bool) {
	for !l.stopped() {
		var r struct{ Status runStatus }
		err := l.api.get(ctx, "/api/run/"+run, &r)
		if err == nil && is(r.Status) {
			return
		}
		if err != nil && !later(err) {
			l.bad(err)
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-l.stop:
		}
	}
}

// readLog reads the log of a run as far as it is there, and notes what it saw:
// what was shown once is there for good.
func (l *Load) readLog(ctx context.Context, random *rand.Rand) error {
	select {
	case <-time.After(200 * time.Millisecond):
	case <-l.stop:
		return nil
	}
	l.mu.Lock()
	recent := l.running[max(0, len(l.running)-4):]
	run := ""
	if len(recent) > 0 {
		run = recent[random.IntN(len(recent))]
	}
	l.mu.Unlock()
	if run == "" {
		return nil
	}
	lines, digest, err := readPrefix(ctx, l.api, run, 0)
	if err != nil || lines == 0 {
		if r, refused := errors.AsType[*Refused](err); refused && r.Status == http.StatusNotFound {
			return fmt.Errorf("run %s was acknowledged: %w", run, err)
		}
		if err != nil && later(err) {
			err = nil // a read without an answer says nothing
		}
		return err
	}
	return l.write(Entry{Kind: "seen", Key: fmt.Sprintf("%d lines of %s, seen at %d", lines, run, l.serial.Add(1)), ID: run, Lines: lines, Digest: digest})
}

// readPrefix reads the first n lines of a run's log, or as many as there are
// now, and returns how many they were and their digest.
func readPrefix(ctx context.Context, api asker, run string, n int) (count int, digest string, err error) {
	h := sha256.New()
	if n == 0 {
		n = 10_000
	}
	err = lines(ctx, api, fmt.Sprintf("/api/run/%s/log?limit=%d", run, n), func(line []byte) error {
		var s logLine
		if err := json.Unmarshal(line, &s); err != nil {
			return err
		}
		if s.passing() {
			return nil
		}
		count++
		fmt.Fprintf(h, "%d %s %d %s %s\n", s.Cursor, s.Replica, s.Attempt, s.Stream, s.Line)
		return nil
	})
	return count, hex.EncodeToString(h.Sum(nil)), err
}

// A logLine is a line of a run's log.
type logLine struct {
	Cursor                int64
	Attempt               int
	Replica, Stream, Line string
}

// passing reports whether a line is of the log that a cluster keeps of a
// container. It is shown for as long as its supervisor has delivered nothing,
// has no number, and is nothing that was acknowledged.
func (l logLine) passing() bool { return l.Stream == "container" && l.Cursor == 0 }
