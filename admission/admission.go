// Package admission says of a run whether it may start, on which cluster, and
// if not, what it waits for or why it never can.
//
// It is pure: clusters and what of them is promised go in, a decision and its
// sentence come out. Contractor starts runs by it, and management says by it
// what would become of one before it is asked for, in the same words.
package admission

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"mlaas.dev/mlaas"
)

// told is how many waiting runs are told what they wait for in numbers; those
// behind them are told that they are behind.
const told = 100

// Before orders the line: higher priority first, then whoever asked first.
func Before(a, b mlaas.Run, since, sinceB mlaas.RunState) int {
	return cmp.Or(
		-cmp.Compare(a.Spec.Execution.Priority, b.Spec.Execution.Priority),
		since.Queued.Compare(sinceB.Queued),
		cmp.Compare(a.ID, b.ID))
}

// Sized is the wish of a run with the sizes that rules have given it. A role
// that is a range may be granted fewer still, down to what it accepts.
func Sized(run mlaas.Run, sizes map[string]int) mlaas.Run {
	if len(sizes) == 0 {
		return run
	}
	run.Spec.Roles = maps.Clone(run.Spec.Roles)
	for name, n := range sizes {
		r := run.Spec.Roles[name]
		if r == nil || n <= 0 {
			continue
		}
		as := *r
		as.Replicas = mlaas.Count{Min: n, Max: n}
		if r.Replicas.Min < r.Replicas.Max {
			as.Replicas.Min = min(r.Replicas.Min, n)
		}
		run.Spec.Roles[name] = &as
	}
	return run
}

// A Room is what a cluster has, as far as the line has been served.
type Room struct {
	Cluster mlaas.Cluster
	Wanted  string // of it: [mlaas.ClusterServe] and the like
	Ledger  mlaas.Ledger
	Free    mlaas.Resources // of nobody
	Left    mlaas.Resources // free, less what runs further ahead in line set aside

	aside map[string]int // by kind of GPU, where there are several: what they set aside
	first *mlaas.Run     // the first that set something aside here
}

// NewRoom is a cluster before anybody in line was looked at. It changes the
// ledger's grants no more than [Room.Grant] does.
func NewRoom(c mlaas.Cluster, wanted string, l mlaas.Ledger) *Room {
	l.Cluster = c.Name
	if l.Grants == nil {
		l.Grants = map[mlaas.RunID]mlaas.Grant{}
	}
	free := minus(c.Capacity, l.Used())
	return &Room{Cluster: c, Wanted: cmp.Or(wanted, mlaas.ClusterServe), Ledger: l, Free: free, Left: free}
}

// Grant promises ask to a run.
func (r *Room) Grant(run mlaas.Run, epoch int, ask mlaas.Resources) {
	r.Ledger.Grants[run.ID] = mlaas.Grant{Tenant: run.Tenant, Epoch: epoch, Total: ask}
	r.Free = minus(r.Free, ask)
	r.Left = minus(r.Left, ask)
}

// SetAside keeps what a waiting run needs from those behind it, wherever it
// could start.
func (d Decision) SetAside(run *mlaas.Run) {
	for _, r := range d.Could {
		r.Left = minus(r.Left, d.Ask)
		if r.first == nil {
			r.first = run
		}
	}
}

// face turns a cluster that has GPUs of several kinds to the one that a run
// asks for: what it has, and what is free and left, is of that kind from here on.
func (r *Room) face(kind string) {
	if len(r.Cluster.GPUs) == 0 {
		return
	}
	if r.aside == nil {
		r.aside = map[string]int{}
	}
	r.aside[r.Free.GPU.Kind] = r.Free.GPU.Count - r.Left.GPU.Count
	g := slices.MaxFunc(r.Cluster.GPUs, func(x, y mlaas.GPU) int { return cmp.Compare(x.Count, y.Count) })
	if i := slices.IndexFunc(r.Cluster.GPUs, func(x mlaas.GPU) bool { return strings.EqualFold(x.Kind, kind) }); i >= 0 {
		g = r.Cluster.GPUs[i]
	}
	r.Cluster.Capacity.GPU = g
	r.Free.GPU = mlaas.GPU{Count: max(g.Count-r.Ledger.UsedGPU(g.Kind), 0), Kind: g.Kind}
	r.Left.GPU = mlaas.GPU{Count: max(r.Free.GPU.Count-r.aside[g.Kind], 0), Kind: g.Kind}
}

