// Package observe shows what a process does to those who watch it: counts and
// durations as Prometheus reads them, and traces over OTLP. Services count with
// package meter and name their work with package trace, and know nothing of
// this one; cmd joins them.
package observe

import (
	"context"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/meter"
	"mlaas.dev/mlaas/store"
)

// Metrics are the metrics of one process. What is added twice is a mistake of
// the program, and panics.
type Metrics struct {
	registry *prometheus.Registry
	names    []string
}

// Labels are what tells metrics of one name apart.
type Labels map[string]string

// NewMetrics returns those that every process has.
func NewMetrics(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.Gauge("mlaas_build_info", "Always 1; the labels say what runs.", Labels{"version": version, "go": runtime.Version()}, func() float64 { return 1 })
	return m
}

// Handler serves them. Who may ask is the business of who mounts it.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4})
}

// Names lists all that there can be, in order, those of the Go runtime and of
// the process too.
func (m *Metrics) Names() []string {
	names := slices.Clone(m.names)
	families, err := m.registry.Gather()
	if err == nil {
		for _, f := range families {
			names = append(names, f.GetName())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// add registers what shows the metrics of these names.
func (m *Metrics) add(c prometheus.Collector, names ...string) {
	m.registry.MustRegister(c)
	m.names = append(m.names, names...)
}

// Counter shows a counter. Its name ends in _total.
func (m *Metrics) Counter(name, help string, labels Labels, c *meter.Counter) {
	m.add(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: prometheus.Labels(labels)},
		func() float64 { return float64(c.Value()) }), name)
}

// Gauge shows a value that is asked for each time.
func (m *Metrics) Gauge(name, help string, labels Labels, f func() float64) {
	m.add(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: prometheus.Labels(labels)}, f), name)
}

// Age shows how many seconds ago something happened last; it is not there as
// long as it never did.
func (m *Metrics) Age(name, help string, labels Labels, at *meter.Moment) {
	d := prometheus.NewDesc(name, help, nil, prometheus.Labels(labels))
	m.add(&source{describe: []*prometheus.Desc{d}, collect: func(out chan<- prometheus.Metric) {
		if t := at.Time(); !t.IsZero() {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, time.Since(t).Seconds())
		}
	}}, name)
}

// Histogram shows durations. Its name ends in _seconds.
func (m *Metrics) Histogram(name, help string, labels Labels, h *meter.Histogram) {
	d := prometheus.NewDesc(name, help, nil, prometheus.Labels(labels))
	m.add(&source{describe: []*prometheus.Desc{d}, collect: func(out chan<- prometheus.Metric) { out <- histogram(d, h) }}, name)
}

// Histograms shows durations of several names; values makes the values of the
// labels of one.
func Histograms[Name comparable](m *Metrics, name, help string, labels []string, h *meter.Histograms[Name], values func(Name) []string) {
	d := prometheus.NewDesc(name, help, labels, nil)
	m.add(&source{describe: []*prometheus.Desc{d}, collect: func(out chan<- prometheus.Metric) {
		h.Each(func(n Name, one *meter.Histogram) { out <- histogram(d, one, values(n)...) })
	}}, name)
}

func histogram(d *prometheus.Desc, h *meter.Histogram, values ...string) prometheus.Metric {
	upTo, n, sum := h.Read()
	buckets := map[float64]uint64{}
	for i, b := range meter.Bounds() {
		buckets[b.Seconds()] = uint64(upTo[i])
	}
	return prometheus.MustNewConstHistogram(d, uint64(n), sum.Seconds(), buckets, values...)
}

// A source is a prometheus.Collector of functions.
type source struct {
	describe []*prometheus.Desc
	collect  func(chan<- prometheus.Metric)
}

// Describe implements prometheus.Collector.
func (s *source) Describe(out chan<- *prometheus.Desc) {
	for _, d := range s.describe {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (s *source) Collect(out chan<- prometheus.Metric) { s.collect(out) }

// askWithin is how long a store may take to say how it is.
const askWithin = 5 * time.Second

// Store shows how a store is, and where the live runs stand. A store that does
// not answer has mlaas_store_up 0, and nothing else.
func (m *Metrics) Store(db store.Driver) {
	var names []string
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		names = append(names, name)
		return prometheus.NewDesc(name, help, labels, nil)
	}
	up := desc("mlaas_store_up", "1 where the store answers.")
	records := desc("mlaas_store_records", "Records that there are.")
	size := desc("mlaas_store_bytes", "What the store takes on disk.")
	commits := desc("mlaas_store_commits_total", "Commits since this process opened the store.")
	syncs := desc("mlaas_store_syncs_total", "Durable writes since then: fewer than commits when they are grouped.")
	waiting := desc("mlaas_messages_waiting", "Messages that are not handled yet.")
	parked := desc("mlaas_messages_parked", "Messages that were given up and lie there.")
	oldest := desc("mlaas_messages_oldest_seconds", "Age of the oldest message that is due and not handled.")
	runs := desc("mlaas_runs", "Runs that are not over, by state.", "state")
	clusters := desc("mlaas_cluster_up", "1 where a cluster answers its booster.", "cluster")
	heard := desc("mlaas_cluster_heard_seconds", "How long ago a cluster was heard of.", "cluster")
	m.add(&source{
		describe: []*prometheus.Desc{up, records, size, commits, syncs, waiting, parked, oldest, runs, clusters, heard},
		collect: func(out chan<- prometheus.Metric) {
			ctx, cancel := context.WithTimeout(context.Background(), askWithin)
			defer cancel()
			gauge := func(d *prometheus.Desc, v float64, labels ...string) {
				out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
			}
			s, err := db.Stats(ctx)
			if err != nil {
				gauge(up, 0)
				return
			}
			gauge(up, 1)
			gauge(records, float64(s.Records))
			gauge(size, float64(s.Size))
			gauge(waiting, float64(s.Waiting))
			gauge(parked, float64(s.Parked))
			gauge(oldest, s.Oldest.Seconds())
			out <- prometheus.MustNewConstMetric(commits, prometheus.CounterValue, float64(s.Commits))
			out <- prometheus.MustNewConstMetric(syncs, prometheus.CounterValue, float64(s.Syncs))
			if live, err := store.RunStates(db).All(ctx, store.Query{Index: "live"}); err == nil {
				by := map[mlaas.State]int{}
				for _, r := range live {
					by[r.Value.State]++
				}
				for _, state := range mlaas.States {
					if !state.Final() {
						gauge(runs, float64(by[state]), string(state))
					}
				}
			}
			if all, err := store.Clusters(db).All(ctx, store.Query{}); err == nil {
				for _, c := range all {
					v := 0.0
					if c.Value.Up {
						v = 1
					}
					gauge(clusters, v, c.Value.Name)
					gauge(heard, time.Since(c.Value.Heard).Seconds(), c.Value.Name)
				}
			}
		},
	}, names...)
}
