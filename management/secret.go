package management

import (
	"context"
	"fmt"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/store"
)

// Secrets are write-only: they can be set, listed by name and removed, and
// only a supervisor that starts a program gets what they hold.

// maxSecret is how long a secret may be.
const maxSecret = 64 << 10

// A SecretInfo is a secret without what it holds.
type SecretInfo struct {
	Name    string    `json:"name" example:"hub-token"`
	Version int       `json:"version" doc:"The newest; a run names the one that it was asked for with"`
	Updated time.Time `json:"updated"`
}

type secretIn struct {
	Body SecretValue
}

// A SecretValue sets a secret.
type SecretValue struct {
	Name  string `json:"name" example:"hub-token"`
	Value string `json:"value" doc:"At most 64 KiB; it is sealed before it is stored, and nobody can read it back"`
}

// setSecret makes a new version of a secret.
func (m *Management) setSecret(ctx context.Context, in *secretIn) (*Answer[SecretInfo], store.Batch, error) {
	tenant, v := tenantOf(ctx), in.Body
	if err := mlaas.CheckName("name", v.Name); err != nil {
		return nil, store.Batch{}, err
	}
	if v.Value == "" || len(v.Value) > maxSecret {
		return nil, store.Batch{}, mlaas.Invalid("value", "1 to 65536 bytes", fmt.Sprintf("%d bytes", len(v.Value)))
	}
	newest, err := newestSecret(ctx, m.DB, tenant, v.Name)
	if err != nil {
		return nil, store.Batch{}, err
	}
	s := store.Secret{Tenant: tenant, Name: v.Name, Version: newest + 1, Created: m.stamp()}
	if s.Sealed, err = auth.Seal(m.Key, s.About(), []byte(v.Value)); err != nil {
		return nil, store.Batch{}, err
	}
	return &Answer[SecretInfo]{Location: "/api/secret/" + s.Name, Body: SecretInfo{s.Name, s.Version, s.Created}},
		store.Batch{Put: []store.Row{store.Secrets(m.DB).Put(s, 0)}}, nil
}

// newestSecret returns the newest version of a secret, 0 where there is none.
func newestSecret(ctx context.Context, db store.Driver, tenant mlaas.Tenant, name string) (int, error) {
	found, _, err := store.Secrets(db).List(ctx, store.Query{Tenant: tenant, Prefix: name + "/", Reverse: true, Limit: 1})
	if err != nil || len(found) == 0 {
		return 0, err
	}
	return found[0].Value.Version, nil
}

// pinSecrets names the newest version of each secret that a run uses, so that
// the run can be done again.
func (m *Management) pinSecrets(ctx context.Context, tenant mlaas.Tenant, uses []mlaas.SecretUse) ([]mlaas.SecretUse, error) {
	pinned := append([]mlaas.SecretUse(nil), uses...)
	for i, u := range pinned {
		if u.Version != 0 {
			continue
		}
		newest, err := newestSecret(ctx, m.DB, tenant, u.Secret)
		if err != nil {
			return nil, err
		}
		if newest == 0 {
			return nil, mlaas.Invalid(fmt.Sprintf("environment.secrets[%d].secret", i), "a secret that was set; POST /api/secret or `mlaas secret set` does", u.Secret)
		}
		pinned[i].Version = newest
	}
	return pinned, nil
}

// checkSigners reports a rule whose webhook is signed by a secret that is not
// there.
func (m *Management) checkSigners(ctx context.Context, tenant mlaas.Tenant, rules []mlaas.ActionRule) error {
	for i, r := range rules {
		if r.Do != mlaas.RuleWebhook {
			continue
		}
		newest, err := newestSecret(ctx, m.DB, tenant, r.Secret)
		if err != nil {
			return err
		}
		if newest == 0 {
			return mlaas.Invalid(fmt.Sprintf("rules[%d].secret", i), "a secret that was set; POST /api/secret or `mlaas secret set` does", r.Secret)
		}
	}
	return nil
}

type secretsIn struct{ Paging }

// listSecrets lists the newest version of each secret.
func (m *Management) listSecrets(ctx context.Context, in *secretsIn) (*Answer[List[SecretInfo]], error) {
	all, err := store.Secrets(m.DB).All(ctx, store.Query{Tenant: tenantOf(ctx)})
	if err != nil {
		return nil, err
	}
	var items []SecretInfo
	for _, f := range all { // by name, then by version
		s := SecretInfo{f.Value.Name, f.Value.Version, f.Value.Created}
		if n := len(items); n > 0 && items[n-1].Name == s.Name {
			items[n-1] = s
			continue
		}
		items = append(items, s)
	}
	return part(items, in.Paging)
}

type secretNameIn struct {
	Name string `path:"name" doc:"The name of a secret" example:"hub-token"`
}

// deleteSecret removes every version. Runs that were asked for with it and
// have not started will fail, and say why.
func (m *Management) deleteSecret(ctx context.Context, in *secretNameIn) (*Answer[None], store.Batch, error) {
	found, err := store.Secrets(m.DB).All(ctx, store.Query{Tenant: tenantOf(ctx), Prefix: in.Name + "/"})
	if err != nil {
		return nil, store.Batch{}, err
	}
	if len(found) == 0 {
		return nil, store.Batch{}, fmt.Errorf("secret %s: %w", in.Name, mlaas.ErrNotFound)
	}
	var b store.Batch
	for _, f := range found {
		b.Delete = append(b.Delete, store.Secrets(m.DB).At(f.Value.Tenant, store.SecretKey(f.Value.Name, f.Value.Version), f.Rev))
	}
	return &Answer[None]{}, b, nil
}
