package management

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/internal/kubeconfig"
	"mlaas.dev/mlaas/store"
)

// Clusters are records of two hands: management writes what is wanted of one
// (a ClusterSpec, and sealed beside it how it is reached), booster writes how it
// does (a Cluster). How it is reached is write-only.

// A ClusterView is a place to run replicas: what is wanted of it, how it does,
// and what of it is promised.
type ClusterView struct {
	mlaas.Cluster
	Wanted   string              `json:"wanted" doc:"serve: runs are placed on it; drain: what runs there goes on, nothing new begins; gone: what runs there moves elsewhere, then it is forgotten"`
	Door     string              `json:"door,omitempty" doc:"URL by which its replicas reach the platform"`
	Server   string              `json:"server,omitempty" doc:"URL of its API server"`
	Kube     *mlaas.KubeSettings `json:"kube,omitempty" doc:"What a Kubernetes cluster lends, and how"`
	Declared bool                `json:"declared,omitempty" doc:"It is in the file of clusters that the platform was started with, and is changed there"`
	Created  *time.Time          `json:"created,omitempty"`
	Changed  *time.Time          `json:"changed,omitempty" doc:"When how it is reached or what it lends was changed last; once its own of is as late, what it says is of that"`
	Used     mlaas.Resources     `json:"used" doc:"What is promised to runs"`
	Free     mlaas.Resources     `json:"free"`
	UsedGPUs []mlaas.GPU         `json:"usedGpus,omitempty" doc:"What of gpus is promised to runs, in the same order; a GPU of no kind counts for each"`
	Runs     int                 `json:"runs" doc:"How many runs it is promised to"`
}

// viewOfCluster is a cluster of which at least one of the two records is there.
func (m *Management) viewOfCluster(ctx context.Context, c mlaas.Cluster, spec mlaas.ClusterSpec) (ClusterView, error) {
	v := ClusterView{Cluster: c, Wanted: mlaas.ClusterServe}
	if spec.Name != "" {
		v.Wanted, v.Door, v.Server, v.Kube, v.Declared = spec.Wanted, spec.Door, spec.Server, spec.Kube, spec.Declared
		v.Created, v.Changed, v.Kind = &spec.Created, &spec.Changed, spec.Kind
	}
	if c.Name == "" {
		v.Name, v.Reason = spec.Name, "no booster has connected to it yet"
	}
	v.Limits = some(c.Limits)
	l, _, err := store.Ledgers(m.DB).Get(ctx, "", v.Name)
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return v, err
	}
	v.Used, v.Runs, v.Free = l.Used(), len(l.Grants), c.Capacity.Minus(l.Used())
	for _, g := range c.GPUs {
		v.UsedGPUs = append(v.UsedGPUs, mlaas.GPU{Count: l.UsedGPU(g.Kind), Kind: g.Kind})
		if g.Kind == c.Capacity.GPU.Kind {
			v.Free.GPU.Count = g.Count - l.UsedGPU(g.Kind)
		}
	}
	v.Free.CPU, v.Free.Memory, v.Free.GPU.Count = max(v.Free.CPU, 0), max(v.Free.Memory, 0), max(v.Free.GPU.Count, 0)
	return v, nil
}

// clusters lists those that are wanted and those that are there, by name.
func (m *Management) clusters(ctx context.Context) (all []ClusterView, err error) {
	specs, err := store.ClusterSpecs(m.DB).All(ctx, store.Query{})
	if err != nil {
		return nil, err
	}
	found, err := store.Clusters(m.DB).All(ctx, store.Query{})
	if err != nil {
		return nil, err
	}
	known := map[string]mlaas.Cluster{}
	names := map[string]mlaas.ClusterSpec{}
	for _, f := range found {
		known[f.Value.Name], names[f.Value.Name] = f.Value, mlaas.ClusterSpec{}
	}
	for _, f := range specs {
		names[f.Value.Name] = f.Value
	}
	for name, spec := range names {
		v, err := m.viewOfCluster(ctx, known[name], spec)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b ClusterView) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

type clustersIn struct{ Paging }

func (m *Management) listClusters(ctx context.Context, in *clustersIn) (*Answer[List[ClusterView]], error) {
	all, err := m.clusters(ctx)
	if err != nil {
		return nil, err
	}
	return part(all, in.Paging)
}

type clusterIn struct {
	Name string `path:"name" doc:"The name of a cluster" example:"local"`
}

// cluster reads what there is of one. The revision is that of its spec, 0 where
// it has none: then it is this machine.
func (m *Management) cluster(ctx context.Context, name string) (c mlaas.Cluster, spec mlaas.ClusterSpec, rev int64, err error) {
	spec, rev, err = store.ClusterSpecs(m.DB).Get(ctx, "", name)
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return c, spec, 0, err
	}
	c, _, err = store.Clusters(m.DB).Get(ctx, "", name)
	if errors.Is(err, mlaas.ErrNotFound) {
		if err = nil; rev == 0 {
			err = fmt.Errorf("there is no cluster %q: %w", name, mlaas.ErrNotFound)
		}
	}
	return c, spec, rev, err
}