// held is what runs hold of what the room faces: none of the GPUs of other kinds.
func (r *Room) held() mlaas.Ledger {
	if len(r.Cluster.GPUs) == 0 {
		return r.Ledger
	}
	l := r.Ledger
	l.Grants = maps.Clone(l.Grants)
	for id, g := range l.Grants {
		if k := g.Total.GPU.Kind; k != "" && !strings.EqualFold(k, r.Free.GPU.Kind) {
			g.Total.GPU = mlaas.GPU{}
			l.Grants[id] = g
		}
	}
	return l
}

// kindOf is the kind of GPU that a run names; all of its roles share it.
func kindOf(spec mlaas.JobSpec) string {
	for _, name := range mlaas.RoleOrder {
		if role := spec.Roles[name]; role != nil && role.Replicas.Max > 0 && role.GPU.Count > 0 && role.GPU.Kind != "" {
			return role.GPU.Kind
		}
	}
	return ""
}

// minus is what is left of r; what is overdrawn is nothing, not a debt.
func minus(r, o mlaas.Resources) mlaas.Resources {
	r = r.Minus(o)
	r.CPU, r.Memory, r.GPU.Count = max(r.CPU, 0), max(r.Memory, 0), max(r.GPU.Count, 0)
	return r
}

// A Decision is what becomes of a run whose turn it is.
type Decision struct {
	Place   *Room           // it starts here; nil: it waits
	Could   []*Room         // it waits for room in one of these
	Never   string          // it can never start, because
	Shut    bool            // by a rule of its job: it waits for no other cluster
	Down    *Room           // it could start here, if the cluster were up and lent anything
	Workers int             // how many it is given, at most what it asks for
	Ask     mlaas.Resources // what it needs then
}

// Allocation is what a run is given by d, of what it asks for.
func (d Decision) Allocation(spec mlaas.JobSpec) mlaas.Allocation {
	a := mlaas.Allocation{Requested: Counts(spec, 0), Granted: Counts(spec, d.Workers), Total: d.Ask}
	if d.Place != nil {
		a.Cluster = d.Place.Cluster.Name
	}
	if role := spec.Roles[mlaas.Worker]; role != nil {
		a.Requested[mlaas.Worker] = role.Replicas.Max
		if less := role.Replicas.Max - d.Workers; less > 0 {
			a.Remainder = map[string]int{mlaas.Worker: less}
		}
	}
	return a
}

// Elect decides among the clusters where a run may run at all: one that is a
// single node is none where a rule keeps a role of the run away from that node.
// A cluster of many nodes finds another of its own.
func Elect(spec mlaas.JobSpec, excluded map[string][]string, rooms []*Room) Decision {
	if len(excluded) == 0 {
		return decide(spec, rooms)
	}
	var open []*Room
	var role, node string
	for _, r := range rooms {
		shut := false
		for name, nodes := range excluded {
			if x := spec.Roles[name]; x != nil && x.Replicas.Max > 0 && r.Cluster.Node != "" && slices.Contains(nodes, r.Cluster.Node) {
				shut, role, node = true, name, r.Cluster.Node
			}
		}
		if !shut {
			open = append(open, r)
		}
	}
	if len(open) == 0 && node != "" {
		return Decision{Shut: true, Never: fmt.Sprintf("no %s may run on node %s, as a rule of its job says, and there is no other", role, node)}
	}
	return decide(spec, open)
}

// decide says whether a run may start now, and where. It is given as many
// workers as it wants, or as many as the largest cluster could hold when empty.
func decide(spec mlaas.JobSpec, rooms []*Room) Decision {
	d := Decision{Workers: -1}
	best, kind := -1, kindOf(spec)
	for _, r := range rooms {
		r.face(kind)
		n, ok := most(spec, r.Cluster.Capacity)
		switch {
		case !ok:
		case !r.Cluster.Up || r.Wanted != mlaas.ClusterServe:
			if d.Down == nil || d.Down.Wanted != mlaas.ClusterServe {
				d.Down = r
			}
		case n > best:
			best, d.Could = n, []*Room{r}
		case n == best:
			d.Could = append(d.Could, r)
		}
	}
	if len(d.Could) == 0 {
		if d.Down == nil && len(rooms) > 0 {
			d.Never = never(spec, rooms)
		}
		return d
	}
	d.Workers = best
	d.Ask = need(spec, best)
	for _, r := range d.Could {
		if d.Ask.Fits(r.Left) && (d.Place == nil || r.Left.CPU > d.Place.Left.CPU) {
			d.Place = r
		}
	}
	return d
}

