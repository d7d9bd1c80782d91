//go:build failpoints

package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// The test runs itself as the process that dies.
func TestHit(t *testing.T) {
	if os.Getenv("MLAAS_FAILPOINT_LIST") != "" && os.Getenv("MLAAS_FAILPOINT_TEST") != "" {
		for range 3 {
			Hit("a")
			Hit("b")
		}
		os.Exit(0)
	}
	tests := []struct {
		point string
		dies  bool
		list  string
	}{
		{"", false, "a\nb\n"},
		{"other", false, "a\nb\n"},
		{"a", true, "a\n"},
		{"b", true, "a\nb\n"},
		{"a#3", true, "a\nb\n"},
		{"a#4", false, "a\nb\n"},
	}
	for _, tt := range tests {
		t.Run(tt.point, func(t *testing.T) {
			list := filepath.Join(t.TempDir(), "list")
			cmd := exec.Command(os.Args[0], "-test.run=^TestHit$")
			cmd.Env = append(os.Environ(), "MLAAS_FAILPOINT_TEST=1", "MLAAS_FAILPOINT="+tt.point, "MLAAS_FAILPOINT_LIST="+list)
			err := cmd.Run()
			exit, killed := errors.AsType[*exec.ExitError](err)
			if killed {
				killed = exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
			}
			if killed != tt.dies || !tt.dies && err != nil {
				t.Errorf("ends with %v, want it killed: %v", err, tt.dies)
			}
			if got, _ := os.ReadFile(list); string(got) != tt.list {
				t.Errorf("list is %q, want %q", got, tt.list)
			}
		})
	}
}
