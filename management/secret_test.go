package management

import (
	"bytes"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/store"
)

// A record of all that is logged.
type logged struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func TestSecrets(t *testing.T) {
	const canary = "c4nary-hunter2"
	var log logged
	var said strings.Builder
	a := start(t, func(m *Management) {
		m.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	do := func(method, path string, body any, headers ...string) *reply {
		t.Helper()
		r := a.do(method, path, body, headers...)
		said.Write(r.Body)
		return r
	}
	do("POST", "/api/secret", map[string]any{"name": "hub", "value": canary + "1"}, "Idempotency-Key", "k1").want(201).is("name", "hub").is("version", 1)
	do("POST", "/api/secret", map[string]any{"name": "hub", "value": canary + "1"}, "Idempotency-Key", "k1").want(201).is("version", 1)
	do("POST", "/api/secret", map[string]any{"name": "other", "value": canary}).want(201)
	a.ready("j")
	use := map[string]any{"environment": map[string]any{"secrets": []any{map[string]any{"secret": "hub", "variable": "HUB"}}}}
	do("PATCH", "/api/job/j", use).want(200)
	first := do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	do("POST", "/api/secret", map[string]any{"name": "hub", "value": canary + "2"}).want(201).is("version", 2)
	second := do("POST", "/api/job/j/run", nil).want(202).get("id").(string)
	for run, version := range map[string]int{first: 1, second: 2} { // each has the one of then
		do("GET", "/api/run/"+run, nil).want(200).is("spec.environment.secrets.0.version", version)
	}
	do("GET", "/api/job/j", nil).want(200).is("environment.secrets.0.version", nil)
	do("GET", "/api/secret", nil).want(200).is("items.0.name", "hub").is("items.0.version", 2).is("items.1.name", "other").is("items.2", nil)

	for _, tt := range []struct {
		body        any
		field, says string
	}{
		{map[string]any{"name": "Hub/1", "value": canary}, "name", "a-z"},
		{map[string]any{"name": "hub", "value": ""}, "value", "1 to 65536 bytes"},
		{map[string]any{"name": "hub", "value": strings.Repeat(canary, maxSecret/len(canary)+1)}, "value", `bytes", want 1 to`},
		{map[string]any{"name": "hub", "valu": canary}, "valu", ""},
		{map[string]any{"name": "hub", "value": []any{canary}}, "value", ""},
	} {
		do("POST", "/api/secret", tt.body).refuses(422, "invalid", tt.field, tt.says)
	}
	do("POST", "/api/secret", `{"name": "hub", "value": "`+canary).want(400)
	do("GET", "/api/secret/hub", nil).want(405)
	do("DELETE", "/api/secret/hub", nil).want(204)
	do("DELETE", "/api/secret/hub", nil).refuses(404, "not_found", "", "secret hub")
	do("POST", "/api/job/j/run", nil).refuses(422, "invalid", "environment.secrets[0].secret", "mlaas secret set")

	// Sealed for its own name and version; what it holds is nowhere else.
	found, _, err := store.Secrets(a.DB).Get(t.Context(), mlaas.DefaultTenant, store.SecretKey("other", 1))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := auth.Unseal(a.Key, found.About(), found.Sealed); err != nil || string(plain) != canary {
		t.Errorf("unsealed: %q %v", plain, err)
	}
	renamed := found
	renamed.Name = "hub"
	if _, err := auth.Unseal(a.Key, renamed.About(), renamed.Sealed); err == nil {
		t.Error("a secret opens under another's name")
	}
	if strings.Contains(said.String(), canary) {
		t.Errorf("an answer holds it: %s", said.String())
	}
	if strings.Contains(log.String(), canary) {
		t.Errorf("the log holds it: %s", log.String())
	}
	root := filepath.Dir(a.store().Dir)
	if err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(canary)) {
			t.Errorf("%s holds it", path)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}
