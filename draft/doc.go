package draft

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"mlaas.dev/mlaas"
)

// What is kept of a text.
const (
	MaxText   = 1 << 20   // bytes that can be edited live
	maxEdits  = 512       // the newest edits, for who is behind
	maxBehind = 256 << 10 // bytes of them
)

// Open makes the text that people edit of what a file has. It is
// mlaas.ErrInvalid where that is no text.
func Open(path string, data []byte) (mlaas.Doc, error) {
	switch {
	case len(data) > MaxText:
		return mlaas.Doc{}, fmt.Errorf("%s is %s; up to %s can be edited here. Download it, change it and upload it: %w", path, mlaas.Bytes(len(data)), mlaas.Bytes(MaxText), mlaas.ErrTooLarge)
	case !utf8.Valid(data) || slices.Contains(data, 0):
		return mlaas.Doc{}, mlaas.Invalid("path", "a file that is text (UTF-8)", path)
	}
	text := string(data)
	d := mlaas.Doc{CRLF: strings.Contains(text, "\r\n")}
	d.Text = lines.Replace(text)
	return d, nil
}

// lines makes every line end what it is in an editor.
var lines = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// Bytes is what a file has of a text, with the line ends that it came with.
func Bytes(d mlaas.Doc) []byte {
	if d.CRLF {
		return []byte(strings.ReplaceAll(d.Text, "\n", "\r\n"))
	}
	return []byte(d.Text)
}

// Push makes edits of a text of this version, and reports whether they were
// taken: they are not where another came first, which [Since] tells. The same
// edits pushed twice are made once, and taken both times. After an error the
// text is as it was.
func Push(d *mlaas.Doc, version int64, edits []mlaas.Edit) (taken bool, err error) {
	if version < 0 || version > d.Version {
		return false, mlaas.Invalid("version", fmt.Sprintf("a version of the text, up to %d", d.Version), version)
	}
	if version < d.Version {
		since, known := Since(*d, version)
		return known && len(edits) > 0 && len(since) >= len(edits) && slices.EqualFunc(since[:len(edits)], edits, func(a, b mlaas.Edit) bool {
			return a.Client == b.Client && string(a.Changes) == string(b.Changes)
		}), nil
	}
	text := d.Text
	for i, e := range edits {
		if e.Client == "" || len(e.Client) > 64 {
			return false, mlaas.Invalid(fmt.Sprintf("edits[%d].client", i), "who edits, in 1 to 64 letters", e.Client)
		}
		if text, err = Apply(text, e.Changes); err != nil {
			return false, mlaas.In(fmt.Sprintf("edits[%d]", i), err)
		}
		if len(text) > MaxText {
			return false, fmt.Errorf("the text would be over %s, which is the most that can be edited here: %w", mlaas.Bytes(MaxText), mlaas.ErrTooLarge)
		}
	}
	d.Text = text
	d.Version += int64(len(edits))
	d.Edits = append(d.Edits[:len(d.Edits):len(d.Edits)], edits...)
	size, keep := 0, len(d.Edits)
	for keep > 0 && len(d.Edits)-keep < maxEdits {
		if size += len(d.Edits[keep-1].Changes) + 64; size > maxBehind {
			break
		}
		keep--
	}
	d.Edits = slices.Clone(d.Edits[keep:])
	return true, nil
}

// Since is what was edited after a version. It is false where not all of that
// is kept: who was there begins anew with the text.
func Since(d mlaas.Doc, version int64) ([]mlaas.Edit, bool) {
	behind := d.Version - version
	if behind < 0 || behind > int64(len(d.Edits)) {
		return nil, false
	}
	return d.Edits[int64(len(d.Edits))-behind:], true
}

// Set makes a text another one by an edit of its own, so that who has it open
// sees it change.
func Set(d *mlaas.Doc, data []byte, by string) error {
	to, err := Open(d.ID, data)
	if err != nil {
		return err
	}
	d.CRLF = to.CRLF
	if changes := between(d.Text, to.Text); changes != nil {
		_, err = Push(d, d.Version, []mlaas.Edit{{Client: by, Changes: changes}})
	}
	return err
}

// Present is how long a person counts who says nothing; editors say something
// at least every half of it.
const Present = 40 * time.Second

// Meet notes where a person is; one without a name has gone. It reports whether
// that is worth being written.
func Meet(d *mlaas.Doc, client string, p mlaas.Person) bool {
	people := map[string]mlaas.Person{}
	for c, o := range d.People {
		if c != client && p.Seen.Sub(o.Seen) < Present {
			people[c] = o
		}
	}
	was, known := d.People[client]
	if p.Name != "" {
		people[client] = p
	}
	news := known != (p.Name != "") || len(people) != len(d.People) ||
		p.Name != "" && (was.Name != p.Name || was.Anchor != p.Anchor || was.Head != p.Head || p.Seen.Sub(was.Seen) >= Present/4)
	if d.People = people; len(people) == 0 {
		d.People = nil
	}
	return news
}
