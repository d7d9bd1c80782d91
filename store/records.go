package store

import (
	"encoding/json"
	"fmt"
	"time"

	"mlaas.dev/mlaas"
)

// The records of the platform, and who writes each. Indexes are listed with
// them: a reader lists by nothing else.

// Jobs are written by management. ID: JobID. Index: "deleted" where deleted,
// else "live".
func Jobs(db Driver) Records[mlaas.Job] {
	return Records[mlaas.Job]{DB: db, Kind: "job", Mend: legible,
		Key: func(j mlaas.Job) (mlaas.Tenant, string) { return j.Tenant, string(j.ID) },
		Index: func(j mlaas.Job) []string {
			if j.Deleted != nil {
				return []string{"deleted"}
			}
			return []string{"live"}
		}}
}

// A JobName holds a job's name, so that no other job of the team takes it.
type JobName struct {
	Tenant mlaas.Tenant `json:"-"`
	Name   string       `json:"name"`
	Job    mlaas.JobID  `json:"job"`
}

// SetTenant fills in what the key says.
func (n *JobName) SetTenant(t mlaas.Tenant) { n.Tenant = t }

// JobNames are written by management. ID: the name.
func JobNames(db Driver) Records[JobName] {
	return Records[JobName]{DB: db, Kind: "jobname",
		Key: func(n JobName) (mlaas.Tenant, string) { return n.Tenant, n.Name }}
}

// Versions are written by management. ID: "JOB/00000007". Index: "bundle=JOB/DIGEST".
func Versions(db Driver) Records[mlaas.Version] {
	return Records[mlaas.Version]{DB: db, Kind: "version",
		Key: func(v mlaas.Version) (mlaas.Tenant, string) { return v.Tenant, VersionKey(v.Job, v.Number) },
		Index: func(v mlaas.Version) []string {
			return []string{fmt.Sprintf("bundle=%s/%s", v.Job, v.Bundle)}
		}}
}

// Drafts are written by management. ID: JobID.
func Drafts(db Driver) Records[mlaas.Draft] {
	return Records[mlaas.Draft]{DB: db, Kind: "draft",
		Key: func(d mlaas.Draft) (mlaas.Tenant, string) { return d.Tenant, string(d.Job) }}
}

// Docs are written by management. ID: "JOB/DOC".
func Docs(db Driver) Records[mlaas.Doc] {
	return Records[mlaas.Doc]{DB: db, Kind: "doc",
		Key: func(d mlaas.Doc) (mlaas.Tenant, string) { return d.Tenant, DocKey(d.Job, d.ID) }}
}

// DocKey is the ID of the record of a draft's text.
func DocKey(job mlaas.JobID, doc string) string { return string(job) + "/" + doc }

// VersionKey is the ID of a version's record.
func VersionKey(job mlaas.JobID, number int) string { return fmt.Sprintf("%s/%08d", job, number) }

// Runs are written by management. ID: RunID. Index: "job=JOB", "number=JOB/7",
// and "kernel=JOB" where it is a kernel, which has no number.
func Runs(db Driver) Records[mlaas.Run] {
	return Records[mlaas.Run]{DB: db, Kind: "run", Mend: legibleRun,
		Key: func(r mlaas.Run) (mlaas.Tenant, string) { return r.Tenant, string(r.ID) },
		Index: func(r mlaas.Run) []string {
			if r.Kernel != nil {
				return []string{"job=" + string(r.Job), "kernel=" + string(r.Job)}
			}
			return []string{"job=" + string(r.Job), fmt.Sprintf("number=%s/%d", r.Job, r.Number)}
		}}
}

// RunStates are written by contractor. ID: RunID. Index: "job=JOB",
// "state=STATE", and "live" until the state is final.
func RunStates(db Driver) Records[mlaas.RunState] {
	return Records[mlaas.RunState]{DB: db, Kind: "runstate",
		Key: func(r mlaas.RunState) (mlaas.Tenant, string) { return r.Tenant, string(r.Run) },
		Index: func(r mlaas.RunState) []string {
			index := []string{"job=" + string(r.Job), "state=" + string(r.State)}
			if !r.State.Final() {
				index = append(index, "live")
			}
			return index
		}}
}

// Executions are written by management. ID: "RUN/ID", where the ID grows with
// time; list them by Prefix "RUN/". Index: "unsent" until the kernel has it.
func Executions(db Driver) Records[mlaas.KernelExecution] {
	return Records[mlaas.KernelExecution]{DB: db, Kind: "execution",
		Key: func(e mlaas.KernelExecution) (mlaas.Tenant, string) { return e.Tenant, ExecutionKey(e.Run, e.ID) },
		Index: func(e mlaas.KernelExecution) []string {
			if e.Sent {
				return nil
			}
			return []string{"unsent", "unsent=" + string(e.Run)}
		}}
}

