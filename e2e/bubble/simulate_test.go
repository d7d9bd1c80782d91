package bubble_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

var (
	seeds = flag.Uint64("seeds", 20, "how many lives of a platform TestSimulate plays")
	seed  = flag.Uint64("seed", 0, "the one that it plays, or the first")
)

// A tale is what a seed says will happen.
type tale struct {
	runs   []*wish
	events []event
}

// A wish is a run with what becomes of it, whatever happens to the platform.
type wish struct {
	id   mlaas.RunID
	spec string
	want mlaas.State
	part func(w *world, f mlaas.Fence) scripted.Script
}

// An event happens at a time.
type event struct {
	at   time.Duration
	what string
	do   func(w *world)
}

// storm is how long things go wrong. Then every run must come to its end.
const storm = 5 * time.Minute

// tell makes the tale of a seed: all of it follows from the seed alone. What
// does not follow is in which order goroutines run that are ready at the same
// moment, and with that which call meets which throw of its process's dice.
func tell(seed uint64, from []wish, amid []trouble) *tale {
	dice := rand.New(rand.NewPCG(seed, 0))
	t := &tale{}
	within := func(d time.Duration) time.Duration { return time.Duration(dice.Int64N(int64(d))) }
	for i := range 4 + dice.IntN(4) {
		r := from[dice.IntN(len(from))]
		r.id = mlaas.RunID(fmt.Sprintf("run%d", i))
		t.runs = append(t.runs, &r)
		at := within(storm / 2)
		t.add(at, "asked for: "+string(r.id)+" "+r.spec, func(w *world) {
			w.ask(r.id, r.spec, func(f mlaas.Fence) scripted.Script { return r.part(w, f) })
		})
		if r.want == mlaas.Stopped {
			t.add(at+within([]time.Duration{10 * time.Second, storm}[dice.IntN(2)]), "stop of "+string(r.id), func(w *world) { w.stop(r.id) })
		}
	}
	for at := within(20 * time.Second); at < storm && len(amid) > 0; at += within(12 * time.Second) {
		t.trouble(dice, at, amid[dice.IntN(len(amid))])
	}
	slices.SortStableFunc(t.events, func(a, b event) int { return int(a.at - b.at) })
	return t
}

func (t *tale) add(at time.Duration, what string, do func(w *world)) {
	t.events = append(t.events, event{at, what, do})
}

// A trouble is a kind of what goes wrong.
type trouble int

const (
	killed    trouble = iota // a process, and it comes back
	ended                    // the same, politely
	stopped                  // by SIGSTOP, and it wakes up late
	cutOff                   // off the store
	unheard                  // the store does not hear it, or its answer gets lost
	hangs                    // what it says to the store comes late, and meanwhile replicas die
	slow                     // the store
	storeAway                // for all
	placeAway                // a cluster: its API, its replicas or both
	death                    // of a replica
	deaths                   // of all in a cluster
	clock                    // of a process: off by minutes, or an hour
	messages                 // twice, late or never
	breaks                   // what is appended, asked and watched
)

// troubles is every trouble, as often as it comes.
var troubles = []trouble{killed, killed, killed, ended, stopped, stopped, cutOff, cutOff, unheard, hangs, hangs, slow, storeAway, placeAway, placeAway, death, deaths, clock, messages, breaks}

