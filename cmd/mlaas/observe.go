package main

import (
	"context"
	"log/slog"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/contractor"
	"mlaas.dev/mlaas/internal/meter"
	"mlaas.dev/mlaas/management"
	"mlaas.dev/mlaas/observe"
	"mlaas.dev/mlaas/queue"
)

// What each service counts, by the names that operators see. A process shows
// those of the services that it runs.

func showManagement(m *observe.Metrics, s *management.Management) {
	observe.Histograms(m, "mlaas_http_request_seconds", "Time until the answer to a request began, by the pattern of its route.",
		[]string{"route", "status"}, &s.Counts.Requests, func(r management.Request) []string { return []string{r.Route, statusText(r.Status)} })
	m.Counter("mlaas_conflicts_total", "Commits that met another one and were decided anew.", observe.Labels{"service": "management"}, &s.Counts.Conflicts)
	m.Gauge("mlaas_stream_clients", "Live streams that are open, and logs that are followed.", nil, func() float64 { return float64(s.Streams()) })
	m.Counter("mlaas_stream_dropped_total", "Live streams whose client took nothing for too long.", nil, &s.Counts.Dropped)
}

// statusText keeps the classes of success together; what fails is told apart.
func statusText(status int) string {
	switch {
	case status == 0:
		return "gone"
	case status < 400:
		return "ok"
	case status == 429, status == 503, status == 507:
		return map[int]string{429: "429", 503: "503", 507: "507"}[status]
	case status < 500:
		return "4xx"
	}
	return "5xx"
}

func showQueue(m *observe.Metrics, inbox string, c *queue.Counts) {
	l := observe.Labels{"inbox": inbox}
	m.Counter("mlaas_messages_handled_total", "Messages that were handled.", l, &c.Handled)
	m.Counter("mlaas_messages_redelivered_total", "Messages that came again: they failed before, or whoever had them went.", l, &c.Redelivered)
	m.Counter("mlaas_messages_failed_total", "Handlings that failed; the message comes again.", l, &c.Failed)
	m.Counter("mlaas_messages_parked_total", "Messages that were given up.", l, &c.Parked)
	m.Counter("mlaas_conflicts_total", "Commits that met another one and were decided anew.", observe.Labels{"service": "inbox " + inbox}, &c.Conflicts)
	m.Histogram("mlaas_message_seconds", "Time to handle a message.", l, &c.Took)
}

func showContractor(m *observe.Metrics, c *contractor.Counts) {
	showQueue(m, mlaas.ToContractor, &c.Queue)
	m.Counter("mlaas_conflicts_total", "Commits that met another one and were decided anew.", observe.Labels{"service": "contractor"}, &c.Conflicts)
	m.Age("mlaas_reconcile_age_seconds", "How long ago wish and state were last compared to the end.", observe.Labels{"service": "contractor"}, &c.Reconciled)
}

func showBooster(m *observe.Metrics, cluster string, c *booster.Counts) {
	showQueue(m, mlaas.ToBooster(cluster), &c.Queue)
	notices := "notices"
	if cluster != localCluster {
		notices += " " + cluster
	}
	showQueue(m, notices, &c.Notices)
	l := observe.Labels{"cluster": cluster}
	m.Counter("mlaas_stale_refused_total", "What attempts that are over wanted, and were refused.", l, &c.Stale)
	m.Counter("mlaas_supervisor_calls_total", "Supervisors that called at the door.", l, &c.Lines)
	m.Age("mlaas_reconcile_age_seconds", "How long ago wish and state were last compared to the end.", observe.Labels{"service": "booster " + cluster}, &c.Reconciled)
}

func showSyncs(m *observe.Metrics, h *meter.Histogram) {
	m.Histogram("mlaas_store_sync_seconds", "Time until a group of commits was on disk.", nil, h)
}

// logger logs as the flags say.
func (c *cli) logger(level, format string) (*slog.Logger, error) {
	var at slog.Level
	if err := at.UnmarshalText([]byte(level)); err != nil {
		return nil, mlaas.Invalid("--log-level", "debug, info, warn or error", level)
	}
	o := &slog.HandlerOptions{Level: at}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(c.Err, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(c.Err, o)), nil
	}
	return nil, mlaas.Invalid("--log-format", "text or json", format)
}

// stopTracer sends what is left of the traces.
func stopTracer(stop func(context.Context) error, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), flushWithin)
	defer cancel()
	if err := stop(ctx); err != nil {
		log.Warn("some traces were not sent", "error", err)
	}
}