// ExecutionKey is the ID of an execution's record.
func ExecutionKey(run mlaas.RunID, id string) string { return string(run) + "/" + id }

// Launches are written by contractor, once for each epoch. ID: "RUN/00000001".
func Launches(db Driver) Records[mlaas.Launch] {
	return Records[mlaas.Launch]{DB: db, Kind: "launch",
		Key: func(l mlaas.Launch) (mlaas.Tenant, string) { return l.Tenant, LaunchKey(l.Run, l.Epoch) }}
}

// LaunchKey is the ID of a launch's record.
func LaunchKey(run mlaas.RunID, epoch int) string { return fmt.Sprintf("%s/%08d", run, epoch) }

// Ledgers are written by contractor, and an empty one is removed with its
// cluster. ID: the cluster's name; no tenant.
func Ledgers(db Driver) Records[mlaas.Ledger] {
	return Records[mlaas.Ledger]{DB: db, Kind: "ledger",
		Key: func(l mlaas.Ledger) (mlaas.Tenant, string) { return "", l.Cluster }}
}

// Replicas are written by booster. ID: "RUN/worker-0"; list them by Prefix
// "RUN/". Index: "live" until the status is final, and so long [LiveOn] its
// cluster, which those that v0.1 wrote last have not.
func Replicas(db Driver) Records[mlaas.Replica] {
	return Records[mlaas.Replica]{DB: db, Kind: "replica",
		Key: func(r mlaas.Replica) (mlaas.Tenant, string) { return r.Tenant, ReplicaKey(r.Run, r.Fence.Replica) },
		Index: func(r mlaas.Replica) []string {
			if r.Status.Final() {
				return nil
			}
			return []string{"live", LiveOn(r.Cluster)}
		}}
}

// LiveOn is what the live replicas of a cluster are found by.
func LiveOn(cluster string) string { return "live=" + cluster }

// ReplicaKey is the ID of a replica's record.
func ReplicaKey(run mlaas.RunID, replica string) string { return string(run) + "/" + replica }

// Deliveries are written by booster. ID: "RUN/ID", where the ID of a rule's
// grows with time; list them by Prefix "RUN/". Index: "subscription=ID" where it
// is of one.
func Deliveries(db Driver) Records[mlaas.Delivery] {
	return Records[mlaas.Delivery]{DB: db, Kind: "delivery",
		Key: func(d mlaas.Delivery) (mlaas.Tenant, string) { return d.Tenant, DeliveryKey(d.Run, d.ID) },
		Index: func(d mlaas.Delivery) []string {
			if d.Subscription == "" {
				return nil
			}
			return []string{"subscription=" + d.Subscription}
		}}
}

// DeliveryKey is the ID of a delivery's record.
func DeliveryKey(run mlaas.RunID, id string) string { return string(run) + "/" + id }

// Subscriptions are written by management. ID: its own.
func Subscriptions(db Driver) Records[mlaas.Subscription] {
	return Records[mlaas.Subscription]{DB: db, Kind: "subscription",
		Key: func(s mlaas.Subscription) (mlaas.Tenant, string) { return s.Tenant, s.ID }}
}

// SavedViews are written by management. ID: "USER/NAME".
func SavedViews(db Driver) Records[mlaas.SavedView] {
	return Records[mlaas.SavedView]{DB: db, Kind: "savedview",
		Key: func(v mlaas.SavedView) (mlaas.Tenant, string) { return v.Tenant, SavedViewKey(v.User, v.Name) }}
}

// SavedViewKey is the ID of a saved view's record.
func SavedViewKey(user, name string) string { return user + "/" + name }

// Clusters are written by booster, which removes them with their specs. ID: the
// name; no tenant.
func Clusters(db Driver) Records[mlaas.Cluster] {
	return Records[mlaas.Cluster]{DB: db, Kind: "cluster",
		Key: func(c mlaas.Cluster) (mlaas.Tenant, string) { return "", c.Name }}
}

// ClusterSpecs are written by management, and removed by the booster that has
// emptied a cluster which is to go. ID: the name; no tenant.
func ClusterSpecs(db Driver) Records[mlaas.ClusterSpec] {
	return Records[mlaas.ClusterSpec]{DB: db, Kind: "clusterspec",
		Key: func(c mlaas.ClusterSpec) (mlaas.Tenant, string) { return "", c.Name }}
}

