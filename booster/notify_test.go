package booster_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/store"
)

// Whoever wants to know of the end of a run is told, once, by an id that stays,
// also where the message comes again; who does not, is not.
func TestRunEnded(t *testing.T) {
	bubble(t, mute, func(h *house) {
		h.hooks.fail = 1
		r := run("run1", map[string]int{"worker": 1})
		on := []mlaas.State{mlaas.Failed}
		h.commit(store.Batch{Put: []store.Row{
			store.Runs(h.db).Put(r, 0),
			store.RunStates(h.db).Put(mlaas.RunState{Run: r.ID, Tenant: r.Tenant, Job: r.Job, State: mlaas.Failed, Reason: "worker-0 failed with 1"}, 0),
			store.Subscriptions(h.db).Put(mlaas.Subscription{ID: "mine", Tenant: r.Tenant, On: on, URL: "http://hook.example/x", Secret: "hook"}, 0),
			store.Subscriptions(h.db).Put(mlaas.Subscription{ID: "other-job", Tenant: r.Tenant, Job: "other", On: on, URL: "http://hook.example/y"}, 0),
			store.Subscriptions(h.db).Put(mlaas.Subscription{ID: "other-end", Tenant: r.Tenant, On: []mlaas.State{mlaas.Succeeded}, URL: "http://hook.example/z"}, 0),
			store.Subscriptions(h.db).Put(mlaas.Subscription{ID: "other-team", Tenant: "others", On: on, URL: "http://hook.example/o"}, 0),
		}})
		ended := mlaas.RunEnded{Tenant: r.Tenant, Run: r.ID}
		h.commit(store.Batch{Tell: []store.Message{queue.Tell(ended), queue.Tell(ended)}})
		time.Sleep(time.Minute)
		h.commit(store.Batch{Tell: []store.Message{queue.Tell(ended)}})
		time.Sleep(time.Minute)
		all, err := store.Deliveries(h.db).All(h.ctx, store.Query{Index: "subscription=mine"})
		if err != nil || len(all) != 1 || all[0].Value.State != mlaas.Delivered || len(all[0].Value.Tries) != 2 {
			t.Fatalf("deliveries: %+v, %v; want one, taken at the second try", all, err)
		}
		h.hooks.mu.Lock()
		raw, text := slices.Clone(h.hooks.raw), slices.Clone(h.hooks.text)
		h.hooks.mu.Unlock()
		if len(raw) != 2 || raw[0].Header.Get("Webhook-Id") != all[0].Value.ID || raw[1].Header.Get("Webhook-Signature") == "" {
			t.Fatalf("%d requests, want two tries of one id, signed", len(raw))
		}
		var e struct {
			booster.CloudEvent
			Data booster.RunNotice `json:"data"`
		}
		if err := json.Unmarshal([]byte(text[1]), &e); err != nil {
			t.Fatal(err)
		}
		if e.Type != booster.EndedType || e.Subject != "mnist/7" || e.Data.State != mlaas.Failed || e.Data.Text != "mnist/7 failed: worker-0 failed with 1" {
			t.Errorf("the event is %s", text[1])
		}
	})
}

// Somebody tries whether it arrives; where there is no mail server, the log of
// the delivery says what is missing.
func TestTestAsked(t *testing.T) {
	bubble(t, mute, func(h *house) {
		const tenant = mlaas.DefaultTenant
		h.commit(store.Batch{Put: []store.Row{
			store.Subscriptions(h.db).Put(mlaas.Subscription{ID: "hook", Tenant: tenant, On: mlaas.Ends, URL: "http://hook.example/x"}, 0),
			store.Subscriptions(h.db).Put(mlaas.Subscription{ID: "mail", Tenant: tenant, On: mlaas.Ends, Email: "ada@example.org"}, 0),
		}, Tell: []store.Message{
			queue.Tell(mlaas.TestAsked{Tenant: tenant, Subscription: "hook", Delivery: "a"}),
			queue.Tell(mlaas.TestAsked{Tenant: tenant, Subscription: "mail", Delivery: "b"}),
			queue.Tell(mlaas.TestAsked{Tenant: tenant, Subscription: "gone", Delivery: "c"}),
		}})
		time.Sleep(time.Hour)
		all, err := store.Deliveries(h.db).All(h.ctx, store.Query{Tenant: tenant, Prefix: "/"})
		if err != nil || len(all) != 2 {
			t.Fatalf("deliveries: %+v, %v; want two", all, err)
		}
		if d := all[0].Value; d.ID != "a" || d.State != mlaas.Delivered {
			t.Errorf("the webhook: %+v", d)
		}
		if d := all[1].Value; d.ID != "b" || d.State != mlaas.DeliveryFailed || !strings.Contains(d.Tries[0].Error, "MLAAS_SMTP") {
			t.Errorf("the e-mail: %+v", d)
		}
	})
}
