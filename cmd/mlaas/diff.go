package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// An edit is one line of a comparison: kept (' '), taken away ('-') or new
// ('+'), and where it stands in both texts.
type edit struct {
	sign byte
	text string
	a, b int
}

// compare finds a shortest way from one text to the other (Myers 1986). Where
// that would cost too much, it is all of one and then all of the other.
func compare(a, b []string) (out []edit) {
	const most = 4000
	limit := min(len(a)+len(b), most)
	v := make([]int, 2*limit+2)
	var trace [][]int
	for d := 0; d <= limit; d++ {
		trace = append(trace, slices.Clone(v))
		for k := -d; k <= d; k += 2 {
			var x int
			if k == -d || k != d && v[limit+k-1] < v[limit+k+1] {
				x = v[limit+k+1]
			} else {
				x = v[limit+k-1] + 1
			}
			y := x - k
			for x < len(a) && y < len(b) && a[x] == b[y] {
				x, y = x+1, y+1
			}
			v[limit+k] = x
			if x >= len(a) && y >= len(b) {
				return backtrack(trace, a, b, d, limit)
			}
		}
	}
	for i, l := range a {
		out = append(out, edit{'-', l, i, 0})
	}
	for i, l := range b {
		out = append(out, edit{'+', l, len(a), i})
	}
	return out
}

func backtrack(trace [][]int, a, b []string, d, limit int) (out []edit) {
	x, y := len(a), len(b)
	for ; d >= 0; d-- {
		v, k := trace[d], x-y
		before := k - 1
		if k == -d || k != d && v[limit+k-1] < v[limit+k+1] {
			before = k + 1
		}
		px := v[limit+before]
		py := px - before
		for x > max(px, 0) && y > max(py, 0) && d >= 0 && x > 0 && y > 0 && a[x-1] == b[y-1] && (d == 0 || x > px && y > py) {
			x, y = x-1, y-1
			out = append(out, edit{' ', a[x], x, y})
		}
		if d == 0 {
			break
		}
		if x == px {
			y--
			out = append(out, edit{'+', b[y], x, y})
		} else {
			x--
			out = append(out, edit{'-', a[x], x, y})
		}
	}
	slices.Reverse(out)
	return out
}

// unified is a comparison as patch reads it, with three lines around each
// change.
func unified(nameA, nameB string, a, b []string) (out []string) {
	edits := compare(a, b)
	const around = 3
	for i := 0; i < len(edits); {
		for i < len(edits) && edits[i].sign == ' ' {
			i++
		}
		if i == len(edits) {
			break
		}
		from, to := max(0, i-around), i
		for quiet := 0; to < len(edits) && quiet <= 2*around; to++ {
			if quiet++; edits[to].sign != ' ' {
				quiet = 0
			}
		}
		last := to
		for last > from && edits[last-1].sign == ' ' {
			last--
		}
		to = min(len(edits), last+around)
		var body []string
		olds, news := 0, 0
		for _, e := range edits[from:to] {
			body = append(body, string(e.sign)+e.text)
			if e.sign != '+' {
				olds++
			}
			if e.sign != '-' {
				news++
			}
		}
		if out == nil {
			out = append(out, "--- "+nameA, "+++ "+nameB)
		}
		out = append(out, fmt.Sprintf("@@ -%s +%s @@", extent(edits[from].a, olds), extent(edits[from].b, news)))
		out = append(out, body...)
		i = to
	}
	return out
}

func extent(at, n int) string {
	if n > 0 {
		at++
	}
	return fmt.Sprintf("%d,%d", at, n)
}
