// Package supervisor is our process inside a replica. It dials the door, waits
// for the word to start, fetches code, data and environment by digest, runs
// the user's program, and brings what the program writes and measures to the
// door: spooled on disk first, so that the program never waits for the
// platform and nothing is lost while the platform is away.
//
// supervisor.go is its life, talk.go the conversation with the door, spool.go
// what is kept until the door has it, program.go the user's program, fetch.go
// what goes in, tracker.go and checkpoint.go what comes out, open.go what people
// look in by, kernel.go what takes the program's place in a kernel.
package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mlaas.dev/mlaas"
)

// A Supervisor runs one replica.
type Supervisor struct {
	Config
	Door Door
	Log  *slog.Logger

	// Prepare makes the environment that a program runs in. It is called at
	// most once; say takes a sentence for the user about what goes on.
	Prepare func(ctx context.Context, e mlaas.Environment, lock []byte, say func(string)) (*Runtime, error)

	// Tools makes a folder of what a kernel needs besides the environment, for its
	// Python: see package environment. Empty: the environment must have it.
	Tools func(ctx context.Context, python string, say func(string)) (string, error)

	// Drain says that the program is over and its supervisor died: deliver what
	// is in the spool, then end.
	Drain bool

	PrivateData bool // data may come from addresses that are not public

	Now func() time.Time // nil: time.Now

	lines  *spool[mlaas.LogLine]
	points *spool[mlaas.Point]

	wake chan struct{} // there may be something to send

	mu        sync.Mutex
	phase     mlaas.Phase
	said      int // grows with each phase
	final     bool
	away      time.Time // since when there is no conversation; zero: there is one
	dropped   int64
	gap       bool // something found no room, and no line says yet that there is room again
	full      bool // a line says that lines are dropped
	usage     mlaas.Usage
	ports     []net.Listener
	numbers   []int
	start     chan mlaas.Start
	stop      chan mlaas.Stop // the first word is kept
	stopping  bool
	suspended bool
	announced chan struct{} // closed when the final phase was said in a conversation
	leave     chan struct{} // closed when there is nothing left to say
	left      chan struct{} // closed when the conversation is over for good
	keeping   *keeper
	evaluated *evaluations
	program   *program
	opens     opener
}

// A Runtime is a prepared environment.
type Runtime struct {
	Python    string            // absolute path of the interpreter; empty: there is none
	Library   string            // the folder that holds the Python package mlaas; empty: there is none
	Variables map[string]string // of the program
	Site      string            // goes first on PYTHONPATH, before what the user has there; empty: nothing does
	Lock      *mlaas.Locked     // set where the environment was resolved just now
	LockText  []byte
	ReadOnly  []string // folders that the program must see
}

// errStopped ends what is under way because the platform said stop.
var errStopped = errors.New("stopped")

