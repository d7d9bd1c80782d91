// Command torture breaks the platform in every way that it is said to survive,
// while clients use it, and compares what was acknowledged with what is there.
//
// It drives real binaries through the public API only, in each layout: one
// process, three, and two of each over Redis and S3. Every acknowledgement goes
// to a ledger of its own, on disk. The table says for each fault how many
// things were acknowledged, found, lost, duplicated and illegal; it ends with 1
// unless the last three are 0.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"mlaas.dev/mlaas/e2e/layout"
)

func main() {
	t := torture{done: map[string]bool{}}
	layouts := flag.String("layouts", strings.Join(layout.Kinds, ","), "which, in this order")
	only := flag.String("only", "", "faults whose name contains this")
	flag.StringVar(&t.binary, "bin", "bin/mlaas", "the mlaas binary")
	flag.StringVar(&t.failpoints, "failpoints", "bin/mlaas-failpoints", "the same, built with -tags failpoints")
	flag.StringVar(&t.s3, "s3", "bin/versitygw", "the S3 server of the layouts that need one")
	flag.Float64Var(&t.minutes, "minutes", 60, "for all layouts together; each fault comes once in each, however long that takes")
	short := flag.Bool("short", false, "each fault at least once, and what was acknowledged compared at the end of each layout: some 8 minutes")
	flag.Uint64Var(&t.seed, "seed", uint64(time.Now().UnixNano()), "of what is chosen at random")
	flag.Parse()
	t.short = *short
	if t.short {
		t.minutes = 0
	}
	t.layouts, t.only = strings.Split(*layouts, ","), *only

	// Once: a second Ctrl+C ends it at once, and leaves what it leaves.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	fmt.Printf("seed %d\n", t.seed)
	if err := t.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "torture:", err)
		os.Exit(1)
	}
}

type torture struct {
	binary, failpoints, s3 string
	layouts                []string
	only                   string
	minutes                float64
	seed                   uint64
	short                  bool
	points                 []string        // all failpoints, where the source is there
	done                   map[string]bool // faults that were tried, in whichever layout
}

// whole reports whether each fault is tried in each layout where it can be.
func (t *torture) whole() bool {
	return strings.Contains((&Points{}).Name(), t.only) && !slices.ContainsFunc(layout.Kinds, func(kind string) bool { return !slices.Contains(t.layouts, kind) })
}

// faults are all of them, in the order in which they come.
func (t *torture) faults() []Fault {
	// First: with little there yet, the processes come to their points soon.
	all := []Fault{&Points{Source: t.points}}
	for _, kind := range []string{"platform", "management", "contractor", "booster", "store", "replica", "blob"} {
		all = append(all, &Kill{Kind: kind}, &Pause{Kind: kind})
		if slices.Contains([]string{"platform", "management", "contractor", "booster"}, kind) {
			all = append(all, &Drain{Kind: kind})
		}
	}
	all = append(all, KillAll{}, PowerLoss{}, DiskFull{}, &SyncFails{})
	all = append(append(all, bads()...), partitions()...)
	return append(all, &Failover{}, &Disorder{}, &Flip{Copies: t.copies()})
}

// copies is how many bits are flipped, each in a copy of its own.
func (t *torture) copies() int {
	if t.short {
		return 1
	}
	return 4
}

func (t *torture) run(ctx context.Context) error {
	began := time.Now()
	var err error
	if t.points, err = pointsOf("."); err != nil {
		return err
	}
	var errs []error
	var rows []*Row
	var stages []*Stage
	for i, kind := range t.layouts {
		// What is left of the time is shared by the layouts that are left.
		left := time.Duration(t.minutes*float64(time.Minute)) - time.Since(began)
		s := &Stage{Kind: kind, Binary: t.binary, Failpoints: t.failpoints, S3: t.s3, Short: t.short, Known: known(stages),
			Random: rand.New(rand.NewPCG(t.seed, uint64(slices.Index(layout.Kinds, kind))))}
		err := t.perform(ctx, s, time.Now().Add(left/time.Duration(len(t.layouts)-i)))
		bad := slices.ContainsFunc(s.rows, func(r *Row) bool { return !r.Tally.clean() })
		if err != nil || bad {
			t.explain(s)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("layout %s: %w", kind, err))
		}
		if err := s.close(); err != nil {
			errs = append(errs, fmt.Errorf("layout %s, at its end: %w", kind, err))
		}
		rows, stages = append(rows, s.rows...), append(stages, s)
		if ctx.Err() != nil {
			break
		}
	}
	crashes(stages)
	if never := missed(t.points, stages); t.whole() && ctx.Err() == nil && len(never) > 0 {
		err := fmt.Errorf("no process was crashed at %s", strings.Join(never, ", "))
		if t.short { // which has no time to wait for what comes seldom
			fmt.Printf("\n%v\n", err)
		} else {
			errs = append(errs, err)
		}
	}
	if !table(rows) {
		errs = append(errs, errors.New("what was acknowledged is not what is there"))
	}
	fmt.Printf("seed %d, %.0f s\n", t.seed, time.Since(began).Seconds())
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("with seed %d: %w", t.seed, errors.Join(errs...))
}