// Counts is how many replicas of each role a run has with so many workers.
func Counts(spec mlaas.JobSpec, workers int) map[string]int {
	n := map[string]int{}
	for name, role := range spec.Roles {
		n[name] = role.Replicas.Max
	}
	if spec.Roles[mlaas.Worker] != nil {
		n[mlaas.Worker] = workers
	}
	return n
}

// need is what a run asks for with so many workers.
func need(spec mlaas.JobSpec, workers int) (total mlaas.Resources) {
	for name, n := range Counts(spec, workers) {
		total = total.Plus(spec.Roles[name].Need().Times(n))
	}
	return total
}

// most is with how many workers a run fits into capacity, at most what it asks
// for; ok is false where not even the fewest that it accepts do.
func most(spec mlaas.JobSpec, capacity mlaas.Resources) (workers int, ok bool) {
	for _, role := range spec.Roles {
		if role.Replicas.Max > 0 && !role.Need().Fits(capacity) {
			return 0, false // also the wrong kind of GPU
		}
	}
	var want mlaas.Count
	if w := spec.Roles[mlaas.Worker]; w != nil {
		want = w.Replicas
	}
	more := sort.Search(want.Max-want.Min+1, func(i int) bool { return !need(spec, want.Min+i).Fits(capacity) })
	return want.Min + more - 1, more > 0
}

// An amount is one thing that a cluster has and a run needs.
type amount struct {
	name string
	of   func(mlaas.Resources) int64
	text func(int64) string
}

var amounts = []amount{
	{" CPU", func(r mlaas.Resources) int64 { return int64(r.CPU) }, func(n int64) string { return decimal(float64(n) / 1000) }},
	{" memory", func(r mlaas.Resources) int64 { return int64(r.Memory) }, size},
	{" GPU", func(r mlaas.Resources) int64 { return int64(r.GPU.Count) }, func(n int64) string { return strconv.FormatInt(n, 10) }},
}

func decimal(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(v, 'f', 3, 64), "0"), ".")
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return strings.TrimSuffix(strconv.FormatFloat(float64(n)/(1<<30), 'f', 1, 64), ".0") + "Gi"
	case n >= 1<<20:
		return strings.TrimSuffix(strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64), ".0") + "Mi"
	default:
		return strconv.FormatInt(n, 10)
	}
}

// never says why no cluster can ever hold a run.
func never(spec mlaas.JobSpec, rooms []*Room) string {
	// One replica that is too large for every cluster says it shortest.
	for _, name := range mlaas.RoleOrder {
		role := spec.Roles[name]
		if role == nil || role.Replicas.Max == 0 {
			continue
		}
		if s, small := tooSmall(role.Need(), "one "+name, rooms); small {
			return s
		}
		if kind := role.Need().GPU.Kind; kind != "" && !slices.ContainsFunc(rooms, func(r *Room) bool { return role.Need().Fits(r.Cluster.Capacity) }) {
			return fmt.Sprintf("needs a GPU of kind %s for one %s; no cluster that is large enough has one", kind, name)
		}
	}
	least := 0
	if w := spec.Roles[mlaas.Worker]; w != nil {
		least = w.Replicas.Min
	}
	var who []string
	n := Counts(spec, least)
	for _, name := range mlaas.RoleOrder {
		if n[name] > 0 {
			what := name
			if n[name] > 1 && name != mlaas.PS {
				what += "s"
			}
			who = append(who, fmt.Sprintf("%d %s", n[name], what))
		}
	}
	if s, small := tooSmall(need(spec, least), list(who), rooms); small {
		return s
	}
	return "needs for " + list(who) + " more than any one cluster has"
}

// tooSmall says of which amount even the cluster that has most has too little.
func tooSmall(need mlaas.Resources, who string, rooms []*Room) (string, bool) {
	for _, a := range amounts {
		most := slices.MaxFunc(rooms, func(x, y *Room) int { return cmp.Compare(a.of(x.Cluster.Capacity), a.of(y.Cluster.Capacity)) })
		if a.of(need) <= a.of(most.Cluster.Capacity) {
			continue
		}
		return fmt.Sprintf("needs %s%s for %s; the largest cluster, %s, has %s", a.text(a.of(need)), a.name, who, most.Cluster.Name, a.text(a.of(most.Cluster.Capacity))), true
	}
	return "", false
}

// A Holder is a run that has what another waits for, for those who may know.
type Holder struct {
	Run  mlaas.Run
	Ends string // when it does: "ends unknown"
}