func (m *Management) getCluster(ctx context.Context, in *clusterIn) (*Answer[ClusterView], error) {
	c, spec, rev, err := m.cluster(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	v, err := m.viewOfCluster(ctx, c, spec)
	return &Answer[ClusterView]{Body: v, Revision: rev}, err
}

// A ClusterAsk is a cluster to be added.
type ClusterAsk struct {
	Name       string              `json:"name" example:"lab"`
	Kind       string              `json:"kind,omitempty" enum:"kubernetes,remote" doc:"kubernetes: a booster reaches its API server; remote: a booster inside it calls the platform; empty: kubernetes"`
	Door       string              `json:"door,omitempty" doc:"URL by which its replicas reach the booster: the booster's address with /cluster/NAME" example:"https://booster.example.org/cluster/lab"`
	Kube       *mlaas.KubeSettings `json:"kube,omitempty" doc:"What a Kubernetes cluster lends, and how"`
	Kubeconfig string              `json:"kubeconfig,omitempty" doc:"With all that it needs in it and no names of files; at most 256 KiB. It is sealed before it is stored, and nobody can read it back"`
	Context    string              `json:"context,omitempty" doc:"Of the kubeconfig; empty: its current one"`
}

// maxKubeconfig is how long a kubeconfig may be.
const maxKubeconfig = 256 << 10

type addClusterIn struct{ Body ClusterAsk }

func (m *Management) addCluster(ctx context.Context, in *addClusterIn) (*Answer[ClusterView], store.Batch, error) {
	none := store.Batch{}
	ask := in.Body
	if ask.Kind == "" {
		ask.Kind = mlaas.ClusterKubernetes
	}
	if ask.Kind == mlaas.ClusterLocal {
		return nil, none, mlaas.Invalid("kind", `"kubernetes" or "remote": this machine is a cluster by itself`, ask.Kind)
	}
	spec := mlaas.ClusterSpec{Name: ask.Name, Kind: ask.Kind, Wanted: mlaas.ClusterServe, Door: ask.Door, Kube: ask.Kube, Created: m.stamp(), Changed: m.stamp()}
	if err := spec.Check(); err != nil {
		return nil, none, err
	}
	switch c, old, _, err := m.cluster(ctx, spec.Name); {
	case err == nil && old.Wanted == mlaas.ClusterGone:
		return nil, none, fmt.Errorf("cluster %s is being removed; add it again when that is done, or keep it by PATCH with wanted \"serve\": %w", c.Name, mlaas.ErrConflict)
	case err == nil:
		return nil, none, fmt.Errorf("there is a cluster %s already: %w", spec.Name, mlaas.ErrConflict)
	case !errors.Is(err, mlaas.ErrNotFound):
		return nil, none, err
	}
	b, err := m.putCluster(&spec, 0, ask.Kubeconfig, ask.Context)
	if err != nil {
		return nil, none, err
	}
	v, err := m.viewOfCluster(ctx, mlaas.Cluster{}, spec)
	return &Answer[ClusterView]{Location: "/api/cluster/" + spec.Name, Body: v, Revision: 1}, b, err
}

// putCluster is the batch that writes a new cluster with how it is reached.
func (m *Management) putCluster(spec *mlaas.ClusterSpec, keyRev int64, text, context string) (store.Batch, error) {
	var b store.Batch
	switch spec.Kind {
	case mlaas.ClusterKubernetes:
		key, err := m.seal(spec, text, context)
		if err != nil {
			return b, err
		}
		b.Put = append(b.Put, store.ClusterKeys(m.DB).Put(key, keyRev))
	case mlaas.ClusterRemote:
		if text != "" {
			return b, mlaas.Invalid("kubeconfig", "nothing: the booster inside a remote cluster calls the platform", "one")
		}
	}
	b.Put = append(b.Put, store.ClusterSpecs(m.DB).Put(*spec, 0))
	return b, nil
}

// seal checks a kubeconfig, makes it the key of its cluster, and notes in the
// spec where it leads to.
func (m *Management) seal(spec *mlaas.ClusterSpec, text, context string) (key mlaas.ClusterKey, err error) {
	if text == "" || len(text) > maxKubeconfig {
		return key, mlaas.Invalid("kubeconfig", "1 to 262144 bytes", fmt.Sprintf("%d bytes", len(text)))
	}
	c, err := kubeconfig.Read([]byte(text), context)
	if err != nil {
		return key, err
	}
	if err := c.Check(m.AllowExec); err != nil {
		return key, err
	}
	spec.Server = c.Server()
	key = mlaas.ClusterKey{Cluster: spec.Name, Created: spec.Changed}
	key.Sealed, err = auth.Seal(m.Key, key.About(), c.Text())
	return key, err
}

// A ClusterPatch is a JSON merge patch of a cluster: every field may be left
// away, and null takes one of kube away.
type ClusterPatch struct {
	Wanted     string              `json:"wanted,omitempty" enum:"serve,drain" doc:"serve: runs are placed on it; drain: what runs there goes on, nothing new begins"`
	Door       string              `json:"door,omitempty"`
	Kube       *mlaas.KubeSettings `json:"kube,omitempty"`
	Kubeconfig string              `json:"kubeconfig,omitempty" doc:"Other credentials: it is connected anew"`
	Context    string              `json:"context,omitempty" doc:"Of that kubeconfig; empty: its current one"`
}

type editClusterIn struct {
	clusterIn
	Match string          `header:"If-Match" doc:"Change it only if its ETag is this one; else 412"`
	Body  json.RawMessage // a ClusterPatch, but merged as it came
}

func (m *Management) editCluster(ctx context.Context, in *editClusterIn) (*Answer[ClusterView], store.Batch, error) {
	none := store.Batch{}
	c, spec, rev, err := m.cluster(ctx, in.Name)
	if err != nil {
		return nil, none, err
	}
	if err := match(in.Match, "cluster "+in.Name, rev); err != nil {
		return nil, none, err
	}
	if rev == 0 { // this machine has a spec from its first change on
		spec = mlaas.ClusterSpec{Name: c.Name, Kind: mlaas.ClusterLocal, Wanted: mlaas.ClusterServe, Created: m.stamp(), Changed: m.stamp()}
	}
	if p := bytes.TrimSpace(in.Body); len(p) == 0 || p[0] != '{' {
		return nil, none, mlaas.Invalid("body", "an object: a JSON merge patch of the cluster", string(p[:min(len(p), 40)]))
	}
	var ask ClusterPatch
	if err := mlaas.Decode(in.Body, &ask); err != nil {
		return nil, none, err
	}
	was := ClusterPatch{Wanted: spec.Wanted, Door: spec.Door, Kube: spec.Kube}
	now, err := patched(was, in.Body)
	if err != nil {
		return nil, none, err
	}
	if now.Wanted != mlaas.ClusterServe && now.Wanted != mlaas.ClusterDrain && now.Wanted != spec.Wanted {
		return nil, none, mlaas.Invalid("wanted", `"serve" or "drain"; DELETE removes a cluster`, now.Wanted)
	}
	var b store.Batch
	spec.Wanted = now.Wanted
	if now.Kubeconfig != "" || now.Door != was.Door || !sameJSON(now.Kube, was.Kube) {
		if spec.Declared {
			return nil, none, declared(spec.Name)
		}
		spec.Door, spec.Kube, spec.Changed = now.Door, now.Kube, m.since(spec.Changed)
		if err := spec.Check(); err != nil {
			return nil, none, err
		}
	}
	if now.Kubeconfig != "" {
		if spec.Kind != mlaas.ClusterKubernetes {
			return nil, none, mlaas.Invalid("kubeconfig", "nothing: a "+spec.Kind+" cluster has none", "one")
		}
		_, keyRev, err := store.ClusterKeys(m.DB).Get(ctx, "", spec.Name)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return nil, none, err
		}
		key, err := m.seal(&spec, now.Kubeconfig, now.Context)
		if err != nil {
			return nil, none, err
		}
		b.Put = append(b.Put, store.ClusterKeys(m.DB).Put(key, keyRev))
	}
	b.Put = append(b.Put, store.ClusterSpecs(m.DB).Put(spec, rev))
	v, err := m.viewOfCluster(ctx, c, spec)
	return &Answer[ClusterView]{Body: v, Revision: rev + 1}, b, err
}

