package local

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"mlaas.dev/mlaas"
)

// A gpu is one accelerator of this machine.
type gpu struct {
	Index int
	ID    string // as CUDA names it for good; empty: by its index
	Kind  string // "h200"; empty where the driver does not say
}

var (
	deviceRule = regexp.MustCompile(`^/dev/nvidia(\d+)$`)
	listRule   = regexp.MustCompile(`^GPU (\d+): (.+) \(UUID: ([^)]+)\)$`)
)

// findGPUs lists the accelerators whose devices are there.
func findGPUs() []gpu {
	var found []gpu
	devices, _ := filepath.Glob("/dev/nvidia[0-9]*")
	for _, d := range devices {
		if m := deviceRule.FindStringSubmatch(d); m != nil {
			i, _ := strconv.Atoi(m[1])
			found = append(found, gpu{Index: i})
		}
	}
	if len(found) == 0 {
		return nil
	}
	slices.SortFunc(found, func(a, b gpu) int { return a.Index - b.Index })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, "nvidia-smi", "-L").Output()
	if err != nil {
		return found
	}
	return readGPUs(found, string(text))
}

// readGPUs takes what `nvidia-smi -L` says. In a container it numbers what it
// sees from 0, whatever the devices are called; then the order counts.
func readGPUs(found []gpu, text string) []gpu {
	n := 0
	for line := range strings.Lines(text) {
		m := listRule.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil || n == len(found) {
			continue
		}
		found[n].Kind, found[n].ID = gpuKind(m[2]), m[3]
		n++
	}
	return found
}

// gpuKind is the short name of a model: "h200", "a100", "rtx4090".
func gpuKind(name string) string {
	var words []string
	for _, w := range strings.Fields(strings.ToLower(name)) {
		switch w {
		case "nvidia", "tesla", "geforce", "quadro":
		default:
			words = append(words, w)
		}
	}
	if len(words) == 0 {
		return ""
	}
	kind, _, _ := strings.Cut(words[0], "-")
	if (kind == "rtx" || kind == "gtx" || kind == "titan") && len(words) > 1 {
		kind += words[1]
	}
	return kind
}

// takeGPUs chooses accelerators that no other replica has. The lock is held.
func (e *Executor) takeGPUs(ceiling, need mlaas.GPU) ([]int, error) {
	want := max(ceiling.Count, need.Count)
	if want == 0 {
		return nil, nil
	}
	kind := need.Kind
	if kind == "" {
		kind = ceiling.Kind
	}
	taken := map[int]bool{}
	for _, r := range e.replicas {
		if !r.final() {
			for _, i := range r.about.GPUs {
				taken[i] = true
			}
		}
	}
	var got []int
	for _, g := range e.gpus {
		if len(got) < want && !taken[g.Index] && (kind == "" || g.Kind == "" || strings.EqualFold(kind, g.Kind)) {
			got = append(got, g.Index)
		}
	}
	if len(got) < want && e.Total.GPU.Count == 0 {
		return nil, fmt.Errorf("%d GPU asked for, %d free: %w", want, len(got), mlaas.ErrUnavailable)
	}
	return got, nil
}

// visible is CUDA_VISIBLE_DEVICES: nothing at all for who asked for none.
func (e *Executor) visible(indexes []int) string {
	var ids []string
	for _, g := range e.gpus {
		if slices.Contains(indexes, g.Index) {
			if g.ID != "" {
				ids = append(ids, g.ID)
			} else {
				ids = append(ids, strconv.Itoa(g.Index))
			}
		}
	}
	return strings.Join(ids, ",")
}

// devices are the files that a program with these accelerators needs. Where a
// driver counts devices by their number, it must see all of them.
func (e *Executor) devices(indexes []int) []string {
	if len(indexes) == 0 {
		return nil
	}
	var out []string
	for _, g := range e.gpus {
		if g.ID == "" || slices.Contains(indexes, g.Index) {
			out = append(out, fmt.Sprintf("/dev/nvidia%d", g.Index))
		}
	}
	for _, name := range []string{"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps"} {
		out = append(out, filepath.Join("/dev", name))
	}
	return out
}

// tail is the last line of a text.
func tail(text string) string {
	text = strings.TrimSpace(text)
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	return text
}
