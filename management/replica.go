package management

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A ReplicaView is a replica as it is shown. The paper's word is node.
type ReplicaView struct {
	ID       string `json:"id" example:"worker-0"`
	Attempt  int    `json:"attempt" doc:"The attempt of the run that it is of, from 1; 0: none yet"`
	ExitCode *int   `json:"exitCode" doc:"Of the program, once it has ended"`
	mlaas.Replica
}

func viewOfReplica(r mlaas.Replica) ReplicaView {
	if r.History == nil {
		r.History = []mlaas.Event{}
	}
	return ReplicaView{ID: r.Fence.Replica, Attempt: r.Epoch, ExitCode: r.ExitCode, Replica: r}
}

// replicasOf returns the replicas of a run that booster has made, in the order
// of roles.
func (m *Management) replicasOf(ctx context.Context, tenant mlaas.Tenant, run mlaas.RunID) ([]mlaas.Replica, error) {
	found, err := store.Replicas(m.DB).All(ctx, store.Query{Tenant: tenant, Prefix: string(run) + "/"})
	if err != nil {
		return nil, err
	}
	var all []mlaas.Replica
	for _, f := range found {
		all = append(all, f.Value)
	}
	inOrder(all)
	return all, nil
}

func inOrder(all []mlaas.Replica) {
	slices.SortStableFunc(all, func(a, b mlaas.Replica) int {
		if a.Role != b.Role {
			return slices.Index(mlaas.RoleOrder, a.Role) - slices.Index(mlaas.RoleOrder, b.Role)
		}
		return a.Index - b.Index
	})
}

// expected returns the replicas of a run, with those besides that are granted
// or, before that, asked for and not made yet.
func (m *Management) expected(ctx context.Context, r mlaas.Run) ([]mlaas.Replica, error) {
	all, err := m.replicasOf(ctx, r.Tenant, r.ID)
	if err != nil {
		return nil, err
	}
	s, err := m.stateOf(ctx, r)
	if err != nil || s.State.Final() || s.State == mlaas.Stopping {
		return all, err
	}
	there := map[string]bool{}
	for _, a := range all {
		there[a.Fence.Replica] = true
	}
	for _, name := range mlaas.RoleOrder {
		role := r.Spec.Roles[name]
		if role == nil {
			continue
		}
		n := role.Replicas.Max
		if granted, ok := s.Allocation.Granted[name]; ok {
			n = granted
		}
		for i := range n {
			id := mlaas.ReplicaName(name, i)
			if !there[id] {
				all = append(all, mlaas.Replica{Fence: mlaas.Fence{Tenant: r.Tenant, Run: r.ID, Epoch: s.Epoch, Replica: id},
					Job: r.Job, Role: name, Index: i, Cluster: s.Allocation.Cluster, Status: mlaas.ReplicaWanted, Reason: s.Reason, Asked: r.Created})
			}
		}
	}
	inOrder(all)
	return all, nil
}

type nodesIn struct {
	jobIn
	Paging
	Run    string `query:"run" doc:"Of this run: its id, JOB.7 or 7; the newest where not said"`
	Status string `query:"status" doc:"Only those of this status" example:"running"`
}

func (m *Management) listNodes(ctx context.Context, in *nodesIn) (*Answer[List[ReplicaView]], error) {
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return nil, err
	}
	r, _, err := m.runOf(ctx, j, in.Run)
	if errors.Is(err, mlaas.ErrNotFound) && in.Run == "" {
		return part([]ReplicaView{}, in.Paging) // never run: there are none
	}
	if err != nil {
		return nil, err
	}
	return m.nodes(ctx, r, in.Status, in.Paging)
}

type runNodesIn struct {
	runIn
	Paging
	Status string `query:"status" doc:"Only those of this status" example:"running"`
}

func (m *Management) listRunNodes(ctx context.Context, in *runNodesIn) (*Answer[List[ReplicaView]], error) {
	r, _, err := m.findRun(ctx, tenantOf(ctx), in.Run)
	if err != nil {
		return nil, err
	}
	return m.nodes(ctx, r, in.Status, in.Paging)
}

// nodes are the replicas of a run, in the order of roles.
func (m *Management) nodes(ctx context.Context, r mlaas.Run, status string, p Paging) (*Answer[List[ReplicaView]], error) {
	all, err := m.expected(ctx, r)
	if err != nil {
		return nil, err
	}
	var views []ReplicaView
	for _, a := range all {
		if status == "" || string(a.Status) == status {
			views = append(views, viewOfReplica(a))
		}
	}
	return part(views, p)
}

type nodeIn struct {
	jobIn
	Node string `path:"nodeId" doc:"The replica, by its name" example:"worker-0"`
	Run  string `query:"run" doc:"Of this run: its id, JOB.7 or 7; the newest where not said"`
}