// ClusterKeys are written by management, and removed with the specs. ID: the
// cluster's name; no tenant.
func ClusterKeys(db Driver) Records[mlaas.ClusterKey] {
	return Records[mlaas.ClusterKey]{DB: db, Kind: "clusterkey",
		Key: func(k mlaas.ClusterKey) (mlaas.Tenant, string) { return "", k.Cluster }}
}

// Checkpoints are written by booster. ID: "RUN/EPOCH/STEP/REPLICA", with the
// numbers padded so that the last under "RUN/" is the newest.
func Checkpoints(db Driver) Records[mlaas.Checkpoint] {
	return Records[mlaas.Checkpoint]{DB: db, Kind: "checkpoint",
		Key: func(c mlaas.Checkpoint) (mlaas.Tenant, string) {
			return c.Tenant, fmt.Sprintf("%s/%08d/%020d/%s", c.Run, c.Epoch, c.Step, c.Replica)
		}}
}

// Evaluations are written by booster. ID: "RUN/EPOCH/STEP/REPLICA/NAME", with the
// numbers padded so that the last under "RUN/" is the newest.
func Evaluations(db Driver) Records[mlaas.Evaluated] {
	return Records[mlaas.Evaluated]{DB: db, Kind: "evaluation",
		Key: func(e mlaas.Evaluated) (mlaas.Tenant, string) {
			return e.Tenant, fmt.Sprintf("%s/%08d/%020d/%s/%s", e.Run, e.Epoch, e.Step, e.Replica, e.Name)
		}}
}

// Datasets are written by management. ID: "NAME/00000001".
func Datasets(db Driver) Records[mlaas.Dataset] {
	return Records[mlaas.Dataset]{DB: db, Kind: "dataset",
		Key: func(d mlaas.Dataset) (mlaas.Tenant, string) { return d.Tenant, DatasetKey(d.Name, d.Version) }}
}

// DatasetKey is the ID of a dataset's record.
func DatasetKey(name string, version int) string { return fmt.Sprintf("%s/%08d", name, version) }

// Locks are written by booster when a supervisor resolved one, and by
// management when a user upgrades: both by compare-and-set. ID: the digest of
// what was asked for.
func Locks(db Driver) Records[mlaas.Locked] {
	return Records[mlaas.Locked]{DB: db, Kind: "lock",
		Key: func(l mlaas.Locked) (mlaas.Tenant, string) { return l.Tenant, string(l.Spec) }}
}

// A Secret is what a program needs and nobody may read: it is sealed before it
// comes here. Every version is kept until the secret is removed, because a run
// names the version that it was asked for with.
type Secret struct {
	Tenant  mlaas.Tenant `json:"-"`
	Name    string       `json:"name"`
	Version int          `json:"version"`
	Sealed  []byte       `json:"sealed"`
	Created time.Time    `json:"created"`
}

// SetTenant fills in what the key says.
func (s *Secret) SetTenant(t mlaas.Tenant) { s.Tenant = t }

// About is what the secret is sealed for: its name cannot be exchanged.
func (s Secret) About() string {
	return fmt.Sprintf("secret/%s/%s/%d", s.Tenant, s.Name, s.Version)
}

// Secrets are written by management. ID: "NAME/00000001".
func Secrets(db Driver) Records[Secret] {
	return Records[Secret]{DB: db, Kind: "secret",
		Key: func(s Secret) (mlaas.Tenant, string) { return s.Tenant, SecretKey(s.Name, s.Version) }}
}

// SecretKey is the ID of a secret's record.
func SecretKey(name string, version int) string { return fmt.Sprintf("%s/%08d", name, version) }

// A Session is one browser that was let in. Its token is kept as a hash.
type Session struct {
	Tenant  mlaas.Tenant `json:"-"`
	ID      string       `json:"id"`
	Hash    string       `json:"hash"` // SHA-256 of the cookie's value, in hex
	Agent   string       `json:"agent"`
	Address string       `json:"address"`
	Created time.Time    `json:"created"`
	Expires time.Time    `json:"expires"`
	Revoked *time.Time   `json:"revoked,omitempty"`
}

// SetTenant fills in what the key says.
func (s *Session) SetTenant(t mlaas.Tenant) { s.Tenant = t }

// Sessions are written by management. ID: the session's own. Index:
// "hash=HASH".
func Sessions(db Driver) Records[Session] {
	return Records[Session]{DB: db, Kind: "session",
		Key:   func(s Session) (mlaas.Tenant, string) { return s.Tenant, s.ID },
		Index: func(s Session) []string { return []string{"hash=" + s.Hash} }}
}

// A Link lets one browser in, once. Its code is kept as a hash.
type Link struct {
	Tenant  mlaas.Tenant `json:"-"`
	Hash    string       `json:"hash"`
	Expires time.Time    `json:"expires"`
}

