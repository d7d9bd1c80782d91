// Package rig is what the benches share: a platform of their own in a
// temporary folder, requests to it, and rows that show a figure beside its
// limit.
package rig

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Platform is a running `mlaas up`.
type Platform struct {
	URL, Token, Dir string
	PID             int
	Ended           chan struct{} // closed when the process is gone

	binary  string
	process *exec.Cmd
	http    *http.Client
	keep    bool
}

// Options say how a platform is started.
type Options struct {
	Binary string
	Dir    string   // empty: a temporary one, which Close removes
	Env    []string // besides the environment of this process
	Args   []string // of `mlaas up`
	Log    io.Writer
}

// Up starts a platform with data in a folder of its own, and more arguments
// for `mlaas up`. Close ends it and everything that it started.
func Up(binary string, args ...string) (*Platform, error) {
	return Start(Options{Binary: binary, Args: args, Log: os.Stderr})
}

// Start starts a platform and returns when it is ready, or with an error when
// it ended before that.
func Start(o Options) (*Platform, error) {
	p := &Platform{Dir: o.Dir, keep: o.Dir != "", Ended: make(chan struct{}), http: &http.Client{
		Timeout:   2 * time.Minute,
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
	}}
	var err error
	if p.Dir == "" {
		if p.Dir, err = os.MkdirTemp("", "mlaas-bench-"); err != nil {
			return nil, err
		}
	}
	if p.binary, err = filepath.Abs(o.Binary); err != nil {
		return nil, err
	}
	p.process = exec.Command(p.binary, append([]string{"up", "--dir", p.Dir, "--listen", "127.0.0.1:0"}, o.Args...)...)
	p.process.Env = append(append(os.Environ(), "MLAAS_URL=", "MLAAS_TOKEN="), o.Env...)
	// A group of its own: a Ctrl+C to the bench is the bench's to handle.
	p.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.process.Stderr = o.Log
	out, err := p.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.process.Start(); err != nil {
		return nil, err
	}
	p.PID = p.process.Process.Pid
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), "ready "); ok {
			p.URL = url
			break
		}
	}
	go func() {
		io.Copy(io.Discard, out)
		p.process.Wait()
		close(p.Ended)
	}()
	if p.URL == "" {
		<-p.Ended
		return p, fmt.Errorf("mlaas up ended before it was ready: %s", p.process.ProcessState)
	}
	token, err := os.ReadFile(filepath.Join(p.Dir, "token"))
	p.Token = strings.TrimSpace(string(token))
	return p, err
}

// Kill ends the platform's process with SIGKILL, and nothing that it started.
func (p *Platform) Kill() {
	p.process.Process.Kill()
	<-p.Ended
}

// Close ends the platform and its replicas, and removes a temporary folder.
func (p *Platform) Close() {
	if err := Down(p.binary, p.Dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		p.process.Process.Kill()
	}
	<-p.Ended
	if !p.keep {
		os.RemoveAll(p.Dir)
	}
}

// Down ends whatever platform serves dir, if one does, and every replica of it.
func Down(binary, dir string) error {
	if out, err := exec.Command(binary, "down", "--dir", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("mlaas down: %w: %s", err, out)
	}
	return nil
}

// Do sends a request with a JSON body, which may be nil, and reads the answer
// into out, which may be nil. A status of 400 or more is a [Refused].
func (p *Platform) Do(method, path string, body, out any) error {
	return p.DoOnce("", method, path, body, out)
}

// Refused is an answer with a status of 400 or more.
type Refused struct {
	Status int
	Text   string
}

func (r *Refused) Error() string { return r.Text }

