package store_test

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// v0.1.jsonl has the records of a platform of v0.1 after some work: runs that
// succeeded, failed, run and wait. This version reads all of it, and when it
// writes a record anew v0.1 finds everything there that it wrote.
func TestBefore(t *testing.T) {
	text, err := os.ReadFile("testdata/v0.1.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	type reader func(store.Row) (store.Row, error)
	readers := map[string]reader{
		"job": again(store.Jobs(nil)), "jobname": again(store.JobNames(nil)), "version": again(store.Versions(nil)), "run": again(store.Runs(nil)),
		"runstate": again(store.RunStates(nil)), "launch": again(store.Launches(nil)), "ledger": again(store.Ledgers(nil)), "replica": again(store.Replicas(nil)),
		"cluster": again(store.Clusters(nil)), "checkpoint": again(store.Checkpoints(nil)), "dataset": again(store.Datasets(nil)), "secret": again(store.Secrets(nil)),
		"link": again(store.Links(nil)),
	}
	seen := map[string]int{}
	for line := range bytes.Lines(text) {
		var in struct {
			Kind, ID string
			Tenant   mlaas.Tenant
			Index    []string
			Data     json.RawMessage
		}
		if err := json.Unmarshal(line, &in); err != nil {
			t.Fatal(err)
		}
		read, ok := readers[in.Kind]
		if !ok {
			continue // what a service keeps for itself alone
		}
		seen[in.Kind]++
		was := store.Row{Key: store.Key{Kind: in.Kind, Tenant: in.Tenant, ID: in.ID}, Data: in.Data, Index: in.Index}
		is, err := read(was)
		if err != nil {
			t.Errorf("%s: %v", was.Key, err)
			continue
		}
		known := slices.DeleteFunc(slices.Clone(is.Index), func(s string) bool { return s == store.LiveOn("local") }) // v0.1 does not look by it
		if is.Key != was.Key || !slices.Equal(known, was.Index) {
			t.Errorf("%s is kept as %s by %q, was by %q", was.Key, is.Key, is.Index, was.Index)
		}
		var a, b any
		if json.Unmarshal(was.Data, &a) != nil || json.Unmarshal(is.Data, &b) != nil {
			t.Fatalf("%s is no JSON", was.Key)
		}
		holds(t, was.Key.String(), a, b)
	}
	for kind := range readers {
		if seen[kind] == 0 {
			t.Errorf("there is no %s among them", kind)
		}
	}
}

func again[T any](r store.Records[T]) func(store.Row) (store.Row, error) {
	return func(row store.Row) (store.Row, error) {
		v, err := r.Decode(row)
		if err != nil {
			return store.Row{}, err
		}
		return r.Put(v, row.Rev), nil
	}
}

// holds wants all of a in b, which may have more.
func holds(t *testing.T, at string, a, b any) {
	t.Helper()
	switch a := a.(type) {
	case map[string]any:
		m, _ := b.(map[string]any)
		for k, v := range a {
			if _, ok := m[k]; !ok {
				t.Errorf("%s.%s is gone", at, k)
				continue
			}
			holds(t, at+"."+k, v, m[k])
		}
	case []any:
		l, _ := b.([]any)
		if len(l) != len(a) {
			t.Errorf("%s has %d entries, had %d", at, len(l), len(a))
			return
		}
		for i := range a {
			holds(t, at, a[i], l[i])
		}
	default:
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s is %v, was %v", at, b, a)
		}
	}
}
