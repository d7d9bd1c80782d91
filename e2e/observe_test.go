package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A receiver takes spans as a collector does.
type receiver struct {
	mu    sync.Mutex
	spans []*trace.Span
	news  chan struct{}
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body := io.Reader(req.Body)
	if req.Header.Get("Content-Encoding") == "gzip" {
		zip, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		body = zip
	}
	data, err := io.ReadAll(body)
	var in collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(data, &in)
	}
	if err != nil || req.URL.Path != "/v1/traces" {
		http.Error(w, req.URL.Path, 400)
		return
	}
	r.mu.Lock()
	for _, of := range in.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// of lists the spans of a trace.
func (r *receiver) of(id string) (found []*trace.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if hex.EncodeToString(s.TraceId) == id {
			found = append(found, s)
		}
	}
	return found
}

// TestTrace follows one request from outside through every service, over the
// messages between them, to the moment that the user's program is started: all
// of it is one trace, whose id the caller chose.
func TestTrace(t *testing.T) {
	r := &receiver{news: make(chan struct{}, 1)}
	server := httptest.NewServer(r)
	defer server.Close()
	dir, l := t.TempDir(), &one{bin: binary(t)}
	t.Cleanup(l.down)
	env, err := l.up(dir, append(os.Environ(), append(network(), "OTEL_EXPORTER_OTLP_ENDPOINT="+server.URL)...), []string{"--log-format", "json", "--log-level", "info"})
	if err != nil {
		t.Fatal(err)
	}
	c := caller{t, variables(env)}
	c.must("POST", "/api/job", map[string]any{"name": "traced"}, nil)
	c.must("POST", "/api/job/traced/code", map[string]any{"files": map[string]string{"main.py": "print('hello')"}}, nil)
	const id, from = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	req, err := http.NewRequest("POST", c.env["MLAAS_URL"]+"/api/job/traced/run", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.env["MLAAS_TOKEN"])
	req.Header.Set("Traceparent", "00-"+id+"-"+from+"-01")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(res.Body)
	res.Body.Close()
	var run struct{ ID, Trace string }
	if err != nil || json.Unmarshal(data, &run) != nil || !strings.HasPrefix(run.Trace, "00-"+id) {
		t.Fatalf("the run says %s, %v", data, err)
	}

	want := []string{"POST /api/job/{id}/run", "contractor RunAsked", "contractor place", "booster/local ReplicasWanted", "start replica", "booster/local CodeReady", "program started"}
	late := time.After(patience)
	spans := map[string]*trace.Span{}
	for slices.ContainsFunc(want, func(name string) bool { return spans[name] == nil }) {
		select {
		case <-r.news:
		case <-late:
			t.Fatalf("of %q there are %v", want, names(r.of(id)))
		}
		for _, s := range r.of(id) {
			spans[s.Name] = s
		}
	}
	parents := map[string]string{
		"contractor RunAsked":          "POST /api/job/{id}/run",
		"contractor place":             "POST /api/job/{id}/run",
		"booster/local ReplicasWanted": "contractor place",
		"start replica":                "booster/local ReplicasWanted",
		"booster/local CodeReady":      "POST /api/job/{id}/run",
		"program started":              "POST /api/job/{id}/run",
	}
	for name, parent := range parents {
		if !bytes.Equal(spans[name].ParentSpanId, spans[parent].SpanId) {
			t.Errorf("%q is not a part of %q", name, parent)
		}
	}
	if got := hex.EncodeToString(spans[want[0]].ParentSpanId); got != from {
		t.Errorf("the request is a part of %s, want of the caller's %s", got, from)
	}
	if s := spans["program started"]; s.EndTimeUnixNano <= s.StartTimeUnixNano || s.StartTimeUnixNano < spans[want[0]].StartTimeUnixNano {
		t.Errorf("the program was started from %d to %d, asked for at %d", s.StartTimeUnixNano, s.EndTimeUnixNano, spans[want[0]].StartTimeUnixNano)
	}

	// What is counted, and to whom it is shown.
	c.until("the end of the run", func() bool {
		var r struct{ Status struct{ State string } }
		c.must("GET", "/api/run/"+run.ID, nil, &r)
		return r.Status.State == "succeeded"
	})
	var text []byte
	c.must("GET", "/metrics", nil, &text)
	for name, least := range map[string]float64{
		`mlaas_http_request_seconds_count{route="POST /api/job/{id}/run",status="ok"}`: 1,
		`mlaas_messages_handled_total{inbox="contractor"}`:                             2,
		`mlaas_messages_handled_total{inbox="booster/local"}`:                          2,
		`mlaas_store_commits_total`:                                                    5,
		`mlaas_store_sync_seconds_count`:                                               5,
		`mlaas_supervisor_calls_total{cluster="local"}`:                                1,
		`mlaas_store_up`:                    1,
		`mlaas_cluster_up{cluster="local"}`: 1,
	} {
		line := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(name) + " (.+)$").FindSubmatch(text)
		if line == nil {
			t.Errorf("%s is not there", name)
			continue
		}
		if v, err := strconv.ParseFloat(string(line[1]), 64); err != nil || v < least {
			t.Errorf("%s is %s, want at least %v", name, line[1], least)
		}
	}
	res, err = http.Get(c.env["MLAAS_URL"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("/metrics answers nobody with %s", res.Status)
	}
	l.down()
	found := false
	for line := range strings.Lines(l.said.String()) {
		var entry struct{ Msg, Run string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("the log has a line that is no JSON: %s", line)
		}
		found = found || entry.Run == run.ID
	}
	if !found {
		t.Errorf("no line of the log has the run's id:\n%s", l.said.String())
	}
}

func names(spans []*trace.Span) (all []string) {
	for _, s := range spans {
		all = append(all, s.Name)
	}
	return all
}