// SetTenant fills in what the key says.
func (l *Link) SetTenant(t mlaas.Tenant) { l.Tenant = t }

// Links are written by management. ID: the hash. Index: "hash=HASH".
func Links(db Driver) Records[Link] {
	return Records[Link]{DB: db, Kind: "link",
		Key:   func(l Link) (mlaas.Tenant, string) { return l.Tenant, l.Hash },
		Index: func(l Link) []string { return []string{"hash=" + l.Hash} }}
}

// A Member is one process of the platform that lives. It writes its record
// every two seconds; see package lease.
type Member struct {
	ID      string    `json:"id"`
	Service string    `json:"service"` // management, contractor, booster
	URL     string    `json:"url,omitempty"`
	Version string    `json:"version"`
	Beat    time.Time `json:"beat"` // by its own clock: for people to read
}

// Members are written by each process, its own. ID: the process's; no tenant.
func Members(db Driver) Records[Member] {
	return Records[Member]{DB: db, Kind: "member",
		Key: func(m Member) (mlaas.Tenant, string) { return "", m.ID }}
}

// A Lease says which process does what one alone must do.
type Lease struct {
	Name   string    `json:"name"`          // "admission", "cluster/local"
	Epoch  int64     `json:"epoch"`         // rises each time it is taken
	Holder string    `json:"holder"`        // the ID of a member; empty: it was given back
	URL    string    `json:"url,omitempty"` // the holder's internal API
	Since  time.Time `json:"since"`
}

// The leases. That of a cluster is held by the booster that serves it.
const AdmissionLease = "admission"

// ClusterLease is the name of the lease of a cluster.
func ClusterLease(cluster string) string { return "cluster/" + cluster }

// Leases are written by whoever takes one. ID: the name; no tenant.
func Leases(db Driver) Records[Lease] {
	return Records[Lease]{DB: db, Kind: "lease",
		Key: func(l Lease) (mlaas.Tenant, string) { return "", l.Name }}
}

// A Manifest says what is kept of a run's lines and points, where package
// series keeps what is not sealed yet as objects. The shard that it names holds
// the run: it alone appends to it, until it has released it.
type Manifest struct {
	Tenant   mlaas.Tenant    `json:"-"`
	Run      mlaas.RunID     `json:"run"`
	Shard    string          `json:"shard"`
	Released bool            `json:"released,omitempty"` // all is in Body, and any shard may take the run
	Body     json.RawMessage `json:"body"`               // belongs to package series
}

// SetTenant fills in what the key says.
func (m *Manifest) SetTenant(t mlaas.Tenant) { m.Tenant = t }

// Series are written by the booster that has the shard which holds the run, by
// the one that takes it when it was released, and by who removes what is old
// while no booster has the shard: all by compare-and-set, and who has a shard
// with a check of its record. ID: RunID.
func Series(db Driver) Records[Manifest] {
	return Records[Manifest]{DB: db, Kind: "series",
		Key: func(m Manifest) (mlaas.Tenant, string) { return m.Tenant, string(m.Run) }}
}

// A Shard is where one booster at a time appends what the runs of its cluster
// say, as objects that are numbered from 1.
type Shard struct {
	Name   string `json:"name"`
	Epoch  int64  `json:"epoch"`  // of the lease of who opened it last
	Opened int64  `json:"opened"` // how often it was opened; each object says by which
	From   int64  `json:"from"`   // from this number on, objects of openings before Since do not count
	Since  int64  `json:"since"`
	Sealed int64  `json:"sealed"` // up to this number all is sealed
	Given  int64  `json:"given"`  // up to this number any may have been used
}

// Shards are written by the booster that has the shard. ID: the name; no tenant.
func Shards(db Driver) Records[Shard] {
	return Records[Shard]{DB: db, Kind: "shard",
		Key: func(s Shard) (mlaas.Tenant, string) { return "", s.Name }}
}

// A Copying says that somebody copies the platform: until it is over, who
// replaces or drops chunks of series leaves their bytes, to be collected another
// day.
type Copying struct {
	ID      string    `json:"id"`
	Objects bool      `json:"objects,omitempty"` // and who seals objects leaves them, to be swept another time
	Until   time.Time `json:"until"`             // it is put off while the copy goes on
}

// Copyings are written by who makes a copy, its own, and removed by whoever
// finds one that is long over. ID: its own; no tenant.
func Copyings(db Driver) Records[Copying] {
	return Records[Copying]{DB: db, Kind: "copying",
		Key: func(c Copying) (mlaas.Tenant, string) { return "", c.ID }}
}