func declared(name string) error {
	return fmt.Errorf("cluster %s is in the file of clusters that the platform was started with: change it there: %w", name, mlaas.ErrConflict)
}

// patched is a patch of what was, on top of it.
func patched(was ClusterPatch, patch json.RawMessage) (now ClusterPatch, err error) {
	text, err := json.Marshal(was)
	if err != nil {
		return now, err
	}
	if text, err = mergePatch(text, patch); err != nil {
		return now, err
	}
	return now, mlaas.Decode(text, &now)
}

type removeClusterIn struct {
	clusterIn
	Match string `header:"If-Match" doc:"Remove it only if its ETag is this one; else 412"`
}

// removeCluster says that a cluster is to go. Contractor moves what runs there,
// and the booster that serves it removes the records when it is empty.
func (m *Management) removeCluster(ctx context.Context, in *removeClusterIn) (*Answer[ClusterView], store.Batch, error) {
	none := store.Batch{}
	c, spec, rev, err := m.cluster(ctx, in.Name)
	if err != nil {
		return nil, none, err
	}
	if err := match(in.Match, "cluster "+in.Name, rev); err != nil {
		return nil, none, err
	}
	switch {
	case rev == 0 || spec.Kind == mlaas.ClusterLocal:
		return nil, none, fmt.Errorf("%s is a machine of the platform, which goes when its booster does; drain it by PATCH with wanted \"drain\": %w", in.Name, mlaas.ErrConflict)
	case spec.Declared:
		return nil, none, declared(spec.Name)
	}
	b := none
	if spec.Wanted != mlaas.ClusterGone {
		spec.Wanted = mlaas.ClusterGone
		b.Put = append(b.Put, store.ClusterSpecs(m.DB).Put(spec, rev))
		rev++
	}
	v, err := m.viewOfCluster(ctx, c, spec)
	return &Answer[ClusterView]{Body: v, Revision: rev}, b, err
}

