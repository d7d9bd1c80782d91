package management

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/health"
	"mlaas.dev/mlaas/store"
)

// Status is how the platform is.
type Status struct {
	Version  string         `json:"version"`
	Time     time.Time      `json:"time"`
	Data     string         `json:"data,omitempty" doc:"The data folder"`
	Disk     Disk           `json:"disk"`
	Store    StoreStatus    `json:"store"`
	Runs     map[string]int `json:"runs" doc:"How many are not over, by state"`
	Replicas map[string]int `json:"replicas" doc:"How many are not over, by status"`
	Clusters []ClusterView  `json:"clusters"`
	Limits   []string       `json:"limits" doc:"What is not isolated or not enforced, a sentence each"`
	Process  Process        `json:"process"`
}

// Disk is what the platform takes on disk, in bytes.
type Disk struct {
	Used map[string]int64 `json:"used" doc:"By part of the data folder"`
	Caps map[string]int64 `json:"caps" doc:"How much a part may take; what is not there has no cap"`
	Free int64            `json:"free" doc:"What is left on that disk"`
}

// StoreStatus is how the store of records and messages is.
type StoreStatus struct {
	Records int64   `json:"records"`
	Waiting int64   `json:"waiting" doc:"Messages that are not handled yet"`
	Parked  int64   `json:"parked" doc:"Messages that were given up"`
	Oldest  float64 `json:"oldest_seconds" doc:"Age of the oldest message that is due and not handled"`
	Commits int64   `json:"commits" doc:"Since the platform was started"`
	Syncs   int64   `json:"syncs" doc:"Durable writes since then: fewer than commits when they are grouped"`
	Size    int64   `json:"size" doc:"On disk, in bytes"`
	Seq     int64   `json:"seq" doc:"Of the last commit"`
}

// Process is how the process of this server is.
type Process struct {
	Goroutines int   `json:"goroutines"`
	Heap       int64 `json:"heap" doc:"Bytes of memory in use"`
}

type noIn struct{}

func (m *Management) status(ctx context.Context, _ *noIn) (*Answer[Status], error) {
	s := Status{Time: m.now().UTC(), Disk: Disk{Used: map[string]int64{}, Caps: map[string]int64{}},
		Runs: map[string]int{}, Replicas: map[string]int{}, Clusters: []ClusterView{}, Limits: []string{}}
	s.Disk.Caps["series"] = int64(m.Retention.complete().Logs)
	if m.Info != nil {
		info, err := m.Info(ctx)
		if err != nil {
			return nil, err
		}
		s.Version, s.Data, s.Disk.Free = info.Version, info.Data, int64(info.Free)
		for k, v := range info.Disk {
			s.Disk.Used[k] = int64(v)
		}
		for k, v := range info.Caps {
			s.Disk.Caps[k] = int64(v)
		}
	}
	st, err := m.DB.Stats(ctx)
	if err != nil {
		return nil, err
	}
	s.Store = StoreStatus{st.Records, st.Waiting, st.Parked, st.Oldest.Seconds(), st.Commits, st.Syncs, int64(st.Size), st.Seq}
	tenant := tenantOf(ctx)
	runs, err := store.RunStates(m.DB).All(ctx, store.Query{Tenant: tenant, Index: "live"})
	if err != nil {
		return nil, err
	}
	for _, r := range runs {
		s.Runs[string(r.Value.State)]++
	}
	replicas, err := store.Replicas(m.DB).All(ctx, store.Query{Tenant: tenant, Index: "live"})
	if err != nil {
		return nil, err
	}
	for _, r := range replicas {
		s.Replicas[string(r.Value.Status)]++
	}
	clusters, err := m.clusters(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range clusters {
		s.Clusters = append(s.Clusters, v)
		for _, l := range v.Limits {
			if !slices.Contains(s.Limits, l) {
				s.Limits = append(s.Limits, l)
			}
		}
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	s.Process = Process{runtime.NumGoroutine(), int64(mem.HeapAlloc)}
	return &Answer[Status]{Body: s}, nil
}

// livez says that the process lives, and asks nothing: whoever restarts a
// process must not do so because something beside it is down.
func (m *Management) livez(context.Context, *noIn) (*Answer[health.Answer], error) {
	return &Answer[health.Answer]{Body: health.Answer{Status: "ok"}}, nil
}

// metrics answers a scrape. It takes the token of one who runs the platform:
// what is counted tells of every team.
func (m *Management) metrics(w http.ResponseWriter, r *http.Request, _ *noIn) error {
	if m.Metrics == nil {
		return fmt.Errorf("nothing is counted here: %w", mlaas.ErrNotFound)
	}
	m.Metrics.ServeHTTP(w, r)
	return nil
}

// readyz tells anybody whether the process is ready, and those who are known
// why it is not.
func (m *Management) readyz(w http.ResponseWriter, r *http.Request, _ *noIn) error {
	_, err := m.who(r)
	status, body := m.health().Ready(r.Context()).Answer(err == nil)
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	return send(w, r, status, &Answer[health.Answer]{Body: body})
}
