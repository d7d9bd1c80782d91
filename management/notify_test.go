package management

import (
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

func TestNotifications(t *testing.T) {
	a := start(t)
	a.ready("j")
	one := a.do("POST", "/api/notification", map[string]any{"job": "j", "url": "https://hooks.example.org/x"}).want(201).is("on.0", "failed").is("user", "owner")
	id := one.get("id").(string)
	a.do("POST", "/api/notification", map[string]any{"email": "ada@example.org", "on": []string{"succeeded", "failed"}}).want(201).is("job", nil)
	a.do("GET", "/api/notification", nil).want(200).is("items.0.email", "ada@example.org").is("items.1.id", id).is("items.2", nil)
	for _, tt := range []struct {
		body  map[string]any
		field string
	}{
		{map[string]any{}, "url"},
		{map[string]any{"url": "ftp://x", "on": []string{"failed"}}, "url"},
		{map[string]any{"url": "https://x", "email": "a@b.c"}, "url"},
		{map[string]any{"email": "Ada <a@b.c>"}, "email"},
		{map[string]any{"email": "a@b.c\r\nBcc: x@y.z"}, "email"},
		{map[string]any{"email": "a@b.c", "secret": "x"}, "secret"},
		{map[string]any{"url": "https://x", "secret": "nobody"}, "secret"},
		{map[string]any{"url": "https://x", "on": []string{"running"}}, "on"},
	} {
		a.do("POST", "/api/notification", tt.body).want(422).is("field", tt.field)
	}
	a.do("POST", "/api/notification", map[string]any{"job": "nobody", "url": "https://x"}).want(404)

	// A test is a message in the same commit, and what became of it a delivery.
	before := a.told("messages")
	d := a.do("POST", "/api/notification/"+id+"/test", nil).want(202).get("delivery").(string)
	if n := a.told("messages") - before; n != 1 {
		t.Errorf("%d tests are asked for, want 1", n)
	}
	a.commit(store.Batch{Put: []store.Row{store.Deliveries(a.DB).Put(mlaas.Delivery{ID: d, Tenant: mlaas.DefaultTenant, Subscription: id, State: mlaas.Delivered, Tries: []mlaas.DeliveryTry{}}, 0)}})
	a.do("GET", "/api/notification/"+id+"/delivery", nil).want(200).is("items.0.id", d).is("items.0.state", "delivered").is("items.1", nil)
	a.do("POST", "/api/notification/"+id+"/delivery/"+d+"/redeliver", nil).want(202)
	if n := a.told("messages") - before - 1; n != 1 {
		t.Errorf("%d deliveries are asked for again, want 1", n)
	}
	a.do("POST", "/api/notification/"+id+"/delivery/other/redeliver", nil).want(404)

	// What is another's is not there.
	a.commit(store.Batch{Put: []store.Row{store.Subscriptions(a.DB).Put(mlaas.Subscription{ID: "theirs", Tenant: mlaas.DefaultTenant, User: "other", On: mlaas.Ends, Email: "x@y.z"}, 0)}})
	for _, call := range []string{"DELETE /api/notification/theirs", "POST /api/notification/theirs/test", "GET /api/notification/theirs/delivery"} {
		method, path, _ := strings.Cut(call, " ")
		a.do(method, path, nil).want(404)
	}
	a.do("DELETE", "/api/notification/"+id, nil).want(204)
	a.do("GET", "/api/notification", nil).want(200).is("items.0.email", "ada@example.org").is("items.1", nil)
}

func TestViews(t *testing.T) {
	a := start(t)
	save := func(body map[string]any) *reply { return a.do("POST", "/api/view", body) }
	save(map[string]any{"name": "failed today", "page": "/jobs", "search": "view=failed"}).want(200)
	save(map[string]any{"name": "all", "page": "/jobs", "search": ""}).want(200)
	save(map[string]any{"name": "failed today", "page": "/jobs", "search": "view=failed&q=mnist"}).want(200)
	a.do("GET", "/api/view", nil).want(200).is("items.0.name", "all").is("items.1.search", "view=failed&q=mnist").is("items.2", nil)
	save(map[string]any{"name": "", "page": "/jobs"}).want(422).is("field", "name")
	save(map[string]any{"name": "x", "page": "https://elsewhere"}).want(422).is("field", "page")
	save(map[string]any{"name": "x", "page": "/jobs", "search": strings.Repeat("x", 5000)}).want(422).is("field", "search")
	a.commit(store.Batch{Put: []store.Row{store.SavedViews(a.DB).Put(mlaas.SavedView{Tenant: mlaas.DefaultTenant, User: "other", Name: "theirs"}, 0)}})
	a.do("DELETE", "/api/view/theirs", nil).want(404)
	a.do("DELETE", "/api/view/failed%20today", nil).want(204)
	a.do("GET", "/api/view", nil).want(200).is("items.0.name", "all").is("items.1", nil)
}
