// Package draft knows the texts that people edit together: what a change does
// to a text, who was first, and how two texts that were made of a third become
// one. It is pure; management keeps what it makes.
//
// Changes are those of CodeMirror's @codemirror/collab: each says of which
// version of a text it is made, and the platform, the authority, takes it only
// where that is the newest. Who was slower hears what came between, has its own
// editor move its changes over it, and comes again.
package draft

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"mlaas.dev/mlaas"
)

// A part of a change: so many UTF-16 units of the old text are kept, or are
// taken out and others put in.
type part struct {
	keep   int
	cut    int
	insert string
}

// parse reads a ChangeSet as CodeMirror writes it: a list of numbers, which
// keep so many units, and of lists [cut, line, line...], which take so many out
// and put lines in, joined by line ends.
func parse(changes json.RawMessage) ([]part, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(changes, &raw); err != nil {
		return nil, mlaas.Invalid("changes", "a ChangeSet of CodeMirror: a list of numbers and of [cut, line, ...]", clip(changes))
	}
	parts := make([]part, len(raw))
	for i, r := range raw {
		at := fmt.Sprintf("changes[%d]", i)
		if json.Unmarshal(r, &parts[i].keep) == nil {
			if parts[i].keep < 0 {
				return nil, mlaas.Invalid(at, "a number of units, 0 or more", parts[i].keep)
			}
			continue
		}
		var list []json.RawMessage
		if json.Unmarshal(r, &list) != nil || len(list) == 0 || json.Unmarshal(list[0], &parts[i].cut) != nil || parts[i].cut < 0 {
			return nil, mlaas.Invalid(at, "a number, or [cut, line, ...]", clip(r))
		}
		lines := make([]string, len(list)-1)
		for k, text := range list[1:] {
			if json.Unmarshal(text, &lines[k]) != nil || string(text) == "null" || strings.ContainsAny(lines[k], "\r\n") {
				return nil, mlaas.Invalid(fmt.Sprintf("%s[%d]", at, k+1), "one line, without its end", clip(text))
			}
		}
		parts[i].insert = strings.Join(lines, "\n")
	}
	return parts, nil
}

func clip(text json.RawMessage) string {
	const most = 80
	if len(text) > most {
		return string(text[:most]) + "…"
	}
	return string(text)
}

// Apply is what a ChangeSet makes of a text. Lengths are in UTF-16 units, as
// browsers count. It is mlaas.ErrInvalid where the change is of a text of
// another length, or would cut a character in two.
func Apply(text string, changes json.RawMessage) (string, error) {
	parts, err := parse(changes)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	at := 0 // in bytes
	for i, p := range parts {
		n, ok := skip(text[at:], p.keep+p.cut)
		if !ok {
			return "", mlaas.Invalid(fmt.Sprintf("changes[%d]", i), "a place in the text, and not within a character", fmt.Sprintf("%d units after unit %d of %d", p.keep+p.cut, Units(text[:at]), Units(text)))
		}
		if p.cut == 0 {
			out.WriteString(text[at : at+n])
		}
		out.WriteString(p.insert)
		at += n
	}
	if at != len(text) {
		return "", mlaas.Invalid("changes", fmt.Sprintf("changes of a text of %d units", Units(text)), fmt.Sprintf("changes of %d", Units(text[:at])))
	}
	return out.String(), nil
}

// skip is how many bytes of text n units are; false where there are not so
// many, or a character is longer.
func skip(text string, n int) (bytes int, ok bool) {
	for i, r := range text {
		if n <= 0 {
			return i, n == 0
		}
		n -= units(r)
	}
	return len(text), n == 0
}

func units(r rune) int {
	if r >= 0x10000 {
		return 2
	}
	return 1
}

// Units is how long a text is as browsers count: in UTF-16 units.
func Units(text string) (n int) {
	for _, r := range text {
		n += units(r)
	}
	return n
}

// between is the ChangeSet that makes one text of another, in one place; nil
// where they are equal.
func between(old, text string) json.RawMessage {
	if old == text {
		return nil
	}
	head := 0
	for head < len(old) && head < len(text) {
		a, n := utf8.DecodeRuneInString(old[head:])
		if b, _ := utf8.DecodeRuneInString(text[head:]); a != b {
			break
		}
		head += n
	}
	tail := 0
	for tail < len(old)-head && tail < len(text)-head {
		a, n := utf8.DecodeLastRuneInString(old[head : len(old)-tail])
		if b, _ := utf8.DecodeLastRuneInString(text[head : len(text)-tail]); a != b {
			break
		}
		tail += n
	}
	change := []any{Units(old[head : len(old)-tail])}
	if middle := text[head : len(text)-tail]; middle != "" {
		for _, line := range strings.Split(middle, "\n") {
			change = append(change, line)
		}
	}
	set := []any{}
	if head > 0 {
		set = append(set, Units(old[:head]))
	}
	set = append(set, change)
	if tail > 0 {
		set = append(set, Units(old[len(old)-tail:]))
	}
	data, err := json.Marshal(set)
	if err != nil {
		panic(err) // numbers and texts always encode
	}
	return data
}
