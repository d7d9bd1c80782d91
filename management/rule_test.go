package management

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
	"mlaas.dev/mlaas/store"
)

// A run of two attempts, whose first worker hung, ran out of memory, and then
// ended well.
func TestTryRules(t *testing.T) {
	a, run := running(t)
	at := func(minute float64) time.Time {
		return time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC).Add(time.Duration(minute * float64(time.Minute)))
	}
	a.replica(run, "worker-0", mlaas.ReplicaSucceeded, func(r *mlaas.Replica) {
		code, killed := 0, 137
		r.Epoch, r.ExitCode = 2, &code
		r.History = []mlaas.Event{
			{Time: at(0), Epoch: 1, Status: mlaas.ReplicaReady, Reason: "waiting for its code"},
			{Time: at(1), Epoch: 1, Status: mlaas.ReplicaRunning, Reason: "the program runs"},
			{Time: at(2), Epoch: 1, Status: mlaas.ReplicaRunning, Reason: "rule x fired: exit code 137 is what it wrote"},
			{Time: at(30), Epoch: 1, Status: mlaas.ReplicaFailed, Reason: "more than its 1Gi", ExitCode: &killed, OOM: true},
			{Time: at(31), Epoch: 2, Status: mlaas.ReplicaRunning, Reason: "the program runs"},
			{Time: at(40), Epoch: 2, Status: mlaas.ReplicaSucceeded, Reason: "the program ended", ExitCode: &code},
		}
	})
	fence := mlaas.Fence{Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run), Epoch: 1, Replica: "worker-0"}
	points := func(epoch int, first int64, steps map[int64]float64) {
		f := mlaas.Frame{Stream: mlaas.MetricStream, First: first}
		for s := range int64(100) {
			if m, ok := steps[s]; ok {
				f.Points = append(f.Points, mlaas.Point{Key: "loss", Step: s, Time: at(m).UnixMilli(), Value: 1})
			}
		}
		fence.Epoch = epoch
		a.appends(series.Batch{Fence: fence, Frame: f})
	}
	points(1, 1, map[int64]float64{1: 2, 2: 3, 3: 4, 4: 5}) // then nothing for 25 minutes
	points(2, 1, map[int64]float64{3: 32, 4: 33, 5: 39})
	lines := func(first int64, minute ...float64) {
		f := mlaas.Frame{Stream: mlaas.LogStream, First: first}
		for _, m := range minute {
			f.Lines = append(f.Lines, mlaas.LogLine{Time: at(m), Stream: "stderr", Text: "NCCL timeout"})
		}
		f.Lines = append(f.Lines, mlaas.LogLine{Time: at(20), Stream: "platform", Text: "NCCL is a word of ours here"})
		fence.Epoch = 1
		a.appends(series.Batch{Fence: fence, Frame: f})
	}
	lines(1, 6, 6.5, 7.5)

	tests := []struct{ rule, want string }{
		{`{"name": "r", "on": {"noStep": "10m"}, "do": "restart-elsewhere"}`, "03:15 worker-0 1 restart-elsewhere worker-0 made no step for 10m0s after step 4"},
		{`{"name": "r", "on": {"noStep": "5m"}, "do": "restart"}`, "03:10 worker-0 1 restart worker-0 made no step for 5m0s after step 4; 03:38 worker-0 2 restart worker-0 made no step for 5m0s after step 4"},
		{`{"name": "r", "on": {"noStep": "30m"}, "do": "restart"}`, ""},
		{`{"name": "r", "on": {"noStep": "10m", "role": "ps"}, "do": "restart"}`, ""},
		{`{"name": "r", "on": {"oom": true}, "do": "stop"}`, "03:30 worker-0 1 stop worker-0 is failed with exit code 137, out of memory"},
		{`{"name": "r", "on": {"nodeLost": true}, "do": "stop"}`, ""},
		{`{"name": "r", "on": {"exitCode": 137, "log": "NCCL"}, "do": "stop"}`, "03:30 worker-0 1 stop worker-0 is failed with exit code 137; it wrote: NCCL timeout"},
		{`{"name": "r", "on": {"log": "NCCL"}, "do": "stop"}`, "03:06 worker-0 1 stop worker-0 wrote: NCCL timeout; 03:07 worker-0 1 stop worker-0 wrote: NCCL timeout"},
		{`{"name": "r", "on": {"log": "NCCL"}, "do": "stop", "once": true}`, "03:06 worker-0 1 stop worker-0 wrote: NCCL timeout"},
		{`{"name": "r", "on": {"log": "NCCL", "status": "ready"}, "do": "stop"}`, ""},
		{`{"name": "r", "on": {"status": "running"}, "do": "notify", "url": "https://x/y"}`, "03:01 worker-0 1 notify worker-0 is running; 03:31 worker-0 2 notify worker-0 is running"},
		{`{"name": "r", "on": {"reason": "137"}, "do": "stop"}`, "? r a reason that changed"},
		{`{"name": "r", "on": {"reason": "1Gi"}, "do": "stop"}`, "03:30 worker-0 1 stop worker-0 is failed with exit code 137: more than its 1Gi; ? r a reason that changed"},
		{`{"name": "r", "on": {"gpuIdle": "10m"}, "do": "stop"}`, "? r what a replica used"},
	}
	for _, tt := range tests {
		got := a.do("POST", "/api/job/j/rule/dry-run", `{"run": "1", "rules": [`+tt.rule+`]}`).want(200)
		var out []string
		for i := 0; got.get(fmt.Sprintf("fired.%d", i)) != nil; i++ {
			f := func(name string) any { return got.get(fmt.Sprintf("fired.%d.%s", i, name)) }
			out = append(out, fmt.Sprint(f("time").(string)[11:16], " ", f("replica"), " ", f("attempt"), " ", f("do"), " ", f("saw")))
		}
		for i := 0; got.get(fmt.Sprintf("unknown.%d", i)) != nil; i++ {
			why := fmt.Sprint(got.get(fmt.Sprintf("unknown.%d.why", i)))
			out = append(out, fmt.Sprint("? ", got.get(fmt.Sprintf("unknown.%d.rule", i)), " ", strings.Join(strings.Fields(why)[:4], " ")))
		}
		if s := strings.Join(out, "; "); s != tt.want {
			t.Errorf("%s:\n  %s\nwant\n  %s", tt.rule, s, tt.want)
		}
	}
	a.do("POST", "/api/job/j/rule/dry-run", nil).want(200).is("number", 1) // the job has none
	a.do("POST", "/api/job/j/rule/dry-run", `{"rules": [{"name": "r", "on": {"log": "("}, "do": "stop"}]}`).refuses(422, "invalid", "rules[0].on.log", "regular expression")
	a.do("POST", "/api/job/j/rule/dry-run", `{"run": "9"}`).want(404)
}

