package draft

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"mlaas.dev/mlaas"
)

func TestApply(t *testing.T) {
	tests := []struct{ name, text, changes, want string }{
		{"nothing", "abc", `[3]`, "abc"},
		{"an empty text", "", `[[0,"a","b"]]`, "a\nb"},
		{"in the middle", "abc", `[1,[1,"x","","y"],1]`, "ax\n\nyc"},
		{"after a character of two units", "a😀b", `[3,[1]]`, "a😀"},
		{"a character of two units goes", "a😀b", `[1,[2,"é"],1]`, "aéb"},
		{"a new line at the end", "a", `[1,[0,"",""]]`, "a\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Apply(tt.text, json.RawMessage(tt.changes))
			if err != nil || got != tt.want {
				t.Errorf("%q, %v, want %q", got, err, tt.want)
			}
		})
	}
	for _, bad := range []string{``, `{}`, `[2]`, `[4]`, `[-1,4]`, `[3,[-1]]`, `[3,[]]`, `[3,["a"]]`, `[3,[0,"a\nb"]]`, `[3,[0,null]]`, `[3,[0,7]]`, `[1.5,1.5]`, `[3,[1]]`} {
		if _, err := Apply("abc", json.RawMessage(bad)); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("%s: %v, want invalid", bad, err)
		}
	}
	if _, err := Apply("😀", json.RawMessage(`[1,[1]]`)); !errors.Is(err, mlaas.ErrInvalid) {
		t.Errorf("half a character: %v, want invalid", err)
	}
}

// naive is Apply over a list of units, as the browser has it.
func naive(text string, parts []part) (string, bool) {
	units := utf16.Encode([]rune(text))
	var out []uint16
	for _, p := range parts {
		if p.keep+p.cut > len(units) {
			return "", false
		}
		if p.cut == 0 {
			out = append(out, units[:p.keep]...)
		}
		out = append(out, utf16.Encode([]rune(p.insert))...)
		units = units[p.keep+p.cut:]
	}
	return string(utf16.Decode(out)), len(units) == 0
}

func FuzzApply(f *testing.F) {
	f.Add("abc", `[1,[1,"x","y"],1]`)
	f.Add("a😀b\n", `[1,[2,"é"],2]`)
	f.Add("", `[[0,"",""]]`)
	f.Fuzz(func(t *testing.T, text, changes string) {
		if !utf8.ValidString(text) {
			return
		}
		got, err := Apply(text, json.RawMessage(changes))
		parts, wrong := parse(json.RawMessage(changes))
		if wrong != nil {
			if err == nil {
				t.Fatalf("%s was applied", changes)
			}
			return
		}
		for _, p := range parts {
			if p.keep > 1<<20 || p.cut > 1<<20 {
				return
			}
		}
		want, whole := naive(text, parts)
		switch {
		case !whole && err == nil:
			t.Fatalf("%s was applied to %q, which has another length", changes, text)
		case err == nil && got != want:
			t.Fatalf("%s made %q of %q, want %q", changes, got, text, want)
		case err == nil && !utf8.ValidString(got):
			t.Fatalf("%s made %q of %q", changes, got, text)
		}
	})
}

func FuzzBetween(f *testing.F) {
	f.Add("abc", "adc")
	f.Add("a😀b", "a😁b")
	f.Add("é\né", "é\n\né")
	f.Fuzz(func(t *testing.T, old, text string) {
		if !utf8.ValidString(old+text) || !utf8.ValidString(old) || strings.Contains(old+text, "\r") {
			return
		}
		changes := between(old, text)
		if changes == nil {
			if old != text {
				t.Fatalf("nothing is between %q and %q", old, text)
			}
			return
		}
		if got, err := Apply(old, changes); err != nil || got != text {
			t.Fatalf("%s made %q of %q, %v, want %q", changes, got, old, err, text)
		}
	})
}

func edit(client, changes string) []mlaas.Edit {
	return []mlaas.Edit{{Client: client, Changes: json.RawMessage(changes)}}
}

