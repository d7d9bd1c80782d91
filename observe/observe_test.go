package observe

import (
	"context"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/internal/meter"
	"mlaas.dev/mlaas/store"
	"mlaas.dev/mlaas/store/sqlitestore"
)

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestMetrics(t *testing.T) {
	db, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	state := func(id mlaas.RunID, s mlaas.State) store.Row {
		return store.RunStates(db).Put(mlaas.RunState{Run: id, Tenant: "a", State: s}, 0)
	}
	err = db.Commit(t.Context(), store.Batch{
		Put: []store.Row{state("1", mlaas.Running), state("2", mlaas.Running), state("3", mlaas.Failed),
			store.Clusters(db).Put(mlaas.Cluster{Name: "local", Up: true, Heard: time.Now()}, 0)},
		Tell: []store.Message{{To: "x", Due: time.Now().Add(-time.Minute)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var (
		c     meter.Counter
		h     meter.Histogram
		by    meter.Histograms[string]
		at    meter.Moment
		never meter.Moment
	)
	c.Add(7)
	h.Observe(3 * time.Millisecond)
	by.Of("GET /a").Observe(time.Second)
	at.Set(time.Now().Add(-time.Hour))
	m := NewMetrics("v9")
	m.Store(db)
	m.Counter("mlaas_c_total", "C.", Labels{"of": "it"}, &c)
	m.Histogram("mlaas_h_seconds", "H.", nil, &h)
	Histograms(m, "mlaas_by_seconds", "By.", []string{"route"}, &by, func(n string) []string { return []string{n} })
	m.Age("mlaas_age_seconds", "Age.", nil, &at)
	m.Age("mlaas_never_seconds", "Never.", nil, &never)
	text := scrape(t, m)
	for _, want := range []string{
		`mlaas_build_info\{go="go[^"]+",version="v9"\} 1`,
		`mlaas_c_total\{of="it"\} 7`,
		`mlaas_h_seconds_bucket\{le="0.0025"\} 0`, `mlaas_h_seconds_bucket\{le="0.005"\} 1`, `mlaas_h_seconds_bucket\{le="\+Inf"\} 1`, `mlaas_h_seconds_sum 0.003`, `mlaas_h_seconds_count 1`,
		`mlaas_by_seconds_count\{route="GET /a"\} 1`,
		`mlaas_age_seconds 36\d\d\..+`,
		`mlaas_store_up 1`, `mlaas_store_records 4`, `mlaas_messages_waiting 1`, `mlaas_messages_parked 0`, `mlaas_store_commits_total 1`,
		`mlaas_runs\{state="running"\} 2`, `mlaas_runs\{state="queued"\} 0`, `mlaas_cluster_up\{cluster="local"\} 1`,
		`go_goroutines \d+`, `process_open_fds \d+`,
	} {
		if !regexp.MustCompile("(?m)^" + want + "$").MatchString(text) {
			t.Errorf("%s is not there", want)
		}
	}
	if strings.Contains(text, "mlaas_never_seconds") || strings.Contains(text, `state="failed"`) {
		t.Error("it tells of what never was, or of what is over")
	}
	for _, name := range []string{"mlaas_never_seconds", "mlaas_runs", "mlaas_by_seconds", "go_goroutines"} {
		if !slices.Contains(m.Names(), name) {
			t.Errorf("%s is none of the names", name)
		}
	}
	db.Close()
	if text := scrape(t, m); !strings.Contains(text, "mlaas_store_up 0") || strings.Contains(text, "mlaas_store_records") || !strings.Contains(text, "mlaas_c_total") {
		t.Errorf("of a store that is away:\n%s", text)
	}
}

// Where nobody is named to send traces to, there is no tracer.
func TestNoTracer(t *testing.T) {
	for _, env := range []map[string]string{{}, {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}} {
		tracer, stop, err := NewTracer(t.Context(), "mlaas", "v9", func(k string) string { return env[k] })
		if tracer != nil || err != nil || stop(t.Context()) != nil {
			t.Errorf("%v: %v, %v", env, tracer, err)
		}
	}
}

// A collector that is away holds nobody up: what cannot be sent is given up
// when it is time.
func TestAway(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	tracer, stop, err := NewTracer(t.Context(), "mlaas", "v9", func(k string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}[k]
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range 10_000 { // more than is kept for sending
		_, end := tracer.Start(t.Context(), "a", "", "k", "v")
		end(errors.New("failed"))
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("10,000 spans took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began = time.Now()
	_ = stop(ctx) // it cannot be sent
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it ends after %v", took)
	}
}