// perform suffers every fault once, and then faults at random until the time
// is over.
func (t *torture) perform(ctx context.Context, s *Stage, until time.Time) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	var fit []Fault
	for _, f := range t.faults() {
		if !strings.Contains(f.Name(), t.only) {
			continue
		}
		switch err := f.Fits(s); {
		case errors.Is(err, errElsewhere), t.short && t.done[f.Name()] && !everywhere(f, s):
		case err != nil:
			fmt.Printf("%-12s %-52s cannot here: %v\n", s.Kind, f.Name(), err)
			if os.Getenv("CI") == "true" {
				return fmt.Errorf("%s cannot be done here: %w", f.Name(), err)
			}
		default:
			fit = append(fit, f)
			t.done[f.Name()] = true
		}
	}
	for i := 0; len(fit) > 0 && (i < len(fit) || time.Now().Before(until)); i++ {
		f := fit[i%len(fit)]
		if i >= len(fit) {
			f = fit[s.Random.IntN(len(fit))]
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		began := time.Now()
		if err := s.suffer(ctx, f); err != nil {
			return err
		}
		r := s.row(f.Name())
		fmt.Printf("%-12s %-52s #%-3d %5.1f s, back after %4.1f s; %d acknowledged in all, %d wrong here\n", s.Kind, f.Name(), r.Times,
			time.Since(began).Seconds(), r.Back.Seconds(), s.ledger.len(), r.Tally.Lost+r.Tally.Duplicated+r.Tally.Illegal)
	}
	if s.Short {
		s.reckon(ctx)
	}
	return s.again(ctx)
}

// everywhere reports whether a fault is tried in each layout even where time is
// short: those of which each layout has an answer of its own.
func everywhere(f Fault, s *Stage) bool {
	switch f.(type) {
	case *Kill, KillAll, PowerLoss:
		return true
	case *Points:
		return s.Kind != layout.TwoOfEach // it has the drivers of Three
	}
	return false
}

// explain shows what is needed to find out why.
func (t *torture) explain(s *Stage) {
	fmt.Fprintf(os.Stderr, "--- layout %s, seed %d: the end of what its processes wrote\n", s.Kind, t.seed)
	os.Stderr.Write(s.log.last(16_000))
	fmt.Fprintf(os.Stderr, "--- layout %s, seed %d: what was done to it\n%s\n", s.Kind, t.seed, strings.Join(s.trace, "\n"))
}

// known are the failpoints that one of the stages was crashed at; but each has a
// store of its own behind the same names.
func known(stages []*Stage) map[string]bool {
	names := map[string]bool{}
	for _, s := range stages {
		for point := range s.points {
			if _, name, _ := strings.Cut(point, " "); !strings.HasPrefix(name, "store.") {
				names[name] = true
			}
		}
	}
	return names
}

// crashes lists the failpoints that were crashed at.
func crashes(stages []*Stage) {
	for _, s := range stages {
		if len(s.points) == 0 {
			continue
		}
		fmt.Printf("\n%s: crashed at %d failpoints\n", s.Kind, len(s.points))
		for _, point := range slices.Sorted(maps.Keys(s.points)) {
			fmt.Printf("  %-50s %d\n", point, s.points[point])
		}
	}
}

// missed are the failpoints of the source that no layout was crashed at.
func missed(source []string, stages []*Stage) []string {
	crashed := map[string]bool{}
	for _, s := range stages {
		for point := range s.points {
			_, name, _ := strings.Cut(point, " ")
			crashed[name] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(source), func(name string) bool { return crashed[name] })
}

// table prints a row for each fault, and reports whether nothing is wrong.
func table(rows []*Row) bool {
	clean := true
	fmt.Printf("\n%-12s %-52s %6s %13s %8s %6s %11s %8s %6s %9s %11s\n", "layout", "fault", "times", "acknowledged", "found", "lost", "duplicated", "illegal", "told", "back, s", "linearized")
	for _, r := range rows {
		t := &r.Tally
		fmt.Printf("%-12s %-52s %6d %13d %8d %6d %11d %8d %6d %9.1f %11d\n", r.Layout, r.Fault, r.Times, t.Acknowledged, t.Found, t.Lost, t.Duplicated, t.Illegal, t.Told, r.Back.Seconds(), r.Operations)
		clean = clean && t.clean()
	}
	for _, r := range rows {
		for _, f := range r.Tally.First {
			fmt.Printf("  %s, %s: %s\n", r.Layout, r.Fault, f)
		}
	}
	return clean
}