func TestPush(t *testing.T) {
	d, err := Open("main.py", []byte("one\r\ntwo\r\n"))
	if err != nil || d.Text != "one\ntwo\n" {
		t.Fatalf("%q, %v", d.Text, err)
	}
	take := func(version int64, edits []mlaas.Edit, want bool) {
		t.Helper()
		if taken, err := Push(&d, version, edits); err != nil || taken != want {
			t.Errorf("taken %t, %v, want %t", taken, err, want)
		}
	}
	take(0, edit("a", `[3,[0,"!"],5]`), true)
	take(0, edit("b", `[3,[0,"?"],5]`), false) // b was slower
	take(0, edit("a", `[3,[0,"!"],5]`), true)  // a's network gave up, and it came again
	if d.Text != "one!\ntwo\n" || d.Version != 1 {
		t.Errorf("%q at %d", d.Text, d.Version)
	}
	since, known := Since(d, 0)
	if !known || len(since) != 1 || since[0].Client != "a" {
		t.Errorf("%v, %t", since, known)
	}
	take(1, edit("b", `[4,[0,"?"],5]`), true)
	if got := string(Bytes(d)); got != "one!?\r\ntwo\r\n" {
		t.Errorf("the file has %q", got)
	}
	if _, err := Push(&d, 3, edit("a", `[10]`)); !errors.Is(err, mlaas.ErrInvalid) {
		t.Errorf("a version that is not yet: %v", err)
	}
	if _, err := Push(&d, 2, append(edit("a", `[10,[0,"x"]]`), edit("a", `[10]`)...)); !errors.Is(err, mlaas.ErrInvalid) || d.Version != 2 || strings.Contains(d.Text, "x") {
		t.Errorf("%v leaves %q at %d", err, d.Text, d.Version)
	}
	if err := Set(&d, []byte("one\nthree\n"), "v2"); err != nil || d.Text != "one\nthree\n" || d.CRLF || d.Version != 3 {
		t.Errorf("%v leaves %q at %d", err, d.Text, d.Version)
	}
}

// What is kept for those who are behind has an end.
func TestPushForgets(t *testing.T) {
	var d mlaas.Doc
	for i := range 3 * maxEdits {
		if taken, err := Push(&d, int64(i), edit("a", fmt.Sprintf(`[%d,[0,"x"]]`, i))); err != nil || !taken {
			t.Fatal(taken, err)
		}
	}
	if len(d.Edits) != maxEdits {
		t.Errorf("%d edits are kept, want %d", len(d.Edits), maxEdits)
	}
	if _, known := Since(d, 0); known {
		t.Error("what is forgotten is told")
	}
	if since, known := Since(d, 3*maxEdits-2); !known || len(since) != 2 {
		t.Error("the newest are not told")
	}
	if taken, err := Push(&d, 3*maxEdits, edit("a", fmt.Sprintf(`[%d,[0,"%s"]]`, 3*maxEdits, strings.Repeat("y", maxBehind)))); err != nil || !taken {
		t.Fatal(taken, err)
	}
	if len(d.Edits) != 0 {
		t.Errorf("%d edits are kept beside a large one", len(d.Edits))
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, data := range []string{"\xff", "a\x00b"} {
		if _, err := Open("f", []byte(data)); !errors.Is(err, mlaas.ErrInvalid) {
			t.Errorf("%q: %v", data, err)
		}
	}
	if _, err := Open("f", make([]byte, MaxText+1)); !errors.Is(err, mlaas.ErrTooLarge) {
		t.Error(err)
	}
}

func TestMerge(t *testing.T) {
	const base = "a\nb\nc\nd\n"
	tests := []struct {
		name, mine, theirs, want string
		conflicts                int
	}{
		{"nobody", base, base, base, 0},
		{"I alone", "a\nB\nc\nd\n", base, "a\nB\nc\nd\n", 0},
		{"they alone", base, "a\nb\nc\n", "a\nb\nc\n", 0},
		{"apart", "A\nb\nc\nd\n", "a\nb\nc\nd\ne\n", "A\nb\nc\nd\ne\n", 0},
		{"the same", "a\nX\nc\nd\n", "a\nX\nc\nd\n", "a\nX\nc\nd\n", 0},
		{"the same place", "a\nX\nc\nd\n", "a\nY\nc\nd\n", "a\n<<<<<<< mine\nX\n=======\nY\n>>>>>>> v2\nc\nd\n", 1},
		{"one takes out what the other changes", "a\nd\n", "a\nb\nC\nd\n", "a\n<<<<<<< mine\n=======\nb\nC\n>>>>>>> v2\nd\n", 1},
		{"without a last line end", "a\nb\nc\nX", "a\nb\nc\nY", "a\nb\nc\n<<<<<<< mine\nX\n=======\nY\n>>>>>>> v2\n", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, conflicts := Merge(base, tt.mine, tt.theirs, "mine", "v2")
			if got != tt.want || conflicts != tt.conflicts {
				t.Errorf("%q with %d conflicts, want %q with %d", got, conflicts, tt.want, tt.conflicts)
			}
		})
	}
}

// Where one side changed nothing, the other's text is what comes out, so every
// comparison of lines is right.
func FuzzMerge(f *testing.F) {
	f.Add("a\nb\n", "a\nc\n")
	f.Add("", "x")
	f.Add("a\nb\nc\na\nb\nb\na\n", "c\nb\na\nb\na\nc\n")
	f.Fuzz(func(t *testing.T, base, text string) {
		for _, sides := range [][2]string{{text, base}, {base, text}, {text, text}} {
			if got, n := Merge(base, sides[0], sides[1], "mine", "theirs"); got != text || n != 0 {
				t.Fatalf("%q, %q over %q is %q", sides[0], sides[1], base, got)
			}
		}
	})
}
