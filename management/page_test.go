package management

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A filtered list is what the whole list has of it, page by page, however it
// is looked up: by an index where few match, by looking at all where many do.
func TestFilteredPages(t *testing.T) {
	a := start(t)
	const jobs = 2600 // more than manyRuns
	random := rand.New(rand.NewPCG(7, 7))
	wantRuns, wantJobs := map[mlaas.State][]string{}, map[mlaas.State][]string{}
	var batch store.Batch
	for i := range jobs {
		j := mlaas.Job{ID: mlaas.JobID(fmt.Sprintf("job%05d", i)), Tenant: mlaas.DefaultTenant, Runs: random.IntN(3)}
		j.Name = fmt.Sprintf("j%d", i)
		last := mlaas.Created
		for n := range j.Runs {
			id := mlaas.RunID(fmt.Sprintf("run%05d%d", i, n))
			batch.Put = append(batch.Put, store.Runs(a.DB).Put(mlaas.Run{ID: id, Tenant: j.Tenant, Job: j.ID, Number: n + 1}, 0))
			last = mlaas.Succeeded
			switch r := random.IntN(100); {
			case r < 2:
				last = mlaas.Failed
			case r < 4:
				last = mlaas.Running
			case r < 5:
				last = mlaas.Created // nobody heard of it yet
			}
			wantRuns[last] = append(wantRuns[last], string(id))
			if last != mlaas.Created {
				batch.Put = append(batch.Put, store.RunStates(a.DB).Put(mlaas.RunState{Run: id, Tenant: j.Tenant, Job: j.ID, State: last}, 0))
			}
		}
		wantJobs[last] = append(wantJobs[last], string(j.ID))
		batch.Put = append(batch.Put, store.Jobs(a.DB).Put(j, 0))
	}
	if err := a.DB.Commit(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if len(wantRuns[mlaas.Succeeded]) <= manyRuns {
		t.Fatal("too few to be many")
	}
	walk := func(path string, limit int) (ids []string) {
		for token := ""; ; {
			var page struct {
				Items []struct{ ID string }
				Next  string `json:"next_page_token"`
			}
			r := a.do("GET", fmt.Sprintf("%s&limit=%d&page_token=%s", path, limit, token), nil).want(200)
			if err := json.Unmarshal(r.Body, &page); err != nil {
				t.Fatal(err)
			}
			if len(page.Items) > limit || len(page.Items) < limit && page.Next != "" {
				t.Errorf("a page of %s has %d items, and the next is %q", path, len(page.Items), page.Next)
			}
			for _, item := range page.Items {
				ids = append(ids, item.ID)
			}
			if token = page.Next; token == "" {
				return ids
			}
		}
	}
	for _, states := range [][]mlaas.State{{mlaas.Running}, {mlaas.Failed}, {mlaas.Succeeded}, {mlaas.Created}, {mlaas.Failed, mlaas.Running}, {mlaas.Stopped}, {mlaas.Running, mlaas.Succeeded}} {
		var names, runs, jobs []string
		for _, s := range states {
			names, runs, jobs = append(names, string(s)), append(runs, wantRuns[s]...), append(jobs, wantJobs[s]...)
		}
		filter := "?status=" + strings.Join(names, ",")
		for path, want := range map[string][]string{"/api/run": runs, "/api/job": jobs} {
			slices.Sort(want)
			slices.Reverse(want)
			for _, limit := range []int{500, 7} {
				if limit == 7 && len(want) > 200 {
					continue
				}
				if got := walk(path+filter, limit); !slices.Equal(got, want) {
					t.Errorf("%s%s by %d: %d items, want %d", path, filter, limit, len(got), len(want))
				}
			}
		}
	}
	// Of one job.
	if got := walk("/api/job/job00001/run?status=succeeded,failed,running", 1); !slices.IsSortedFunc(got, func(x, y string) int { return strings.Compare(y, x) }) {
		t.Errorf("the runs of a job come as %v", got)
	}
	a.do("GET", "/api/run?status=running&page_token=%00", nil).refuses(422, "invalid", "page_token", "")
}
