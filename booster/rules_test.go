package booster_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/scripted"
	"mlaas.dev/mlaas/queue"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// begin starts the first attempt of a run with these rules.
func (h *house) begin(r *mlaas.Run, rules ...mlaas.ActionRule) {
	h.Helper()
	r.Spec.Rules = rules
	h.ask(*r, 1)
	for role, x := range r.Spec.Roles {
		for i := range x.Replicas.Max {
			h.status(*r, mlaas.ReplicaName(role, i), time.Minute, mlaas.ReplicaReady)
		}
	}
	h.launch(*r, 1)
}

// A program that hangs is found out, once for each time that it does; one that
// goes on is left alone.
func TestRuleNoStep(t *testing.T) {
	bubble(t, func(f mlaas.Fence) scripted.Script {
		s := scripted.Script{Steps: 1e6, Every: 5 * time.Minute}
		if f.Replica == "worker-1" {
			s.Every, s.HangAt = time.Minute, 3
		}
		return s
	}, func(h *house) {
		r := run("run1", map[string]int{"worker": 2, "ps": 1})
		h.begin(&r, mlaas.ActionRule{Name: "hung", On: mlaas.RuleOn{NoStep: 600, Role: "worker"}, Do: mlaas.RuleElsewhere})
		h.status(r, "worker-1", time.Minute, mlaas.ReplicaRunning)
		time.Sleep(3*time.Minute + 9*time.Minute)
		if got := h.told("rule"); len(got) != 0 {
			t.Fatalf("fired too early: %q", got)
		}
		time.Sleep(2 * time.Minute)
		want := []string{"rule hung fired for worker-1 in 1: worker-1 made no step for 10m0s after step 3"}
		if got := h.told("rule"); !slices.Equal(got, want) {
			t.Fatalf("fired %q, want %q", got, want)
		}
		time.Sleep(time.Hour)
		if got := h.told("rule"); !slices.Equal(got, want) {
			t.Errorf("fired %q, want once for one stall", got)
		}
		// What it does while nobody listens is not held against it.
		h.end()
		time.Sleep(time.Hour)
		h.open()
		time.Sleep(5 * time.Minute)
		if got := h.told("rule"); !slices.Equal(got, want) {
			t.Errorf("fired %q before 10 minutes of the next booster", got)
		}
	})
}

