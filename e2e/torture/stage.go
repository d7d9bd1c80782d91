package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas/e2e/layout"
)

// A Stage is a platform in one layout, with all that is done to it: its disk,
// its network, its clients and their ledger.
type Stage struct {
	Kind       string
	Binary     string // the release
	Failpoints string // the same with the tag failpoints
	S3         string
	Random     *rand.Rand
	Known      map[string]bool // failpoints that another layout was crashed at
	Short      bool            // compare once, at the end, in place of after each fault

	dir      string // of the stage: the platform's files are in a folder or a disk below
	disk     *Disk  // nil: none could be made
	net      *layout.Network
	platform *layout.Platform
	api      *API
	witness  *Witness
	ledger   *Ledger
	log      tail
	loads    int
	recent   time.Time // when the clients of now began
	began    time.Time
	trace    []string // what was done, in words
	rows     []*Row
	last     string            // the fault before this one: its runs may not be over
	full     map[string]bool   // faults whose runs may have met a disk without room
	cannot   map[string]string // faults that this machine cannot do, and why
	points   map[string]int    // failpoints that were crashed at, and how often
}

// A Row is one line of the table.
type Row struct {
	Layout, Fault string
	Times         int
	Back          time.Duration // the longest time until something was acknowledged again
	Operations    int           // on registers, checked to be linearizable
	Tally         Tally
}

// Where the time goes. Nothing waits longer than it must.
const (
	warmPatience  = 60 * time.Second
	warmAcks      = 40
	backPatience  = 60 * time.Second // until something is acknowledged again
	backLimit     = 30 * time.Second // and what of it is not a finding: three times what is promised
	after         = 700 * time.Millisecond
	alonePatience = 20 * time.Second
)

// open starts everything.
func (s *Stage) open(ctx context.Context) (err error) {
	s.began, s.cannot = time.Now(), map[string]string{}
	s.points, s.full = map[string]int{}, map[string]bool{}
	if s.dir, err = os.MkdirTemp("", "mlaas-torture-"); err != nil {
		return err
	}
	if err := os.Chmod(s.dir, 0o711); err != nil { // replicas run as users of their own
		return err
	}
	if s.ledger, err = openLedger(filepath.Join(s.dir, "ledger")); err != nil {
		return err
	}
	data := filepath.Join(s.dir, "data")
	if s.disk, err = makeDisk(filepath.Join(s.dir, "disk"), data); err != nil {
		s.cannot["disk"] = err.Error()
		if err := os.Mkdir(data, 0o711); err != nil {
			return err
		}
	}
	// What the platform leaves where temporary files are goes with the rest.
	temporary := filepath.Join(s.dir, "tmp")
	if err := errors.Join(os.Mkdir(temporary, 0o777), os.Chmod(temporary, 0o777|os.ModeSticky)); err != nil {
		return err
	}
	host := "127.0.0.1"
	if s.Kind == layout.TwoOfEach {
		if s.net, err = layout.NewNetwork(); err != nil {
			s.cannot["network"] = err.Error()
		} else {
			host = s.net.Gateway()
		}
	}
	if s.witness, err = listenWitness(host); err != nil {
		return err
	}
	s.platform, err = layout.Start(ctx, layout.Options{Kind: s.Kind, Binary: s.Binary, S3: s.S3, Dir: data,
		Blobs: filepath.Join(s.dir, "s3"), Log: &s.log, Net: s.net, Env: []string{"TMPDIR=" + temporary},
		Args:  []string{"--segment", "16KiB"}, // so that what runs say is sealed all the time
		Proxy: s.Kind == layout.Three, Failover: s.Kind == layout.TwoOfEach})
	if err != nil {
		return err
	}
	s.api = newAPI(s.platform.URL, s.platform.Token)
	return nil
}