// trouble adds something that goes wrong, and when it is over.
func (t *tale) trouble(dice *rand.Rand, at time.Duration, what trouble) {
	within := func(d time.Duration) time.Duration { return time.Duration(dice.Int64N(int64(d))) }
	who := []string{"contractor1", "contractor2", "booster1", "booster2"}[dice.IntN(4)]
	where := dice.IntN(3)
	name := []string{"east", "west", "north"}[where]
	one := func(f func(s *server)) func(*world) { return func(w *world) { f(w.server(who)) } }
	through := func(f func(g *gate)) func(*world) {
		return one(func(s *server) {
			if s.up() {
				f(s.gate)
			}
		})
	}
	set := func(api, net road) func(*world) { return func(w *world) { w.spots[where].set(api, net) } }
	span := func(d time.Duration, what string, begin, end func(*world)) {
		d = time.Second + within(d)
		t.add(at, fmt.Sprintf("%s for %.1fs", what, d.Seconds()), begin)
		t.add(at+d, "over: "+what, end)
	}
	dies := func(at time.Duration) {
		n := dice.IntN(1000)
		t.add(at, "a replica dies", func(w *world) {
			if all := w.alive(nil); len(all) > 0 {
				f := all[n%len(all)]
				w.note("%s dies", f)
				w.stage[f].End(f, 137)
			}
		})
	}
	start := one((*server).start)
	switch what {
	case killed:
		span(time.Minute, who+" is killed", one((*server).kill), start)
	case ended:
		span(30*time.Second, who+" is ended politely", one((*server).term), start)
	case stopped:
		span(90*time.Second, who+" is stopped", through((*gate).stop), through((*gate).goOn))
	case cutOff:
		span(90*time.Second, who+" is cut off the store", through(func(g *gate) { g.cut.Store(true); g.drop() }), through(func(g *gate) { g.cut.Store(false) }))
	case unheard:
		fail, lose := dice.Int64N(150), dice.Int64N(150)
		span(time.Minute, fmt.Sprintf("the store does not hear %d‰ of what %s says, and loses %d‰ of the answers", fail, who, lose),
			through(func(g *gate) { g.fail.Store(fail); g.lose.Store(lose) }), through(func(g *gate) { g.fail.Store(0); g.lose.Store(0) }))
	case hangs:
		hang := 20 + dice.Int64N(100)
		span(2*time.Minute, fmt.Sprintf("%d‰ of what %s says to the store hangs on its way", hang, who),
			through(func(g *gate) { g.hang.Store(hang) }), through(func(g *gate) { g.hang.Store(0) }))
		for range 2 {
			dies(at + within(time.Minute))
		}
	case slow:
		late := within(3 * time.Second)
		span(time.Minute, fmt.Sprintf("the store takes up to %s for %s", late, who),
			through(func(g *gate) { g.slow.Store(int64(late)) }), through(func(g *gate) { g.slow.Store(0) }))
	case storeAway:
		cut := func(on bool) func(w *world) {
			return func(w *world) {
				for _, s := range w.all {
					if s.up() {
						s.gate.cut.Store(on)
						s.gate.drop()
					}
				}
			}
		}
		span(20*time.Second, "the store is away", cut(true), cut(false))
	case placeAway:
		roads := [][2]road{{refused, refused}, {silent, silent}, {refused, open}, {silent, open}, {open, refused}}[dice.IntN(5)]
		span(150*time.Second, fmt.Sprintf("%s: API %s, replicas %s", name, roads[0], roads[1]), set(roads[0], roads[1]), set(open, open))
	case death:
		dies(at)
	case deaths:
		t.add(at, "all replicas of "+name+" die", func(w *world) {
			for _, f := range w.alive(w.spots[where]) {
				w.spots[where].End(f, 137)
			}
		})
	case clock:
		skew := within(20*time.Minute) - 10*time.Minute
		if dice.IntN(2) == 0 {
			skew = []time.Duration{time.Hour, -time.Hour}[dice.IntN(2)]
		}
		t.add(at, fmt.Sprintf("the clock of %s is off by %s", who, skew), one(func(s *server) { s.skew.Store(int64(skew)) }))
	case messages:
		sky := sky{twice: dice.IntN(400), late: dice.IntN(400), never: dice.IntN(100)}
		set := func(to *skyAt) func(*world) {
			return func(w *world) { w.mu.Lock(); w.sky = to.sky; w.mu.Unlock() }
		}
		span(2*time.Minute, fmt.Sprintf("messages: %+v", sky), set(&skyAt{sky}), set(&skyAt{}))
	case breaks:
		spoil, flaky := dice.Int64N(500), dice.Int64N(300)
		set := func(spoil, flaky int64) func(*world) {
			return func(w *world) {
				w.book.spoil.Store(spoil)
				s := w.spots[where]
				s.mu.Lock()
				s.flaky = flaky
				s.mu.Unlock()
			}
		}
		span(time.Minute, fmt.Sprintf("%d‰ of appends fail, and %d‰ of what %s is asked", spoil, flaky, name), set(spoil, flaky), set(0, 0))
		t.add(at+within(time.Minute), "what "+who+" watches breaks", through((*gate).drop))
	}
}

type skyAt struct{ sky sky }

func (r road) String() string { return [...]string{"open", "refuses", "silent"}[r] }

func (w *world) server(name string) *server {
	return w.all[slices.IndexFunc(w.all, func(s *server) bool { return s.name == name })]
}