func TestRuleIdle(t *testing.T) {
	part := func(v float64) *float64 { return &v }
	bubble(t, func(f mlaas.Fence) scripted.Script {
		return scripted.Script{Steps: 1e6, Every: time.Minute, Uses: func(ran time.Duration) mlaas.Usage {
			u := mlaas.Usage{CPUSeconds: ran.Seconds() * 0.5, GPUBusy: part(0.9)}
			if f.Replica == "worker-1" && ran > 10*time.Minute { // from here on it does nothing
				u = mlaas.Usage{CPUSeconds: 300 + (ran.Seconds()-600)*0.01, GPUBusy: part(0.01)}
			}
			if f.Replica == "worker-2" {
				u.GPUBusy = nil // it has none
			}
			return u
		}}
	}, func(h *house) {
		r := run("run1", map[string]int{"worker": 3})
		h.begin(&r,
			mlaas.ActionRule{Name: "cpu", On: mlaas.RuleOn{CPUIdle: 300}, Do: mlaas.RuleStop},
			mlaas.ActionRule{Name: "gpu", On: mlaas.RuleOn{GPUIdle: 120}, Do: mlaas.RuleStop},
			mlaas.ActionRule{Name: "both", On: mlaas.RuleOn{GPUIdle: 120, CPUIdle: 600}, Do: mlaas.RuleStop})
		time.Sleep(11 * time.Minute)
		if got := h.told("rule"); len(got) != 0 {
			t.Fatalf("fired too early: %q", got)
		}
		time.Sleep(20 * time.Minute)
		got := h.told("rule")
		want := []string{
			"rule gpu fired for worker-1 in 1: worker-1 left its GPUs idle for 2m0s",
			"rule cpu fired for worker-1 in 1: worker-1 used no CPU to speak of for 5m0s",
			"rule both fired for worker-1 in 1: worker-1 used no CPU to speak of for 10m0s and left its GPUs idle for 2m0s",
		}
		if !slices.Equal(got, want) {
			t.Errorf("fired:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// Memory, a machine and a reason are told apart from other ends.
func TestRuleEnds(t *testing.T) {
	bubble(t, func(f mlaas.Fence) scripted.Script {
		switch f.Replica {
		case "worker-0":
			return scripted.Script{FailAt: 5, OOM: true}
		case "worker-1":
			return scripted.Script{Steps: 100, LostAt: 5 * time.Second, Machine: true}
		case "worker-2":
			return scripted.Script{Steps: 100, LostAt: 5 * time.Second}
		}
		return scripted.Script{FailAt: 5, Exit: 137}
	}, func(h *house) {
		r := run("run1", map[string]int{"worker": 4})
		h.begin(&r,
			mlaas.ActionRule{Name: "memory", On: mlaas.RuleOn{OOM: true}, Do: mlaas.RuleStop},
			mlaas.ActionRule{Name: "node", On: mlaas.RuleOn{NodeLost: true}, Do: mlaas.RuleElsewhere},
			mlaas.ActionRule{Name: "word", On: mlaas.RuleOn{Reason: "without a word"}, Do: mlaas.RuleStop})
		for _, name := range []string{"worker-0", "worker-3"} {
			h.status(r, name, time.Hour, mlaas.ReplicaFailed)
		}
		for _, name := range []string{"worker-1", "worker-2"} {
			h.status(r, name, time.Hour, mlaas.ReplicaLost)
		}
		time.Sleep(time.Minute)
		got := h.told("rule")
		slices.Sort(got)
		want := []string{
			"rule memory fired for worker-0 in 1: worker-0 is failed with exit code 137, out of memory",
			"rule node fired for worker-1 in 1: worker-1 is lost, its node is lost",
			"rule word fired for worker-1 in 1: worker-1 is lost: it is gone without a word",
			"rule word fired for worker-2 in 1: worker-2 is lost: it is gone without a word",
		}
		if !slices.Equal(got, want) {
			t.Errorf("fired:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if rep, _ := h.replica(r, "worker-1"); !rep.NodeLost || !rep.History[len(rep.History)-1].NodeLost {
			t.Errorf("its record does not say that its node is lost: %+v", rep.History)
		}
	})
}

// A reason may change while the status stays: it counts when it begins to match.
func TestRuleReason(t *testing.T) {
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		r.Spec.Rules = []mlaas.ActionRule{{Name: "pull", On: mlaas.RuleOn{Reason: `image .* cannot`, Status: mlaas.ReplicaPending}, Do: mlaas.RuleStop}}
		f := h.silent(r, 1)
		line := h.hello(f, mlaas.ReplicaPending)
		say := func(reason string) {
			if err := line.Send(h.ctx, mlaas.Up{Phase: &mlaas.Phase{Status: mlaas.ReplicaPending, Reason: reason}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		for _, reason := range []string{"looking for image x", "image x cannot be pulled", "image x cannot be pulled: again", "image x cannot be pulled: and again"} {
			say(reason)
		}
		want := []string{"rule pull fired for worker-0 in 1: worker-0 is pending: image x cannot be pulled"}
		if got := h.told("rule"); !slices.Equal(got, want) {
			t.Fatalf("fired %q, want %q", got, want)
		}
		say("looking for image x")
		time.Sleep(time.Minute)
		say("image x cannot be found")
		if got := h.told("rule"); len(got) != 2 || !strings.HasSuffix(got[1], "image x cannot be found") {
			t.Errorf("fired %q, want it once more", got)
		}
	})
}

// A webhook gets a CloudEvent that it can check, whatever happens to the
// process that sends it; what became of it can be read, and asked for again.
func TestDelivery(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{Steps: 1e6, Every: time.Minute} }, func(h *house) {
		h.hooks.fail = 2
		r := run("run1", map[string]int{"worker": 1})
		h.begin(&r, mlaas.ActionRule{Name: "up", On: mlaas.RuleOn{Status: mlaas.ReplicaRunning}, Do: mlaas.RuleWebhook, URL: "http://hook.example/x", Secret: "hook"})
		h.status(r, "worker-0", time.Minute, mlaas.ReplicaRunning)
		delivery := func() mlaas.Delivery {
			t.Helper()
			all, err := store.Deliveries(h.db).All(h.ctx, store.Query{Tenant: r.Tenant, Prefix: string(r.ID) + "/"})
			if err != nil || len(all) != 1 {
				t.Fatalf("deliveries: %+v, %v; want one", all, err)
			}
			return all[0].Value
		}
		time.Sleep(2 * time.Second) // tried twice; the next try is due in 5 s
		d := delivery()
		if d.State != mlaas.DeliveryWaiting || len(d.Tries) != 2 || !strings.Contains(d.Tries[0].Error, "connection refused") || d.Next.IsZero() {
			t.Fatalf("after two tries: %+v", d)
		}
		h.end()
		time.Sleep(time.Minute)
		h.open()
		time.Sleep(time.Minute)
		d = delivery()
		if d.State != mlaas.Delivered || len(d.Tries) != 3 || d.Tries[2].Status != 204 || d.Tries[2].Error != "" {
			t.Fatalf("after a restart: %+v", d)
		}
		h.hooks.mu.Lock()
		first, last, text := h.hooks.raw[0].Header, h.hooks.raw[2].Header, h.hooks.text
		h.hooks.mu.Unlock()
		if text[0] != text[2] || first.Get("Webhook-Id") != d.ID || last.Get("Webhook-Id") != d.ID {
			t.Errorf("the tries differ:\n%s %v\n%s %v", text[0], first, text[2], last)
		}
		mac := hmac.New(sha256.New, []byte("the key"))
		mac.Write([]byte(d.ID + "." + last.Get("Webhook-Timestamp") + "." + text[2]))
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); last.Get("Webhook-Signature") != want {
			t.Errorf("signed %q, want %q", last.Get("Webhook-Signature"), want)
		}
		if got := last.Get("Content-Type"); got != "application/cloudevents+json; charset=utf-8" {
			t.Errorf("Content-Type %q", got)
		}
		var e struct {
			booster.CloudEvent
			Data booster.Notice `json:"data"`
		}
		if err := json.Unmarshal([]byte(text[2]), &e); err != nil {
			t.Fatal(err)
		}
		if e.SpecVersion != "1.0" || e.ID != d.ID || e.Type != "dev.mlaas.rule.fired.v1" || e.Source != "/api/run/run1" || e.Subject != "mnist/7/worker-0" || e.Time.IsZero() ||
			e.Data.Rule != "up" || e.Data.Saw != "worker-0 is running" || e.Data.Name != "mnist/7" {
			t.Errorf("the event is %+v", e)
		}

		again := queue.Tell(mlaas.WebhookWanted{Tenant: r.Tenant, Run: r.ID, Delivery: d.ID, Again: true})
		h.commit(store.Batch{Tell: []store.Message{again}})
		time.Sleep(time.Second)
		if d = delivery(); len(d.Tries) != 4 || d.State != mlaas.Delivered {
			t.Errorf("asked for again: %+v", d)
		}
	})
}

// What nobody takes is given up, says so, and can still be asked for.
func TestDeliveryGivenUp(t *testing.T) {
	bubble(t, func(mlaas.Fence) scripted.Script { return scripted.Script{Steps: 1e6, Every: time.Minute} }, func(h *house) {
		r := run("run1", map[string]int{"worker": 1})
		h.begin(&r, mlaas.ActionRule{Name: "up", On: mlaas.RuleOn{Status: mlaas.ReplicaRunning}, Do: mlaas.RuleWebhook, URL: "http://hook.example/x", Secret: "missing"})
		h.until(r, "worker-0", time.Hour, "a word about the webhook", func(r mlaas.Replica) bool {
			return slices.ContainsFunc(r.History, func(e mlaas.Event) bool {
				return strings.Contains(e.Reason, "the webhook of rule up was not taken after 6 tries: secret missing, which signs it: there is no secret of this name")
			})
		})
		all, err := store.Deliveries(h.db).All(h.ctx, store.Query{Tenant: r.Tenant})
		if err != nil || len(all) != 1 || all[0].Value.State != mlaas.DeliveryFailed || len(all[0].Value.Tries) != 6 {
			t.Fatalf("%+v, %v", all, err)
		}
		if len(h.hooks.raw) != 0 {
			t.Errorf("%d requests were sent unsigned", len(h.hooks.raw))
		}
	})
}

// The log of a container whose supervisor never called is kept when it has
// ended: it is there when cluster and container are gone.
func TestContainerLogIsKept(t *testing.T) {
	bubble(t, mute, func(h *house) {
		r := run("run1", map[string]int{"worker": 2})
		h.ask(r, 1)
		for _, name := range []string{"worker-0", "worker-1"} {
			h.status(r, name, 2*gathered, mlaas.ReplicaPending)
		}
		h.hello(fence(r, 1, "worker-1"), mlaas.ReplicaReady)
		for _, name := range []string{"worker-0", "worker-1"} {
			text, _, err := h.boost.Monitor().Log(h.ctx, fence(r, 1, name))
			if want := "supervisor of run1-1-" + name + "-1\n"; err != nil || text != want {
				t.Errorf("the log of %s is %q, %v; want %q", name, text, err, want)
			}
			h.place.End(fence(r, 1, name), 3)
			h.status(r, name, time.Minute, mlaas.ReplicaLost)
		}
		lines, err := h.lines.Lines(h.ctx, series.LineQuery{Tenant: r.Tenant, Run: r.ID})
		if err != nil || len(lines) != 1 || lines[0].Text != "supervisor of run1-1-worker-0-1" || lines[0].Stream != mlaas.ContainerStream || lines[0].Replica != "worker-0" {
			t.Errorf("kept: %+v, %v; want the log of the one that never called", lines, err)
		}
		if rep, _ := h.replica(r, "worker-0"); !strings.Contains(rep.Reason, "it wrote: supervisor of") {
			t.Errorf("its reason is %q", rep.Reason)
		}
	})
}
