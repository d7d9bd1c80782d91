package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/contractor"
	"mlaas.dev/mlaas/internal/meter"
	"mlaas.dev/mlaas/management"
	"mlaas.dev/mlaas/observe"
	"mlaas.dev/mlaas/store/sqlitestore"
)

// Every metric that the dashboard and the alerts name is one that a process
// shows, and every one of ours is watched by one of them.
func TestWatched(t *testing.T) {
	db, err := sqlitestore.Open(t.Context(), ":memory:", sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	m := observe.NewMetrics("test")
	m.Store(db)
	showSyncs(m, new(meter.Histogram))
	showManagement(m, new(management.Management))
	showContractor(m, new(contractor.Counts))
	showBooster(m, "local", new(booster.Counts))
	names := append(m.Names(), "up") // Prometheus makes that one

	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Labels      struct{ Severity string }
				Annotations struct{ Summary, Description string }
			}
		}
	}
	read := func(path string, into any) {
		t.Helper()
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", path))
		if err == nil && strings.HasSuffix(path, ".json") {
			err = json.Unmarshal(text, into)
		} else if err == nil {
			err = yaml.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	read("grafana/mlaas.json", &dashboard)
	read("prometheus/alerts.yaml", &alerts)
	used := map[string]bool{"mlaas_build_info": true, "mlaas_cluster_heard_seconds": true} // of use beside others
	metric := regexp.MustCompile(`\b(mlaas|go|process)_[a-z_]+|\bup\b`)
	check := func(where, expr string) {
		found := metric.FindAllString(expr, -1)
		if len(found) == 0 {
			t.Errorf("%s asks for nothing: %s", where, expr)
		}
		for _, name := range found {
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				if base, ok := strings.CutSuffix(name, suffix); ok && slices.Contains(names, base) {
					name = base
				}
			}
			used[name] = true
			if !slices.Contains(names, name) {
				t.Errorf("%s: there is no %s", where, name)
			}
		}
	}
	panels := 0
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			check("panel "+p.Title, target.Expr)
			panels++
		}
	}
	rules := 0
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			check("alert "+r.Alert, r.Expr)
			if r.Labels.Severity == "" || r.Annotations.Summary == "" || r.Annotations.Description == "" {
				t.Errorf("alert %s does not say how urgent it is, what it means and what to do", r.Alert)
			}
			rules++
		}
	}
	if panels < 20 || rules < 8 {
		t.Errorf("%d expressions of panels and %d alerts were read", panels, rules)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "mlaas_") && !used[name] {
			t.Errorf("nobody watches %s", name)
		}
	}
}
