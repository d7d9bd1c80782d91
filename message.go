package mlaas

// The messages, in the order a run meets them. One struct is one type of
// message; its comment says who sends it and who hears it. They carry names,
// never payloads: the hearer reads the records. Every message may come twice,
// late, or after a newer one; each comment says why that is harmless.
//
// A message is committed together with the records whose change it tells of,
// so it is never told of something that did not happen.

// ToContractor is the inbox that all contractors share.
const ToContractor = "contractor"

// ToBooster is the inbox of a cluster: the booster that serves it hears it.
func ToBooster(cluster string) string { return "booster/" + cluster }

// RunAsked goes from management to contractor: a user pressed run, or wants
// something else of a run that is there. Twice: the run has a state by then that
// is of the same wish, and the job engine knows no rule for it.
type RunAsked struct {
	Tenant Tenant `json:"tenant"`
	Run    RunID  `json:"run"`
}

// StopAsked goes from management to contractor: the run's wish is WantStop
// now. Twice: it is stopping already.
type StopAsked struct {
	Tenant Tenant `json:"tenant"`
	Run    RunID  `json:"run"`
}

// ReplicasWanted goes from contractor to booster: start what the run's
// allocation grants, for this epoch. Twice: Executor.Start is idempotent, and
// an older epoch than the run's is dropped.
type ReplicasWanted struct {
	Tenant  Tenant `json:"tenant"`
	Run     RunID  `json:"run"`
	Epoch   int    `json:"epoch"`
	Cluster string `json:"cluster"`
}

// CodeReady goes from contractor to booster: the launch of this epoch is
// written; tell the supervisors to start. Twice: a supervisor starts once.
type CodeReady struct {
	Tenant  Tenant `json:"tenant"`
	Run     RunID  `json:"run"`
	Epoch   int    `json:"epoch"`
	Cluster string `json:"cluster"`
}

// ReplicasUnwanted goes from contractor to booster: end the replicas of this
// epoch and of every older one. Twice: they are gone already.
type ReplicasUnwanted struct {
	Tenant  Tenant  `json:"tenant"`
	Run     RunID   `json:"run"`
	Epoch   int     `json:"epoch"`
	Cluster string  `json:"cluster"`
	Grace   Seconds `json:"grace"` // between the polite word and the end
	Reason  string  `json:"reason"`
}

// ReplicaChanged goes from booster to contractor: the record of this replica
// says something new. Twice: the contractor reads all replicas each time.
type ReplicaChanged struct {
	Tenant  Tenant `json:"tenant"`
	Run     RunID  `json:"run"`
	Epoch   int    `json:"epoch"`
	Replica string `json:"replica"`
}

// RuleFired goes from booster's informer to contractor: an action rule of the
// job that restarts, resizes or stops matched. Twice, or late: the epoch is
// older by then, or the run is stopping.
type RuleFired struct {
	Tenant  Tenant `json:"tenant"`
	Run     RunID  `json:"run"`
	Epoch   int    `json:"epoch"`
	Replica string `json:"replica"`
	Rule    string `json:"rule"` // its name
	Saw     string `json:"saw"`  // what matched, in a phrase
}

// WebhookWanted goes from booster to itself, in the commit in which a rule
// fired and for each try that follows, and from management where a user asks
// for a delivery again. Twice: whoever listens is told twice, by events of one
// id.
type WebhookWanted struct {
	Tenant   Tenant `json:"tenant"`
	Run      RunID  `json:"run"`
	Delivery string `json:"delivery"`
	Try      int    `json:"try,omitempty"`   // how often it failed since it was asked for
	Again    bool   `json:"again,omitempty"` // also where it was delivered or given up before
}

// RunEnded goes from contractor to booster, in the commit in which a run ends,
// where somebody wants to be told. Twice: the deliveries are there already, by
// ids that follow from the run and the subscription.
type RunEnded struct {
	Tenant Tenant `json:"tenant"`
	Run    RunID  `json:"run"`
}

// TestAsked goes from management to booster: somebody tries whether what a
// subscription sends arrives. Twice: the delivery is there already.
type TestAsked struct {
	Tenant       Tenant `json:"tenant"`
	Subscription string `json:"subscription"`
	Delivery     string `json:"delivery"` // the id that it is to have
}

// ToWebhooks is an inbox of its own, which every booster hears: a webhook or mail
// server that does not answer keeps nothing waiting but others of them.
const ToWebhooks = "booster.webhooks"

// To is who hears the message; Key is what must be handled in order.
func (m RunAsked) To() string         { return ToContractor }
func (m StopAsked) To() string        { return ToContractor }
func (m ReplicasWanted) To() string   { return ToBooster(m.Cluster) }
func (m CodeReady) To() string        { return ToBooster(m.Cluster) }
func (m ReplicasUnwanted) To() string { return ToBooster(m.Cluster) }
func (m ReplicaChanged) To() string   { return ToContractor }
func (m RuleFired) To() string        { return ToContractor }
func (m WebhookWanted) To() string    { return ToWebhooks }
func (m RunEnded) To() string         { return ToWebhooks }
func (m TestAsked) To() string        { return ToWebhooks }

// Key is what must be handled in order: a run's messages one after another.
func (m RunAsked) Key() string         { return string(m.Run) }
func (m StopAsked) Key() string        { return string(m.Run) }
func (m ReplicasWanted) Key() string   { return string(m.Run) }
func (m CodeReady) Key() string        { return string(m.Run) }
func (m ReplicasUnwanted) Key() string { return string(m.Run) }
func (m ReplicaChanged) Key() string   { return string(m.Run) }
func (m RuleFired) Key() string        { return string(m.Run) }
func (m WebhookWanted) Key() string    { return m.Delivery }
func (m RunEnded) Key() string         { return string(m.Run) }
func (m TestAsked) Key() string        { return m.Delivery }
