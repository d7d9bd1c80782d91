package supervisor

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// gpuEvery is how often GPUs are asked whether they work. They answer for the
// last second or less.
const gpuEvery = 10 * time.Second

// watchGPUs keeps s.usage.GPUBusy, where the replica has GPUs whose driver
// tells. It asks beside everything else: an answer may take a while.
func (s *Supervisor) watchGPUs(ctx context.Context) {
	ids := s.Vars["CUDA_VISIBLE_DEVICES"]
	if ids == "" && s.Ceiling.GPU.Count == 0 {
		return
	}
	smi, err := exec.LookPath("nvidia-smi")
	if err != nil {
		return
	}
	args := []string{"--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"}
	if ids != "" {
		args = append(args, "--id="+ids)
	}
	for {
		within, cancel := context.WithTimeout(ctx, gpuEvery)
		text, err := exec.CommandContext(within, smi, args...).Output()
		cancel()
		busy, ok := readBusy(string(text))
		s.mu.Lock()
		if s.usage.GPUBusy = nil; err == nil && ok {
			s.usage.GPUBusy = &busy
		}
		s.mu.Unlock()
		if pause(ctx, gpuEvery) != nil {
			return
		}
	}
}

// readBusy is the mean of percentages, a line each, as a part of 1. It is not
// ok where one of them is none: some GPUs do not tell.
func readBusy(text string) (busy float64, ok bool) {
	lines := strings.Fields(text)
	for _, l := range lines {
		v, err := strconv.ParseFloat(l, 64)
		if err != nil || v < 0 || v > 100 {
			return 0, false
		}
		busy += v / 100
	}
	if len(lines) == 0 {
		return 0, false
	}
	return busy / float64(len(lines)), true
}