// DoOnce is Do with an Idempotency-Key.
func (p *Platform) DoOnce(key, method, path string, body, out any) error {
	var in io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, p.URL+path, in)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+p.Token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 400 {
		return &Refused{res.StatusCode, fmt.Sprintf("%s %s: %s: %s", method, path, res.Status, data)}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// Lines calls f for each line of an NDJSON answer until f returns false.
func (p *Platform) Lines(path string, f func(line []byte) bool) error {
	req, err := http.NewRequest("GET", p.URL+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+p.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 400 {
		data, _ := io.ReadAll(res.Body)
		return fmt.Errorf("GET %s: %s: %s", path, res.Status, data)
	}
	s := bufio.NewScanner(res.Body)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if len(s.Bytes()) > 0 && !f(s.Bytes()) {
			return nil
		}
	}
	return s.Err()
}

// Wait returns when a run is over, and its error unless it succeeded.
func (p *Platform) Wait(run string) error {
	for range 6000 {
		var r struct {
			Status struct{ State, Reason string } `json:"status"`
		}
		if err := p.Do("GET", "/api/run/"+run, nil, &r); err != nil {
			return err
		}
		switch r.Status.State {
		case "succeeded":
			return nil
		case "failed", "stopped":
			return fmt.Errorf("run %s %s: %s", run, r.Status.State, r.Status.Reason)
		}
		<-time.After(50 * time.Millisecond)
	}
	return fmt.Errorf("run %s is not over", run)
}

// Row prints one figure beside its limit, and returns whether it holds.
func Row(name string, got, limit float64, unit string, atMost bool, note string) bool {
	word, holds := "at least", got >= limit
	if atMost {
		word, holds = "at most", got <= limit
	}
	verdict := "holds"
	if !holds {
		verdict = "DOES NOT HOLD"
	}
	fmt.Printf("%-62s %10.3f %-4s %s %.3g: %s  %s\n", name, got, unit, word, limit, verdict, note)
	return holds
}

// tQuantile is the 97.5 % quantile of Student's t for n-1 degrees of freedom.
var tQuantile = map[int]float64{6: 2.571, 8: 2.365, 10: 2.262, 12: 2.201, 14: 2.160, 16: 2.131, 20: 2.093, 30: 2.045}

// Interval is the mean of values and the half width of its 95 % interval. There
// are as many values as Student's table has here: 6, 8, 10, 12, 14, 16, 20 or 30.
func Interval(values []float64) (mean, half float64, err error) {
	n := len(values)
	quantile, ok := tQuantile[n]
	if !ok {
		return 0, 0, fmt.Errorf("%d values: want 6, 8, 10, 12, 14, 16, 20 or 30", n)
	}
	for _, v := range values {
		mean += v / float64(n)
	}
	sd := 0.0
	for _, v := range values {
		sd += (v - mean) * (v - mean) / float64(n-1)
	}
	return mean, quantile * math.Sqrt(sd/float64(n)), nil
}

// Supervisors finds the processes that supervise a run of the platform in dir.
func Supervisors(dir, run string) (pids []int) {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range found {
		text, _ := os.ReadFile(f)
		if args := strings.Split(string(text), "\x00"); len(args) > 2 && args[1] == "supervise" && strings.Contains(string(text), dir) && strings.Contains(string(text), run) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// Median of values, which it sorts.
func Median(values []float64) float64 { return Quantile(values, 0.5) }

// Quantile q of values, which it sorts.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(len(values)-1, int(q*float64(len(values))))]
}

// Tree returns pid and all its descendants.
func Tree(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		data, err := os.ReadFile(s)
		if err != nil {
			continue
		}
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(s)))
		_, rest, _ := strings.Cut(string(data), ") ")
		if f := strings.Fields(rest); len(f) > 1 {
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], id)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// PSS is the proportional memory of the processes, in MB.
func PSS(pids []int) (mb float64) {
	for _, pid := range pids {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		for _, line := range strings.Split(string(data), "\n") {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
				kb, _ := strconv.ParseFloat(f[1], 64)
				mb += kb / 1000
			}
		}
	}
	return mb
}

// CPU is the processor time of the processes so far, in seconds: of all their
// threads that live, to the nanosecond where the kernel counts so.
func CPU(pids []int) (seconds float64) {
	for _, pid := range pids {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/schedstat", pid))
		for _, t := range tasks {
			data, _ := os.ReadFile(t)
			if f := strings.Fields(string(data)); len(f) > 0 {
				ns, _ := strconv.ParseFloat(f[0], 64)
				seconds += ns / 1e9
			}
		}
	}
	return seconds
}
