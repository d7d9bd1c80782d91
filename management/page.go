package management

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/store"
)

// A List is one page of a list.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next_page_token" doc:"Send it as page_token for the next page; empty on the last"`
}

// Paging is what every list may be asked.
type Paging struct {
	Limit int    `query:"limit" minimum:"0" doc:"How many at most; 100 where not said, never more than 500" example:"100"`
	Token string `query:"page_token" doc:"next_page_token of the page before"`
}

func (p Paging) limit() int {
	if p.Limit == 0 {
		return 100
	}
	return min(p.Limit, 500)
}

// pageOf gathers one page of records: those of q that keep takes.
func pageOf[T, V any](ctx context.Context, records store.Records[T], q store.Query, p Paging, keep func(store.Found[T]) (V, bool, error)) (*Answer[List[V]], error) {
	list := List[V]{Items: []V{}}
	limit := p.limit()
	q.Limit = limit + 1 // one more says whether there is another page
	after, err := p.after()
	if err != nil {
		return nil, err
	}
	if after != "" {
		q.After = store.Key{Kind: records.Kind, Tenant: q.Tenant, ID: after}
	}
	var last string
	for {
		page, next, err := records.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, f := range page {
			v, ok, err := keep(f)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			if len(list.Items) == limit {
				list.Next = base64.RawURLEncoding.EncodeToString([]byte(last))
				return &Answer[List[V]]{Body: list, Next: list.Next}, nil
			}
			list.Items = append(list.Items, v)
			_, last = records.Key(f.Value)
		}
		if next == (store.Key{}) {
			return &Answer[List[V]]{Body: list}, nil
		}
		q.After = next
	}
}

// pageAmong gathers one page of the records called ids, the largest first:
// those that keep takes. One that is not there is left out.
func pageAmong[T, V any](ctx context.Context, records store.Records[T], tenant mlaas.Tenant, ids []string, p Paging, keep func(store.Found[T]) (V, bool, error)) (*Answer[List[V]], error) {
	list := List[V]{Items: []V{}}
	after, err := p.after()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(ids, func(a, b string) int { return strings.Compare(b, a) })
	var last string
	for _, id := range slices.Compact(ids) {
		if after != "" && id >= after {
			continue
		}
		v, rev, err := records.Get(ctx, tenant, id)
		if errors.Is(err, mlaas.ErrNotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		out, ok, err := keep(store.Found[T]{Value: v, Rev: rev})
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if len(list.Items) == p.limit() {
			list.Next = base64.RawURLEncoding.EncodeToString([]byte(last))
			return &Answer[List[V]]{Body: list, Next: list.Next}, nil
		}
		list.Items, last = append(list.Items, out), id
	}
	return &Answer[List[V]]{Body: list}, nil
}

// after is the ID that the page token names; empty for the first page.
func (p Paging) after() (string, error) {
	if p.Token == "" {
		return "", nil
	}
	id, err := base64.RawURLEncoding.DecodeString(p.Token)
	if err != nil || len(id) == 0 || len(id) > 512 || !utf8.Valid(id) {
		return "", badToken(p.Token)
	}
	return string(id), nil
}

// whole is a list that is always short.
func whole[T any](items []T) *Answer[List[T]] {
	if items == nil {
		items = []T{}
	}
	return &Answer[List[T]]{Body: List[T]{Items: items}}
}

// part is one page of a list that is there as a whole.
func part[T any](all []T, p Paging) (*Answer[List[T]], error) {
	from := 0
	if p.Token != "" {
		text, err := base64.RawURLEncoding.DecodeString(p.Token)
		if err == nil {
			from, err = strconv.Atoi(string(text))
		}
		if err != nil || from < 0 {
			return nil, badToken(p.Token)
		}
	}
	from = min(from, len(all))
	to := min(from+p.limit(), len(all))
	list := List[T]{Items: some(all[from:to])}
	if to < len(all) {
		list.Next = base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(to)))
	}
	return &Answer[List[T]]{Body: list, Next: list.Next}, nil
}

func badToken(token string) error {
	return mlaas.Invalid("page_token", "the next_page_token of the page before", clip(token, 100))
}