// Waits says what a run waits for: what is short with numbers, who holds it,
// and where it stands in line. who says of a run of the same team what it is.
func (d Decision) Waits(run mlaas.Run, attempts []mlaas.Attempt, position int, who func(mlaas.RunID) (Holder, error)) (string, error) {
	if position > told {
		return fmt.Sprintf("queued behind more than %d runs", told), nil
	}
	head := fmt.Sprintf("queued, position %d", position)
	if n := len(attempts); n > 0 {
		head += fmt.Sprintf(" (attempt %d, because %s)", n+1, attempts[n-1].Reason)
	}
	if len(d.Could) == 0 {
		switch {
		case d.Never != "":
			return head + ": " + d.Never, nil
		case d.Down == nil:
			return head + ": no cluster is connected", nil
		case d.Down.Wanted == mlaas.ClusterDrain:
			return fmt.Sprintf("%s: cluster %s, which could hold it, is drained: `mlaas cluster resume %s` ends that", head, d.Down.Cluster.Name, d.Down.Cluster.Name), nil
		case d.Down.Wanted == mlaas.ClusterGone:
			return fmt.Sprintf("%s: cluster %s, which could hold it, is being removed", head, d.Down.Cluster.Name), nil
		}
		return head + ": " + down(d.Down.Cluster), nil
	}
	r := slices.MaxFunc(d.Could, func(x, y *Room) int { return cmp.Compare(x.Free.CPU, y.Free.CPU) })
	var lack []string
	var first *amount
	for _, a := range amounts {
		if need, free := a.of(d.Ask), a.of(r.Free); need > free {
			lack = append(lack, fmt.Sprintf("%s%s (%s free of %s)", a.text(need), a.name, a.text(free), a.text(a.of(r.Cluster.Capacity))))
			if first == nil {
				first = &a
			}
		}
	}
	if first == nil {
		ahead := "a run of another team"
		if r.first != nil && r.first.Tenant == run.Tenant {
			ahead = name(*r.first)
		}
		return fmt.Sprintf("%s: needs %s CPU, which %s before it waits for", head, amounts[0].text(int64(d.Ask.CPU)), ahead), nil
	}
	text := head + ": needs " + strings.Join(lack, " and ")
	if len(d.Could) > 1 {
		text += " on " + r.Cluster.Name
	}
	holders, err := holders(run.Tenant, r.held(), *first, who)
	return text + holders, err
}

// HolderOf is how a run is told of that has what another waits for.
func HolderOf(run mlaas.Run, st mlaas.RunState) Holder {
	h := Holder{Run: run, Ends: "ends unknown"}
	switch {
	case st.State == mlaas.Stopping || st.State == mlaas.Queued:
		h.Ends = "is ending"
	case st.State == mlaas.Running && run.Spec.Execution.Timeout > 0:
		h.Ends = "ends by " + st.Next.UTC().Format("Jan 2 15:04") + " UTC at the latest"
	}
	return h
}

// holders names up to three runs that hold most of what is short.
func holders(tenant mlaas.Tenant, ledger mlaas.Ledger, a amount, who func(mlaas.RunID) (Holder, error)) (string, error) {
	ids := slices.SortedFunc(maps.Keys(ledger.Grants), func(x, y mlaas.RunID) int {
		return cmp.Or(-cmp.Compare(a.of(ledger.Grants[x].Total), a.of(ledger.Grants[y].Total)), cmp.Compare(x, y))
	})
	ids = slices.DeleteFunc(ids, func(id mlaas.RunID) bool { return a.of(ledger.Grants[id].Total) == 0 })
	var b strings.Builder
	for i, id := range ids {
		if i == 3 {
			fmt.Fprintf(&b, "; and %d more", len(ids)-3)
			break
		}
		g := ledger.Grants[id]
		whose, ends := "a run of another team", "ends unknown"
		if g.Tenant == tenant {
			h, err := who(id)
			if err != nil {
				return "", err
			}
			whose, ends = name(h.Run), h.Ends
		}
		fmt.Fprintf(&b, "; %s holds %s, %s", whose, a.text(a.of(g.Total)), ends)
	}
	return b.String(), nil
}

// name is what people call a run.
func name(run mlaas.Run) string { return fmt.Sprintf("%s/%d", run.JobName, run.Number) }

func down(c mlaas.Cluster) string {
	what := fmt.Sprintf("cluster %s, which could hold it, is down", c.Name)
	if c.Reason == "" || strings.Contains(what, c.Reason) {
		return what
	}
	return what + ": " + c.Reason
}

func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
