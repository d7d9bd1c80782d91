package draft

import (
	"slices"
	"strings"
)

// A hunk says that lines from up to to of a text became others.
type hunk struct {
	from, to int
	lines    []string
}

// Merge makes one text of two that were made of base: what only one of them
// changed is as it changed it, and where both did, each in its way, both stay,
// between marks that name them. It says how many such places there are.
func Merge(base, mine, theirs, nameMine, nameTheirs string) (text string, conflicts int) {
	b := split(base)
	ours, others := hunks(b, split(mine)), hunks(b, split(theirs))
	var out strings.Builder
	put := func(lines []string) {
		for _, l := range lines {
			out.WriteString(l)
		}
	}
	at := 0
	for len(ours) > 0 || len(others) > 0 {
		// The next place, as far as hunks of both sides touch each other.
		from := len(b)
		if len(ours) > 0 {
			from = ours[0].from
		}
		if len(others) > 0 {
			from = min(from, others[0].from)
		}
		to, i, k := from, 0, 0
		for {
			switch {
			case i < len(ours) && ours[i].from <= to:
				to = max(to, ours[i].to)
				i++
				continue
			case k < len(others) && others[k].from <= to:
				to = max(to, others[k].to)
				k++
				continue
			}
			break
		}
		put(b[at:from])
		m, o := become(b, ours[:i], from, to), become(b, others[:k], from, to)
		switch {
		case k == 0 || slices.Equal(m, o):
			put(m)
		case i == 0:
			put(o)
		default:
			conflicts++
			put([]string{"<<<<<<< " + nameMine + "\n"})
			put(whole(m))
			put([]string{"=======\n"})
			put(whole(o))
			put([]string{">>>>>>> " + nameTheirs + "\n"})
		}
		ours, others, at = ours[i:], others[k:], to
	}
	put(b[at:])
	return out.String(), conflicts
}

// become is what hunks make of lines from up to to.
func become(b []string, hs []hunk, from, to int) (out []string) {
	for _, h := range hs {
		out = append(append(out, b[from:h.from]...), h.lines...)
		from = h.to
	}
	return append(out, b[from:to]...)
}

// whole gives the last line its end.
func whole(lines []string) []string {
	if n := len(lines); n > 0 && !strings.HasSuffix(lines[n-1], "\n") {
		lines = append(slices.Clone(lines[:n-1]), lines[n-1]+"\n")
	}
	return lines
}

// split cuts a text into lines with their ends.
func split(text string) []string {
	lines := strings.SplitAfter(text, "\n")
	return lines[:len(lines)-1+min(len(lines[len(lines)-1]), 1)] // no empty one at the end
}

// most is how many lines two texts may differ in to be compared line by line.
const most = 1000

// hunks is what made b of a, after Myers, "An O(ND) Difference Algorithm and
// Its Variations", 1986. Of texts that have little in common it is one hunk.
func hunks(a, b []string) []hunk {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	x, y := a[head:len(a)-tail], b[head:len(b)-tail]
	if len(x)+len(y) == 0 {
		return nil
	}
	trace := paths(x, y)
	if trace == nil {
		return []hunk{{head, head + len(x), y}}
	}
	var back []hunk // of single lines, from the end
	i, k := len(x), len(y)
	for d := len(trace) - 1; d > 0; d-- {
		before, diagonal := trace[d-1], i-k
		from := diagonal - 1
		if diagonal == -d || diagonal != d && before[diagonal-1+d-1] < before[diagonal+1+d-1] {
			from = diagonal + 1
		}
		px := before[from+d-1]
		py := px - from
		if from == diagonal+1 { // a line came
			back = append(back, hunk{px, px, y[py : py+1]})
		} else { // a line went
			back = append(back, hunk{px, px + 1, nil})
		}
		i, k = px, py
	}
	var out []hunk
	for _, h := range slices.Backward(back) {
		h.from, h.to = h.from+head, h.to+head
		if n := len(out); n > 0 && out[n-1].to == h.from {
			out[n-1].to = h.to
			out[n-1].lines = append(out[n-1].lines[:len(out[n-1].lines):len(out[n-1].lines)], h.lines...)
			continue
		}
		out = append(out, h)
	}
	return out
}

// paths is, for each number of differences d, how far on each diagonal from -d
// to d one comes with them; nil where there are too many.
func paths(x, y []string) [][]int {
	var trace [][]int
	for d := 0; d <= min(len(x)+len(y), most); d++ {
		row := make([]int, 2*d+1)
		for diagonal := -d; diagonal <= d; diagonal += 2 {
			i := 0
			if d > 0 {
				before := trace[d-1]
				switch {
				case diagonal == -d || diagonal != d && before[diagonal-1+d-1] < before[diagonal+1+d-1]:
					i = before[diagonal+1+d-1]
				default:
					i = before[diagonal-1+d-1] + 1
				}
			}
			k := i - diagonal
			for i < len(x) && k < len(y) && x[i] == y[k] {
				i++
				k++
			}
			row[diagonal+d] = i
			if i >= len(x) && k >= len(y) {
				return append(trace, row)
			}
		}
		trace = append(trace, row)
	}
	return nil
}