func TestDeliveries(t *testing.T) {
	a, run := running(t)
	for i, state := range []mlaas.DeliveryState{mlaas.Delivered, mlaas.DeliveryFailed} {
		a.commit(store.Batch{Put: []store.Row{store.Deliveries(a.DB).Put(mlaas.Delivery{ID: fmt.Sprintf("01%d", i), Tenant: mlaas.DefaultTenant, Run: mlaas.RunID(run),
			Rule: "up", State: state, Tries: []mlaas.DeliveryTry{{Status: 500, Error: "it answered 500"}}}, 0)}})
	}
	at := "/api/run/" + run + "/delivery"
	a.do("GET", at, nil).want(200).is("items.0.id", "011").is("items.1.id", "010").is("items.1.tries.0.status", 500)
	a.do("GET", at+"?state=failed", nil).want(200).is("items.0.id", "011").is("items.1", nil)
	waiting := a.told("")
	a.do("POST", at+"/011/redeliver", nil).want(202).is("state", "failed")
	if n := a.told(""); n != waiting+1 {
		t.Errorf("%d messages wait, want one more than %d", n, waiting)
	}
	a.do("POST", at+"/012/redeliver", nil).want(404)
	a.do("POST", at+"/a%2fb/redeliver", nil).want(404)
}

// A run whose webhook could not be signed is refused before it starts.
func TestSignerIsThere(t *testing.T) {
	a := start(t)
	a.ready("j")
	a.do("PATCH", "/api/job/j", `{"rules": [{"name": "r", "on": {"oom": true}, "do": "webhook", "url": "https://x/y", "secret": "hook"}]}`).want(200)
	a.do("POST", "/api/job/j/run", nil).refuses(422, "invalid", "rules[0].secret", "a secret that was set")
	a.do("POST", "/api/secret", `{"name": "hook", "value": "x"}`).want(201)
	a.do("POST", "/api/job/j/run", nil).want(202)
}
