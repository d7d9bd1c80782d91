//go:build failpoints

package redisstore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The store is killed at each of its points, early and late.
func TestFailpoints(t *testing.T) {
	k := newKilled(t)
	list := filepath.Join(t.TempDir(), "list")
	k.run(500, "MLAAS_FAILPOINT_LIST="+list)
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	points := strings.Fields(string(text))
	if len(points) < 2 {
		t.Fatalf("points are %v", points)
	}
	for _, p := range points {
		for _, hit := range []string{"", "#2", "#50"} {
			k.run(5000, "MLAAS_FAILPOINT="+p+hit)
			k.check()
		}
	}
	t.Logf("%d acknowledged, points %v", len(k.said), points)
}