// alive lists the replicas that run, of one place or of all, oldest first.
func (w *world) alive(at *spot) (all []mlaas.Fence) {
	running := map[string]bool{}
	for _, s := range w.spots {
		for _, name := range s.Running() {
			running[name] = true
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.living {
		if running[f.String()] && (at == nil || w.stage[f] == at) {
			all = append(all, f)
		}
	}
	return all
}

// heal ends all that goes wrong. Clocks stay as they are: nothing may depend
// on them.
func (w *world) heal() {
	w.mu.Lock()
	w.sky = sky{}
	w.mu.Unlock()
	w.book.spoil.Store(0)
	for _, s := range w.spots {
		s.set(open, open)
		s.mu.Lock()
		s.flaky = 0
		s.mu.Unlock()
	}
	for _, s := range w.all {
		s.start()
		s.gate.cut.Store(false)
		s.gate.fail.Store(0)
		s.gate.lose.Store(0)
		s.gate.slow.Store(0)
		s.gate.hang.Store(0)
		s.gate.goOn()
	}
}

// infra is a budget of losses that nothing here uses up.
const infra = `"restarts": {"infrastructure": 1000%s}`

func spec(roles, restarts, more string) string {
	return fmt.Sprintf(`{"roles": {%s}, "execution": {%s%s}}`, roles, fmt.Sprintf(infra, restarts), more)
}

// by makes something that differs from replica to replica, the same whenever
// it is asked.
func (w *world) by(f mlaas.Fence) *rand.Rand {
	return rand.New(rand.NewPCG(w.book.seed, hash(f.String())))
}

// works is a program of so many steps.
func works(w *world, f mlaas.Fence) scripted.Script {
	dice, run := w.by(f), rand.New(rand.NewPCG(w.book.seed, hash(string(f.Run))))
	steps, every := 5+run.Int64N(30), time.Duration(1+run.IntN(6))*time.Second
	if strings.HasPrefix(f.Replica, mlaas.PS) || strings.HasPrefix(f.Replica, mlaas.Evaluator) {
		return scripted.Script{Slow: time.Duration(dice.IntN(5)) * time.Second, Zombie: dice.IntN(40) == 0}
	}
	return scripted.Script{Slow: time.Duration(dice.IntN(10)) * time.Second, Prepare: time.Duration(dice.IntN(10)) * time.Second,
		Steps: steps, Every: every, Save: 1 + run.Int64N(3), Leave: time.Duration(dice.IntN(8)) * time.Second, Deaf: dice.IntN(10) == 0, Zombie: dice.IntN(40) == 0}
}

// reached reports whether any program of the run was at a step.
func (w *world) reached(run mlaas.RunID, step int64) bool { // the caller holds mu
	for f, lines := range w.said {
		if f.Run == run && slices.Contains(lines, fmt.Sprintf("%s step %d", f, step)) {
			return true
		}
	}
	return false
}

var wishes = []wish{
	{want: mlaas.Succeeded, spec: spec(`"worker": {"replicas": 1}`, "", ""), part: works},
	{want: mlaas.Succeeded, spec: spec(`"worker": {"replicas": 3}`, "", ""), part: works},
	{want: mlaas.Succeeded, spec: spec(`"ps": {"replicas": 1}, "worker": {"replicas": 2}`, "", ""), part: works},
	{want: mlaas.Succeeded, spec: spec(`"chief": {"replicas": 1}, "worker": {"replicas": 2, "cpu": 2}, "evaluator": {"replicas": 1}`, "", `, "priority": 1, "grace": 5`), part: works},
	{want: mlaas.Succeeded, spec: spec(`"worker": {"replicas": 2, "cpu": 3}`, "", ""), part: works}, // in the north alone

	{want: mlaas.Failed, spec: spec(`"worker": {"replicas": 2}`, "", ""), part: func(w *world, f mlaas.Fence) scripted.Script {
		s := works(w, f)
		s.FailAt, s.Exit, s.OOM = s.Steps, 3, f.Replica == "worker-1"
		return s
	}},
	{want: mlaas.Succeeded, spec: spec(`"worker": {"replicas": 2}`, `, "user": 1`, ""), part: func(w *world, f mlaas.Fence) scripted.Script {
		s := works(w, f)
		if f.Replica == "worker-0" && !w.reached(f.Run, 4) {
			s.FailAt = 4
		}
		return s
	}},
	{want: mlaas.Failed, spec: spec(`"ps": {"replicas": 1}, "worker": {"replicas": 1}`, `, "user": 2`, ""), part: func(w *world, f mlaas.Fence) scripted.Script {
		s := works(w, f)
		if strings.HasPrefix(f.Replica, mlaas.Worker) {
			s.Refuse = "there is no package tensorflwo"
		}
		return s
	}},
	{want: mlaas.Failed, spec: spec(`"worker": {"replicas": 2}`, "", ""), part: func(_ *world, f mlaas.Fence) scripted.Script {
		return scripted.Script{Broken: "there is no such image"}
	}},
	{want: mlaas.Failed, spec: spec(`"worker": {"cpu": 9}`, "", ""), part: works},
	{want: mlaas.Stopped, spec: spec(`"ps": {"replicas": 1}, "worker": {"replicas": 1}`, "", `, "grace": 7`), part: func(w *world, f mlaas.Fence) scripted.Script {
		s := works(w, f)
		if s.Steps > 0 {
			s.Steps = 1 << 40
		}
		return s
	}},
}

// live plays the tale of a seed and answers what went wrong, with the trace.
func live(t *testing.T, seed uint64, from []wish, amid []trouble, broken breakage) (wrong, trace []string) {
	synctest.Test(t, func(t *testing.T) {
		story := tell(seed, from, amid)
		w, end := newWorld(t, broken)
		defer end()
		w.book.seed = seed
		for _, name := range []string{"contractor1", "contractor2"} {
			w.contract(name)
		}
		for _, name := range []string{"booster1", "booster2"} {
			w.boost(name)
		}
		time.Sleep(15 * time.Second) // until every cluster is known
		began := time.Now()
		for _, e := range story.events {
			time.Sleep(time.Until(began.Add(e.at)))
			w.note("%s", e.what)
			e.do(w)
		}
		w.note("from now on nothing goes wrong")
		w.heal()
		for range 3 * 60 {
			if over, _ := w.book.over(); over {
				break
			}
			time.Sleep(time.Minute)
		}
		if over, text := w.book.over(); !over {
			w.fault("runs never end:\n%s", text)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		w.ends(story)
		w.mu.Lock()
		wrong, trace = slices.Clone(w.wrong), slices.Clone(w.trace)
		w.mu.Unlock()
	})
	return wrong, trace
}

// ends checks what must be when all is over.
func (w *world) ends(story *tale) {
	for _, r := range story.runs {
		s, replicas := w.book.of(r.id)
		if s.State != r.want {
			w.fault("%s is %s, want %s: %s", r.id, s.State, r.want, s.Reason)
		}
		w.heard(r.id, s, replicas)
	}
	for _, s := range w.spots {
		if l := w.book.ledgers[s.name]; len(l.Grants) > 0 {
			w.fault("the ledger of %s still holds %v", s.name, slices.Collect(maps.Keys(l.Grants)))
		}
	}
	for _, f := range w.alive(nil) {
		if !w.parts[f.Run](f).Zombie { // which no place can end
			w.fault("%s still runs on %s", f, w.stage[f].name)
		}
	}
	stats, err := w.book.Stats(w.ctx)
	w.must(err)
	if stats.Parked > 0 || stats.Waiting > 0 {
		parked, _ := w.book.Parked(w.ctx)
		w.fault("%d messages are parked and %d wait: %+v", stats.Parked, stats.Waiting, parked)
	}
}

// heard checks what is kept of what the programs of a run said: each line
// once, in order, without a gap, and of a program that told of its end all.
func (w *world) heard(id mlaas.RunID, s mlaas.RunState, replicas map[string]mlaas.Replica) {
	cursor, epoch := int64(0), 0
	heard := map[mlaas.Fence][]string{}
	for from := int64(1); ; {
		lines, err := w.series.Lines(context.Background(), series.LineQuery{Tenant: mlaas.DefaultTenant, Run: id, From: from, Limit: 10_000})
		w.must(err)
		for _, l := range lines {
			if cursor++; l.Cursor != cursor {
				w.fault("line %d of %s comes after line %d", l.Cursor, id, cursor-1)
				cursor = l.Cursor
			}
			if l.Attempt < epoch {
				w.fault("line %d of %s is of attempt %d and comes after one of attempt %d", l.Cursor, id, l.Attempt, epoch)
			}
			epoch = max(epoch, l.Attempt)
			f := mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: id, Epoch: l.Attempt, Replica: l.Replica, Incarnation: 1}
			if l.Stream == mlaas.ContainerStream {
				if len(w.said[f]) > 0 {
					w.fault("the log of the container of %s is kept, and its program said %q", f, w.said[f])
				}
				continue
			}
			heard[f] = append(heard[f], l.Text)
		}
		if from = cursor + 1; len(lines) == 0 {
			break
		}
	}
	for f, lines := range heard {
		if said := w.said[f]; len(lines) > len(said) || !slices.Equal(lines, said[:len(lines)]) {
			w.fault("of %s there is %q, and it said %q", f, lines, said)
		}
	}
	for _, r := range replicas {
		if told := r.Status == mlaas.ReplicaSucceeded || r.Status == mlaas.ReplicaFailed && r.Program; told && len(heard[r.Fence]) != len(w.said[r.Fence]) {
			w.fault("%s is %s and said %d lines, of which there are %d", r.Fence, r.Status, len(w.said[r.Fence]), len(heard[r.Fence]))
		}
	}
	_ = s
}

// TestSimulate plays lives of a platform in which everything goes wrong that
// may, and asks that every run ends as its script says and that nothing is
// ever done twice, promised twice or lost. "-seed 7 -seeds 1" repeats one.
func TestSimulate(t *testing.T) {
	first := *seed
	if first == 0 {
		first = 1
	}
	for i := range *seeds {
		seed := first + i
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			t.Parallel()
			if wrong, trace := live(t, seed, wishes, troubles, nil); len(wrong) > 0 {
				t.Errorf("%s\n\nThe trace:\n%s\n\nRepeat it with   go test ./e2e/bubble -run TestSimulate -seed %d -seeds 1",
					strings.Join(wrong, "\n"), strings.Join(trace, "\n"), seed)
			}
		})
	}
}