// Run is the life of the supervisor: it returns when the program has ended,
// the door has everything and the platform said stop, or when ctx ends. It is
// ErrClaimed where the replica had its supervisor before.
func (s *Supervisor) Run(ctx context.Context) error {
	if s.Now == nil {
		s.Now = time.Now
	}
	if !s.Drain {
		lock, err := Claim(ctx, s.Folder)
		if err != nil {
			return err
		}
		defer lock.Close()
	} else {
		lock, err := waitLock(ctx, filepath.Join(s.Folder, "lock"))
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	if err := errors.Join(s.open(), Ready()); err != nil {
		return err
	}
	defer s.lines.close()
	defer s.points.close()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g, life := errgroup.WithContext(ctx)
	g.Go(func() error { return s.converse(life) })
	g.Go(func() error { return s.keeping.run(life) })
	g.Go(func() error { return s.evaluated.run(life) })
	g.Go(func() error { s.watchGPUs(life); return nil })
	g.Go(func() error {
		defer cancel(errStopped)
		do := s.live
		if s.Drain {
			do = s.drain
		}
		if err := do(life); err != nil {
			return err
		}
		s.goodbye(life)
		return nil
	})
	err := g.Wait()
	if errors.Is(err, errStopped) || errors.Is(context.Cause(ctx), errStopped) && errors.Is(err, context.Canceled) {
		err = nil
	}
	if err == nil && s.done() {
		err = os.WriteFile(filepath.Join(s.Folder, DeliveredFile), nil, 0o600)
	}
	return err
}

// done reports whether nothing of this replica is left to be told.
func (s *Supervisor) done() bool {
	if !s.delivered() {
		return false
	}
	select {
	case <-s.announced:
		return true
	default:
		return s.Drain && !s.final
	}
}

// goodbye ends the conversation so that the last word arrives.
func (s *Supervisor) goodbye(ctx context.Context) {
	close(s.leave)
	t := time.NewTimer(3 * time.Second)
	defer t.Stop()
	select {
	case <-s.left:
	case <-t.C:
	case <-ctx.Done():
	}
}

func (s *Supervisor) open() (err error) {
	s.opens.s = s
	s.wake = make(chan struct{}, 1)
	s.start = make(chan mlaas.Start, 1)
	s.stop = make(chan mlaas.Stop, 1)
	s.announced = make(chan struct{})
	s.leave, s.left = make(chan struct{}), make(chan struct{})
	s.away = s.Now()
	s.usage.Isolation = sentence(s.Limits)
	if s.lines, err = openSpool[mlaas.LogLine](s.Folder, mlaas.LogStream, int64(s.Spool)); err != nil {
		return err
	}
	s.lines.blank = s.words("a line is missing here: it was lost from the disk of the replica")
	if s.points, err = openSpool[mlaas.Point](s.Folder, mlaas.MetricStream, int64(s.Spool)); err != nil {
		return err
	}
	if s.keeping, err = openKeeper(s); err != nil {
		return err
	}
	if s.evaluated, err = openEvaluations(s); err != nil {
		return err
	}
	if s.Drain {
		return s.remember()
	}
	for range 2 {
		l, err := net.Listen("tcp", net.JoinHostPort(s.Address, "0"))
		if err != nil {
			return fmt.Errorf("no free port at %s: %w", s.Address, err)
		}
		s.ports = append(s.ports, l)
		s.numbers = append(s.numbers, l.Addr().(*net.TCPAddr).Port)
	}
	s.phase = mlaas.Phase{Status: mlaas.ReplicaReady, Reason: "waiting for its code", At: s.Now().UTC()}
	return nil
}

// remember finds out how the program of a dead supervisor ended.
func (s *Supervisor) remember() error {
	s.phase = mlaas.Phase{Status: mlaas.ReplicaRunning, Program: true, Reason: "its supervisor is gone; what it wrote is being delivered", At: s.Now().UTC()}
	data, err := os.ReadFile(filepath.Join(s.Folder, CompletionFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s.phase)
	}
	s.final = err == nil
	return err
}

// drain waits until the door has everything.
func (s *Supervisor) drain(ctx context.Context) error {
	if s.final {
		select {
		case <-s.announced:
		case <-s.stop:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return nil
	}
	return s.deliver(ctx)
}

// deliver returns when the door has everything that it shall have, or the
// platform said stop.
func (s *Supervisor) deliver(ctx context.Context) error {
	for {
		changed := s.keeping.changed()
		if s.delivered() {
			return nil
		}
		select {
		case <-changed:
		case <-s.stop:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// live is the life of a replica: wait for the word, run the program, deliver,
// wait for the end.
func (s *Supervisor) live(ctx context.Context) error {
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var stop *mlaas.Stop
	heard := make(chan struct{}) // closed once stop is set
	quiet := make(chan struct{})
	go func() {
		defer close(heard)
		select {
		case st := <-s.stop:
			stop = &st
		case <-quiet:
			stop = &mlaas.Stop{Grace: 60, Reason: fmt.Sprintf("it heard nothing from the platform for %s", s.Quiet.Duration())}
		case <-work.Done():
			return
		}
		s.mu.Lock()
		s.stopping = true
		s.mu.Unlock()
		cancel(errStopped)
	}()
	go s.listen(ctx, quiet)

	done := s.play(ctx, work, heard, func() *mlaas.Stop { return stop })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.isSuspended() {
		if s.Fleeting { // nobody finds the folder: now or never
			if err := s.deliver(ctx); err != nil {
				return err
			}
		}
		return ErrSuspended
	}
	s.end(done)
	select { // the platform must know how it ended, and say that we may go
	case <-s.announced:
	case <-quiet:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-heard:
	case <-quiet:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// play waits for Start and runs the program; it returns how it ended. ctx ends
// at the first word of a stop, life with the supervisor.
func (s *Supervisor) play(life, ctx context.Context, heard <-chan struct{}, why func() *mlaas.Stop) mlaas.Phase {
	stopped := func() mlaas.Phase {
		<-heard
		reason := "stopped before its program began"
		if w := why(); w != nil && w.Reason != "" {
			reason += ": " + w.Reason
		}
		return mlaas.Phase{Status: mlaas.ReplicaStopped, Reason: reason}
	}
	var start mlaas.Start
	select {
	case start = <-s.start:
	case <-ctx.Done():
		return stopped()
	}
	p, lock, err := s.ready(ctx, start)
	switch {
	case errors.Is(context.Cause(ctx), errStopped):
		return stopped()
	case err != nil:
		return mlaas.Phase{Status: mlaas.ReplicaFailed, Reason: err.Error(), Lock: lock}
	}
	done := p.run(life, heard, why)
	done.Lock = lock
	return done
}

// end writes down how the program ended, so that the outcome outlives us, and
// tells the door.
func (s *Supervisor) end(p mlaas.Phase) {
	p.At = s.Now().UTC()
	p.Usage = s.measure()
	s.persist()
	s.mu.Lock()
	p.Data, p.Prepared, p.Stages = s.phase.Data, s.phase.Prepared, s.phase.Stages
	s.mu.Unlock()
	if err := WriteFile(filepath.Join(s.Folder, CompletionFile), p); err != nil {
		s.Log.Warn("how the program ended could not be written down", "error", err)
	}
	s.mu.Lock()
	s.phase, s.final = p, true
	s.said++
	s.mu.Unlock()
	s.poke()
}

// persist makes what was spooled so far outlive a power loss. That it ended, and
// what it can go on from, must not be known where what came before is not.
func (s *Supervisor) persist() {
	if err := errors.Join(s.lines.sync(), s.points.sync()); err != nil {
		s.Log.Warn("what was spooled may not outlive a power loss", "error", err)
	}
}

// say tells the door where we stand before the program runs.
func (s *Supervisor) say(reason string) {
	s.setPhase(func(p *mlaas.Phase) { p.Status, p.Reason = mlaas.ReplicaPending, reason })
}

// stage notes that a part of getting ready begins, and what it returns that it
// has ended. Several of one name are one. The door is told with the next word:
// a start must not cost more commits for it.
func (s *Supervisor) stage(name string) (ended func()) {
	note := func(change func(*mlaas.Stage)) {
		s.mu.Lock()
		defer s.mu.Unlock()
		all := slices.Clone(s.phase.Stages) // who sends may hold the old ones
		at := slices.IndexFunc(all, func(x mlaas.Stage) bool { return x.Name == name })
		if at < 0 {
			at, all = len(all), append(all, mlaas.Stage{Name: name, Began: s.Now().UTC()})
		}
		change(&all[at])
		s.phase.Stages = all
	}
	note(func(*mlaas.Stage) {})
	return func() { note(func(x *mlaas.Stage) { x.Ended = new(s.Now().UTC()) }) }
}

func (s *Supervisor) setPhase(change func(*mlaas.Phase)) {
	s.mu.Lock()
	change(&s.phase)
	s.phase.At = s.Now().UTC()
	s.said++
	s.mu.Unlock()
	s.poke()
}

// poke wakes whoever sends.
func (s *Supervisor) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// delivered reports whether the door has everything that it shall have.
func (s *Supervisor) delivered() bool {
	return s.lines.delivered() && s.points.delivered() && s.keeping.delivered() && s.evaluated.delivered()
}

// listen closes quiet when there was no door for too long.
func (s *Supervisor) listen(ctx context.Context, quiet chan<- struct{}) {
	limit := s.Quiet.Duration()
	for {
		s.mu.Lock()
		left := limit
		if !s.away.IsZero() {
			left = limit - s.Now().Sub(s.away)
		}
		s.mu.Unlock()
		if left <= 0 {
			close(quiet)
			return
		}
		if pause(ctx, left) != nil {
			return
		}
	}
}

// log adds lines to the spool. What finds no room is counted, and where it is
// missing a line of the platform says so: the program is never held up.
func (s *Supervisor) log(lines ...mlaas.LogLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	put := lines
	if s.gap {
		why := s.words(fmt.Sprintf("%d lines and points have been dropped so far; there is room again", s.dropped))
		put = append([]mlaas.LogLine{why}, lines...)
	}
	if err := s.lines.append(put); err == nil {
		s.gap, s.full = false, false
	} else {
		s.dropped += int64(len(lines))
		s.gap = true
		if !s.full {
			s.full = s.lines.insist(s.words("lines are dropped until there is room: "+err.Error())) == nil
		}
	}
	s.poke()
}

// tell adds a line of our own to the program's log.
func (s *Supervisor) tell(text string) { s.log(s.words(text)) }

func (s *Supervisor) words(text string) mlaas.LogLine {
	return mlaas.LogLine{Time: s.Now().UTC(), Stream: "platform", Text: text}
}

// measured adds points to the spool.
func (s *Supervisor) measured(points []mlaas.Point, lost int64) {
	err := s.points.append(points)
	if err != nil {
		lost += int64(len(points))
	}
	if lost > 0 {
		s.mu.Lock()
		s.dropped += lost
		s.gap = s.gap || err != nil
		s.mu.Unlock()
	}
	s.poke()
}

func sentence(all []string) (out string) {
	for i, s := range all {
		if i > 0 {
			out += " "
		}
		out += s
	}
	return out
}