// node returns the replica that in names, and its run.
func (m *Management) node(ctx context.Context, in nodeIn) (mlaas.Run, mlaas.Replica, error) {
	j, err := m.findJob(ctx, tenantOf(ctx), in.Job)
	if err != nil {
		return mlaas.Run{}, mlaas.Replica{}, err
	}
	r, _, err := m.runOf(ctx, j, in.Run)
	if err != nil {
		return r, mlaas.Replica{}, err
	}
	if role, index, err := mlaas.SplitReplica(in.Node); err == nil && in.Node == mlaas.ReplicaName(role, index) {
		a, _, err := store.Replicas(m.DB).Get(ctx, r.Tenant, store.ReplicaKey(r.ID, in.Node))
		if !errors.Is(err, mlaas.ErrNotFound) {
			return r, a, err
		}
		all, err := m.expected(ctx, r)
		if err != nil {
			return r, a, err
		}
		for _, a := range all {
			if a.Fence.Replica == in.Node {
				return r, a, nil
			}
		}
	}
	return r, mlaas.Replica{}, fmt.Errorf("run %s/%d has no replica %q: %w", r.JobName, r.Number, in.Node, mlaas.ErrNotFound)
}

func (m *Management) getNode(ctx context.Context, in *nodeIn) (*Answer[ReplicaView], error) {
	_, a, err := m.node(ctx, *in)
	return &Answer[ReplicaView]{Body: viewOfReplica(a)}, err
}

// A ReplicaStatus is where a replica stands.
type ReplicaStatus struct {
	ID       string              `json:"id" example:"worker-0"`
	Run      mlaas.RunID         `json:"run"`
	Attempt  int                 `json:"attempt"`
	Status   mlaas.ReplicaStatus `json:"status"`
	Reason   string              `json:"reason"`
	Program  bool                `json:"program" doc:"Whether the user's program was started"`
	ExitCode *int                `json:"exitCode"`
	OOM      bool                `json:"oom,omitempty" doc:"Ended by its memory ceiling"`
	Step     int64               `json:"step"`
	Asked    time.Time           `json:"asked"`
	Ready    *time.Time          `json:"ready,omitempty"`
	Started  *time.Time          `json:"started,omitempty"`
	Ended    *time.Time          `json:"ended,omitempty"`
	Heard    time.Time           `json:"heard,omitzero" doc:"The supervisor's last word"`
}

func (m *Management) nodeStatus(ctx context.Context, in *nodeIn) (*Answer[ReplicaStatus], error) {
	_, a, err := m.node(ctx, *in)
	return &Answer[ReplicaStatus]{Body: ReplicaStatus{ID: a.Fence.Replica, Run: a.Run, Attempt: a.Epoch, Status: a.Status, Reason: a.Reason,
		Program: a.Program, ExitCode: a.ExitCode, OOM: a.OOM, Step: a.Step,
		Asked: a.Asked, Ready: a.Ready, Started: a.Started, Ended: a.Ended, Heard: a.Heard}}, err
}

type nodeEventsIn struct {
	nodeIn
	Paging
}

func (m *Management) nodeEvents(ctx context.Context, in *nodeEventsIn) (*Answer[List[mlaas.Event]], error) {
	_, a, err := m.node(ctx, in.nodeIn)
	if err != nil {
		return nil, err
	}
	return part(a.History, in.Paging)
}

// ReplicaResources is what a replica needs, may take, and has used.
type ReplicaResources struct {
	ID      string          `json:"id" example:"worker-0"`
	Cluster string          `json:"cluster"`
	Need    mlaas.Resources `json:"need" doc:"What it is placed by"`
	Ceiling ResourceCeiling `json:"ceiling" doc:"What it may not exceed; what is not there has no ceiling"`
	Usage   mlaas.Usage     `json:"usage" doc:"As its supervisor measures it"`
}

// A ResourceCeiling is what a replica may not exceed.
type ResourceCeiling struct {
	CPU    *mlaas.MilliCPU `json:"cpu,omitempty"`
	Memory *mlaas.Bytes    `json:"memory,omitempty"`
	GPU    mlaas.GPU       `json:"gpu"`
}

func (m *Management) nodeResources(ctx context.Context, in *nodeIn) (*Answer[ReplicaResources], error) {
	r, a, err := m.node(ctx, *in)
	if err != nil {
		return nil, err
	}
	role := r.Spec.Roles[a.Role]
	if role == nil {
		role = &mlaas.Role{}
	}
	return &Answer[ReplicaResources]{Body: ReplicaResources{ID: a.Fence.Replica, Cluster: a.Cluster, Need: role.Need(),
		Ceiling: ResourceCeiling{role.CPU, role.Memory, role.GPU}, Usage: a.Usage}}, nil
}