// close ends and removes everything, whatever happened before.
func (s *Stage) close() error {
	var errs []error
	if s.platform != nil {
		errs = append(errs, s.platform.Down(context.Background()))
	}
	if s.witness != nil {
		s.witness.Close()
	}
	if s.disk != nil {
		errs = append(errs, s.disk.Close())
	}
	errs = append(errs, s.net.Close())
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// did notes what is done to the platform, for who must find out what went
// wrong.
func (s *Stage) did(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%7.2f s  ", time.Since(s.began).Seconds())+fmt.Sprintf(format, args...))
}

// row is the line of the table for this fault.
func (s *Stage) row(fault string) *Row {
	for _, r := range s.rows {
		if r.Fault == fault {
			return r
		}
	}
	r := &Row{Layout: s.Kind, Fault: fault}
	s.rows = append(s.rows, r)
	return r
}

// errElsewhere says that a fault is not one of this layout.
var errElsewhere = errors.New("not in this layout")

// A Fault is something that goes wrong, and is put right again.
type Fault interface {
	Name() string
	// Fits returns why it cannot be done here; errElsewhere where this layout
	// does not have what it breaks.
	Fits(s *Stage) error
	// Inject begins it, with clients at work, and returns when it has begun.
	Inject(ctx context.Context, s *Stage) error
	// Heal ends it, and returns when the platform could work again.
	Heal(ctx context.Context, s *Stage) error
}

// A fault may say more: how long it lasts, what must hold meanwhile, and that
// processes may end of it by themselves.
type (
	lasting interface {
		Lasts(*rand.Rand) time.Duration
	}
	meanwhile interface {
		Meanwhile(ctx context.Context, s *Stage, tally *Tally)
	}
	ending     interface{ Ends() bool }
	afterwards interface {
		Afterwards(ctx context.Context, s *Stage, entries []Entry, tally *Tally) error
	}
)

// suffer lets clients work, injects a fault, heals it, and compares all that
// was acknowledged with what is there.
func (s *Stage) suffer(ctx context.Context, f Fault) error {
	row := s.row(f.Name())
	row.Times++
	if _, ok := f.(DiskFull); ok {
		s.full[f.Name()], s.full[s.last] = true, true
	}
	s.last = f.Name()
	tally := new(Tally)
	defer row.Tally.add(tally)
	from := s.ledger.len()
	load, err := s.load(ctx, f.Name(), tally)
	if err != nil {
		return err
	}
	ended := false
	defer func() {
		if !ended {
			load.giveUp()
			load.end()
		}
	}()
	if err := load.warm(warmAcks, warmPatience); err != nil {
		return err
	}
	s.did("%s", f.Name())
	if err := f.Inject(ctx, s); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	lasts := 300 * time.Millisecond
	if l, ok := f.(lasting); ok {
		lasts = l.Lasts(s.Random)
	}
	if s.Short {
		lasts /= 2
	}
	over := time.After(lasts)
	if m, ok := f.(meanwhile); ok {
		m.Meanwhile(ctx, s, tally)
	}
	select {
	case <-over:
	case <-ctx.Done():
	}
	healed := time.Now()
	if err := f.Heal(ctx, s); err != nil {
		return fmt.Errorf("%s, put right: %w", f.Name(), err)
	}
	for _, p := range s.platform.Processes() {
		if e, ok := f.(ending); !p.Running() && !(ok && e.Ends()) {
			tally.illegal("%s ended by itself", p.Name)
		}
	}
	if err := s.platform.Restart(ctx); err != nil {
		return err
	}
	back, err := s.back(ctx, healed)
	if err != nil {
		return err
	}
	row.Back = max(row.Back, back)
	if back > backLimit {
		tally.illegal("nothing was acknowledged for %.1f s after it was put right", back.Seconds())
	}
	s.did("acknowledges again after %.1f s", back.Seconds())
	select {
	case <-time.After(after): // the clients meet it well again
	case <-ctx.Done():
	}
	load.end()
	ended = true
	if err := load.registers.seal(ctx); err != nil {
		tally.illegal("%v", err)
	}
	row.Operations += load.registers.check(tally)
	entries := s.ledger.since(from)
	if !s.Short {
		s.compare(ctx, entries, tally)
	}
	if a, ok := f.(afterwards); ok {
		return a.Afterwards(ctx, s, entries, tally)
	}
	return nil
}

// load starts clients.
func (s *Stage) load(ctx context.Context, fault string, tally *Tally) (*Load, error) {
	s.loads++
	s.recent = time.Now()
	name := "t" + strconv.Itoa(s.loads)
	registers, err := makeRegisters(ctx, s.api, name+"-register", 3)
	if err != nil {
		return nil, err
	}
	load := &Load{api: s.api, ledger: s.ledger, tally: tally, name: name, fault: fault, witness: s.witness.Address, registers: registers}
	if s.Kind != layout.One {
		load.blobs = s.platform.Blobs
	}
	load.start(ctx, s.Random)
	return load, nil
}

// back is how long after that it takes until something is acknowledged.
func (s *Stage) back(ctx context.Context, began time.Time) (time.Duration, error) {
	s.loads++
	name := "back" + strconv.Itoa(s.loads)
	for {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := s.api.do(short, Ask{Method: "POST", Path: "/api/job", Key: name, JSON: map[string]any{"name": name}})
		cancel()
		since := time.Since(began)
		if err == nil {
			return since, nil
		}
		if !later(err) || since > backPatience {
			return since, fmt.Errorf("%.1f s after the fault was put right: %w", since.Seconds(), err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return since, ctx.Err()
		}
	}
}

// compare lets every run end, and compares entries with what is there.
func (s *Stage) compare(ctx context.Context, entries []Entry, tally *Tally) {
	if err := settle(ctx, s.api); err != nil {
		if ctx.Err() != nil {
			return // who asked has gone; nothing is found out any more
		}
		tally.illegal("%v", err)
	}
	for _, left := range s.witness.alone(alonePatience) {
		tally.illegal("every run is over, and the program of %s still lives", left)
	}
	for _, twice := range s.witness.ranTwice() {
		tally.duplicated("%s", twice)
	}
	for _, twice := range s.ledger.answeredTwice() {
		tally.duplicated("%s", twice)
	}
	(&Check{api: s.api, tally: tally, full: s.full}).all(ctx, entries)
}

// reckon compares what was acknowledged during each fault, where that was put
// off.
func (s *Stage) reckon(ctx context.Context) {
	all := s.row("all runs end, and nothing lives on")
	all.Times++
	s.compare(ctx, nil, &all.Tally)
	for _, r := range s.rows {
		var entries []Entry
		for _, e := range s.ledger.since(0) {
			if e.Fault == r.Fault {
				entries = append(entries, e)
			}
		}
		if len(entries) > 0 {
			(&Check{api: s.api, tally: &r.Tally, full: s.full}).all(ctx, entries)
		}
	}
}

// again reads everything again that was ever acknowledged, after one more
// start.
func (s *Stage) again(ctx context.Context) error {
	row := s.row("all of it, read again at the end")
	row.Times++
	s.platform.Crash()
	if err := s.platform.Restart(ctx); err != nil {
		return err
	}
	s.compare(ctx, s.ledger.since(0), &row.Tally)
	for _, left := range s.leftover() {
		row.Tally.illegal("every run is over, and this is left: %s", left)
	}
	return nil
}

// leftover lists processes that belong to the platform's folder and are not
// its own.
func (s *Stage) leftover() (left []string) {
	own := map[string]bool{}
	for _, p := range s.platform.Processes() {
		own[strconv.Itoa(p.PID())] = true
	}
	for range 100 { // a supervisor needs a moment to leave
		left = nil
		found, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return []string{err.Error()}
		}
		for _, f := range found {
			text, err := os.ReadFile(f)
			pid := filepath.Base(filepath.Dir(f))
			line := strings.ReplaceAll(string(text), "\x00", " ")
			if err == nil && strings.Contains(line, s.platform.Dir) && !own[pid] {
				left = append(left, pid+" "+line)
			}
		}
		if len(left) == 0 {
			return nil
		}
		<-time.After(100 * time.Millisecond)
	}
	return left
}

// tail keeps the end of what was written.
type tail struct {
	mu   sync.Mutex
	text bytes.Buffer
}

const tailSize = 1 << 20

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text.Len() > tailSize {
		t.text.Next(t.text.Len() - tailSize/2)
	}
	return t.text.Write(b)
}

func (t *tail) last(n int) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.text.Bytes()
	return bytes.Clone(b[max(0, len(b)-n):])
}
