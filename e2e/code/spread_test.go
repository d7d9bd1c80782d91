package code

import (
	"strconv"
	"testing"
)

// A spread is an example that knows nothing of distribution, and is run on one
// replica and on four.
type spread struct {
	folder  string
	servers int    // parameter servers beside the four
	printed string // its accuracy, as it prints it
}

var spreads = []spread{
	{"spread-tf1", 1, "test accuracy"},
	{"keras-fit", 0, "test accuracy"},
	{"torch-loop", 0, "test accuracy"},
	{"tf1-guiding", 1, "test_accuracy"},
	{"torch-guiding", 0, "test_accuracy"},
	{"composed-keras", 0, "test accuracy"},
}

// noise is how far the accuracy of four replicas may be below that of one:
// docs/reference/distribution.md states it. It may be above, where a step sees
// the batches of all four.
const noise = 0.01

// TestSpread needs the environments that `make e2e-code` makes.
func TestSpread(t *testing.T) {
	p := start(t)
	for _, s := range spreads {
		if !wanted(s.folder) {
			continue
		}
		t.Run(s.folder, func(t *testing.T) {
			accuracy := func(r tracked, replica string) float64 {
				text, _ := said(r.lines[replica], s.printed)
				v, err := strconv.ParseFloat(text, 64)
				if err != nil {
					t.Errorf("%s printed no %s: %v", replica, s.printed, r.lines[replica])
				}
				return v
			}
			alone := accuracy(p.run(t, s.folder), "worker-0")
			flags := []string{"--workers", "4-4", "--cpu", "0.4"}
			if s.servers > 0 {
				flags = append(flags, "--ps", strconv.Itoa(s.servers))
			}
			four := p.run(t, s.folder, flags...)
			for i := range 4 {
				replica := "worker-" + strconv.Itoa(i)
				got := accuracy(four, replica)
				t.Logf("%s: %.4f alone, %.4f as %s of four", s.folder, alone, got, replica)
				if got < alone-noise {
					t.Errorf("%s: accuracy %.4f as %s of four, want %.4f as alone, or at most %v less", s.folder, got, replica, alone, noise)
				}
			}
		})
	}
}