// without is a batch that does not check what it has of a kind.
func without(b store.Batch, kind string) []store.Batch {
	b.Check = slices.DeleteFunc(slices.Clone(b.Check), func(r store.Row) bool { return r.Key.Kind == kind })
	return []store.Batch{b}
}

// over is a batch that writes over what it finds of a kind, whatever it read.
func over(db store.Driver, b store.Batch, kind string) []store.Batch {
	b.Put = slices.Clone(b.Put)
	for i, row := range b.Put {
		if row.Key.Kind == kind {
			now, _ := db.Get(context.Background(), row.Key)
			b.Put[i].Rev = now.Rev
		}
	}
	return []store.Batch{b}
}

func writes(b store.Batch, kind string) bool {
	return slices.ContainsFunc(b.Put, func(r store.Row) bool { return r.Key.Kind == kind })
}

// TestSimulateFinds breaks the platform, one thing at a time, and asks that the
// simulation sees it: a check that cannot fail shows nothing.
func TestSimulateFinds(t *testing.T) {
	if racing {
		t.Skip("hundreds of lives, of code that TestSimulate shows to the race detector")
	}
	const within = 150 // seeds
	for _, tt := range []struct {
		name  string
		wrong string // what it is seen by
		runs  []wish
		amid  []trouble
		build breakage
	}{
		{"nobody checks a lease", "which .* serves|but .* places", wishes, troubles, func(_ store.Driver, b store.Batch) []store.Batch { return without(b, "lease") }},
		{"a checkpoint does not check the epoch", "a checkpoint of attempt .* is accepted", wishes[1:4], []trouble{hangs, hangs, death}, func(_ store.Driver, b store.Batch) []store.Batch {
			if !writes(b, "checkpoint") {
				return []store.Batch{b}
			}
			return without(b, "runstate")
		}},
		{"replicas are recorded without a check of their run", "begins on .* in attempt|begins, and its run is", wishes[len(wishes)-1:], []trouble{hangs, hangs, death}, func(_ store.Driver, b store.Batch) []store.Batch {
			if !writes(b, "replica") {
				return []store.Batch{b}
			}
			return without(b, "runstate")
		}},
		{"an acknowledgement before the commit", "is acknowledged, and", wishes, troubles, func(_ store.Driver, b store.Batch) []store.Batch {
			if b.Ack == nil {
				return []store.Batch{b}
			}
			ack := store.Batch{Ack: b.Ack}
			b.Ack = nil
			return []store.Batch{ack, b}
		}},
		{"a ledger is written over", "are promised of|holds something of|in the ledger", wishes[1:4], []trouble{hangs, hangs, death}, func(db store.Driver, b store.Batch) []store.Batch { return over(db, b, "ledger") }},
		{"the state of a run is written over", "it was over as|it was in attempt|does not follow", wishes[len(wishes)-1:], []trouble{hangs, hangs, death}, func(db store.Driver, b store.Batch) []store.Batch { return over(db, b, "runstate") }},
		{"a replica is written over", "comes after attempt|was .* and is", wishes, []trouble{hangs, slow, death, killed}, func(db store.Driver, b store.Batch) []store.Batch { return over(db, b, "replica") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seen := regexp.MustCompile(tt.wrong)
			for i := range uint64(within) {
				wrong, _ := live(t, 1+i, tt.runs, tt.amid, tt.build)
				if n := slices.IndexFunc(wrong, seen.MatchString); n >= 0 {
					t.Logf("seed %d sees it: %s", 1+i, wrong[n])
					return
				}
			}
			t.Errorf("%d seeds do not see it", within)
		})
	}
}