// since is now, and later than what was: who compares sees a change.
func (m *Management) since(was time.Time) time.Time {
	if now := m.stamp(); now.After(was) {
		return now
	}
	return was.Add(time.Nanosecond)
}

// A ClusterToken lets the booster inside a remote cluster in.
type ClusterToken struct {
	Token string `json:"token" doc:"It is shown once: what is stored is its digest, sealed"`
}

// clusterToken commits by itself: what an Idempotency-Key keeps of an answer
// must not have a token in it.
func (m *Management) clusterToken(ctx context.Context, in *clusterIn) (*Answer[ClusterToken], error) {
	token := auth.NewToken()
	for {
		_, spec, rev, err := m.cluster(ctx, in.Name)
		if err != nil {
			return nil, err
		}
		if spec.Kind != mlaas.ClusterRemote {
			return nil, fmt.Errorf("cluster %s is not remote: booster reaches it, and no token is needed: %w", in.Name, mlaas.ErrConflict)
		}
		_, keyRev, err := store.ClusterKeys(m.DB).Get(ctx, "", in.Name)
		if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
			return nil, err
		}
		spec.Changed = m.since(spec.Changed)
		key := mlaas.ClusterKey{Cluster: in.Name, Created: spec.Changed}
		if key.Sealed, err = auth.Seal(m.Key, key.About(), []byte(auth.Hash(token))); err != nil {
			return nil, err
		}
		err = m.DB.Commit(ctx, store.Batch{Put: []store.Row{store.ClusterKeys(m.DB).Put(key, keyRev), store.ClusterSpecs(m.DB).Put(spec, rev)}})
		if !errors.Is(err, mlaas.ErrConflict) {
			return &Answer[ClusterToken]{Body: ClusterToken{token}}, err
		}
	}
}

// A ClusterDeclared is a cluster as a file has it.
type ClusterDeclared struct {
	ClusterAsk
	Wanted string `json:"wanted,omitempty"` // serve or drain; empty: as it is
	Token  string `json:"-"`                // of a remote one
}

