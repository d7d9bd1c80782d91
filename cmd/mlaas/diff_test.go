package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestUnified(t *testing.T) {
	got := strings.Join(unified("v1/a", "v2/a", lines("1\n2\n3\n4\n5\n6\n7\n8\n9\n"), lines("1\n2\n3\n4\nfive\n6\n7\n8\n9\n10\n")), "\n")
	want := `--- v1/a
+++ v2/a
@@ -2,8 +2,9 @@
 2
 3
 4
-5
+five
 6
 7
 8
 9
+10`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the diff is another (-want +got):\n%s", diff)
	}
	if got := unified("a", "b", lines("x"), lines("x")); got != nil {
		t.Errorf("equal texts differ: %q", got)
	}
}

func TestCompareGoesFromOneToTheOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.SampledFrom([]string{"a", "b", "c", ""})
		a, b := rapid.SliceOfN(line, 0, 20).Draw(t, "a"), rapid.SliceOfN(line, 0, 20).Draw(t, "b")
		var x, y []string
		for _, e := range compare(a, b) {
			if e.sign != '+' {
				if e.a != len(x) {
					t.Fatalf("%q stands at %d of the first, not %d", e.text, len(x), e.a)
				}
				x = append(x, e.text)
			}
			if e.sign != '-' {
				if e.b != len(y) {
					t.Fatalf("%q stands at %d of the second, not %d", e.text, len(y), e.b)
				}
				y = append(y, e.text)
			}
		}
		if !slices.Equal(x, a) || !slices.Equal(y, b) {
			t.Fatalf("compares %q with %q, not %q with %q", x, y, a, b)
		}
	})
}
