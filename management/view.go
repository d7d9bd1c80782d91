package management

import (
	"context"
	"fmt"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/store"
)

// Saved views are of their user alone.

// mostViews is how many one user may have.
const mostViews = 200

type viewsIn struct{ Paging }

func (m *Management) listViews(ctx context.Context, in *viewsIn) (*Answer[List[mlaas.SavedView]], error) {
	who := auth.From(ctx)
	return pageOf(ctx, store.SavedViews(m.DB), store.Query{Tenant: who.Tenant, Prefix: who.Name + "/"}, in.Paging,
		func(f store.Found[mlaas.SavedView]) (mlaas.SavedView, bool, error) { return f.Value, true, nil })
}

type viewIn struct {
	Body ViewAsk
}

// A ViewAsk keeps a page as it is arranged.
type ViewAsk struct {
	Name   string `json:"name" doc:"1 to 100 letters; what was kept under it before is replaced" example:"failed today"`
	Page   string `json:"page" doc:"The path of the page" example:"/jobs"`
	Search string `json:"search" doc:"What stands behind ? in its address" example:"q=mnist&view=failed"`
}

func (m *Management) saveView(ctx context.Context, in *viewIn) (*Answer[mlaas.SavedView], store.Batch, error) {
	who, ask := auth.From(ctx), in.Body
	switch n := len([]rune(ask.Name)); {
	case n < 1 || n > 100:
		return nil, store.Batch{}, mlaas.Invalid("name", "1 to 100 letters", ask.Name)
	case len(ask.Page) < 1 || ask.Page[0] != '/' || len(ask.Page) > 200:
		return nil, store.Batch{}, mlaas.Invalid("page", "a path such as /jobs", ask.Page)
	case len(ask.Search) > 4000:
		return nil, store.Batch{}, mlaas.Invalid("search", "at most 4000 bytes", fmt.Sprintf("%d bytes", len(ask.Search)))
	}
	all, err := store.SavedViews(m.DB).All(ctx, store.Query{Tenant: who.Tenant, Prefix: who.Name + "/"})
	if err != nil {
		return nil, store.Batch{}, err
	}
	v := mlaas.SavedView{Tenant: who.Tenant, User: who.Name, Name: ask.Name, Page: ask.Page, Search: ask.Search, Created: m.stamp()}
	rev := int64(0)
	for _, f := range all {
		if f.Value.Name == v.Name {
			rev = f.Rev
		}
	}
	if rev == 0 && len(all) >= mostViews {
		return nil, store.Batch{}, fmt.Errorf("%d views are saved, which is the most: remove one first: %w", len(all), mlaas.ErrTooLarge)
	}
	return &Answer[mlaas.SavedView]{Body: v}, store.Batch{Put: []store.Row{store.SavedViews(m.DB).Put(v, rev)}}, nil
}

type viewNameIn struct {
	Name string `path:"name" doc:"The name of a saved view"`
}

func (m *Management) deleteView(ctx context.Context, in *viewNameIn) (*Answer[None], store.Batch, error) {
	who := auth.From(ctx)
	_, rev, err := store.SavedViews(m.DB).Get(ctx, who.Tenant, store.SavedViewKey(who.Name, in.Name))
	if err != nil {
		return nil, store.Batch{}, err
	}
	return &Answer[None]{}, store.Batch{Delete: []store.Row{store.SavedViews(m.DB).At(who.Tenant, store.SavedViewKey(who.Name, in.Name), rev)}}, nil
}