// Declare makes the clusters of a file what is wanted: those that are not there
// are added, those that are there and differ are changed, and those that were
// declared before and are not any more are to go. It checks all before it
// changes any, and does nothing where nothing differs.
func (m *Management) Declare(ctx context.Context, all []ClusterDeclared) error {
	names := map[string]bool{}
	for i := range all {
		d := &all[i]
		if d.Kind == "" {
			d.Kind = mlaas.ClusterKubernetes
		}
		spec := mlaas.ClusterSpec{Name: d.Name, Kind: d.Kind, Wanted: mlaas.ClusterServe, Door: d.Door, Kube: d.Kube}
		err := spec.Check()
		switch {
		case err != nil:
		case names[d.Name]:
			err = mlaas.Invalid("name", "another one: there are two", d.Name)
		case d.Wanted != "" && d.Wanted != mlaas.ClusterServe && d.Wanted != mlaas.ClusterDrain:
			err = mlaas.Invalid("wanted", `"serve" or "drain"; take a cluster out of the file to remove it`, d.Wanted)
		case d.Kind == mlaas.ClusterLocal:
			err = mlaas.Invalid("kind", `"kubernetes" or "remote"`, d.Kind)
		case d.Kind == mlaas.ClusterRemote && len(d.Token) < 32:
			err = mlaas.Invalid("token_file", "the name of a file with a token of at least 32 characters", fmt.Sprintf("one of %d", len(d.Token)))
		case d.Kind == mlaas.ClusterKubernetes:
			_, err = m.seal(&spec, d.Kubeconfig, d.Context)
		}
		if err != nil {
			return fmt.Errorf("cluster %d, %q: %w", i+1, d.Name, err)
		}
		names[d.Name] = true
	}
	for _, d := range all {
		if err := m.again(ctx, func() (store.Batch, error) { return m.declare(ctx, d) }); err != nil {
			return fmt.Errorf("cluster %s: %w", d.Name, err)
		}
	}
	specs, err := store.ClusterSpecs(m.DB).All(ctx, store.Query{})
	if err != nil {
		return err
	}
	for _, f := range specs {
		if name := f.Value.Name; f.Value.Declared && !names[name] && f.Value.Wanted != mlaas.ClusterGone {
			f.Value.Wanted = mlaas.ClusterGone
			if err := m.DB.Commit(ctx, store.Batch{Put: []store.Row{store.ClusterSpecs(m.DB).Put(f.Value, f.Rev)}}); err != nil && !errors.Is(err, mlaas.ErrConflict) {
				return err
			}
		}
	}
	return nil
}

// again commits what decide says, which decides anew whenever another commit
// came between.
func (m *Management) again(ctx context.Context, decide func() (store.Batch, error)) error {
	for {
		b, err := decide()
		if err != nil || b.Empty() {
			return err
		}
		if err = m.DB.Commit(ctx, b); !errors.Is(err, mlaas.ErrConflict) {
			return err
		}
	}
}

// declare is the batch that makes one cluster what a file says.
func (m *Management) declare(ctx context.Context, d ClusterDeclared) (b store.Batch, err error) {
	specs, keys := store.ClusterSpecs(m.DB), store.ClusterKeys(m.DB)
	old, rev, err := specs.Get(ctx, "", d.Name)
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return b, err
	}
	key, keyRev, err := keys.Get(ctx, "", d.Name)
	if err != nil && !errors.Is(err, mlaas.ErrNotFound) {
		return b, err
	}
	if rev > 0 && old.Kind != d.Kind {
		return b, fmt.Errorf("there is one of kind %s, which cannot become %s: remove it first: %w", old.Kind, d.Kind, mlaas.ErrConflict)
	}
	now := old
	now.Name, now.Kind, now.Door, now.Kube, now.Declared = d.Name, d.Kind, d.Door, d.Kube, true
	if d.Wanted != "" {
		now.Wanted = d.Wanted
	} else if now.Wanted != mlaas.ClusterDrain {
		now.Wanted = mlaas.ClusterServe
	}
	if rev == 0 {
		now.Created = m.stamp()
	}
	now.Changed = m.since(old.Changed)
	secret := []byte(auth.Hash(d.Token))
	if d.Kind == mlaas.ClusterKubernetes {
		c, err := kubeconfig.Read([]byte(d.Kubeconfig), d.Context)
		if err != nil {
			return b, err
		}
		secret, now.Server = c.Text(), c.Server()
	}
	plain, err := auth.Unseal(m.Key, key.About(), key.Sealed)
	known := keyRev > 0 && err == nil && bytes.Equal(plain, secret)
	if !known {
		key = mlaas.ClusterKey{Cluster: d.Name, Created: now.Changed}
		if key.Sealed, err = auth.Seal(m.Key, key.About(), secret); err != nil {
			return b, err
		}
		b.Put = append(b.Put, keys.Put(key, keyRev))
	}
	if known && now.Door == old.Door && sameJSON(now.Kube, old.Kube) {
		now.Changed = old.Changed
	}
	if rev == 0 || !sameJSON(now, old) {
		b.Put = append(b.Put, specs.Put(now, rev))
	}
	return b, nil
}
