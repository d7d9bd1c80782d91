//go:build linux

// Command kube measures what is promised about Kubernetes clusters, on clusters
// that it runs itself, and prints each figure beside its limit:
//
//	start  from "run accepted" to the program's first line, against a bare pod
//	rate   runs of many replicas on fake nodes, against a bare loop of client-go;
//	       and what of it is the platform's own: the same with no cluster
//	dead   clusters that are added while some are dead
//	lines  how late a line of a pod is at who follows, and whether all come
//	heap   what a watched pod takes in memory
//
// Compare only what one run of it printed: a figure and its base are of the same
// clusters, one after the other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"mlaas.dev/mlaas/bench/rig"
	"mlaas.dev/mlaas/e2e/layout"
	"mlaas.dev/mlaas/internal/kubetest"
)

func main() {
	var b bench
	only := flag.String("only", "start,rate,dead,lines,heap", "which figures")
	flag.StringVar(&b.binary, "bin", "bin/mlaas", "the mlaas binary")
	flag.IntVar(&b.starts, "starts", 20, "start: how often each")
	flag.IntVar(&b.nodes, "nodes", 100, "rate: nodes of each of the three clusters")
	flag.IntVar(&b.runs, "runs", 500, "rate: how many runs")
	flag.IntVar(&b.replicas, "replicas", 10, "rate: of each run")
	flag.IntVar(&b.pods, "pods", 5000, "heap: how many are watched")
	flag.IntVar(&b.lines, "lines", 300000, "lines: how many are written")
	flag.StringVar(&b.profile, "profile", "", "a folder for the profiles of each platform")
	flag.IntVar(&b.perSecond, "per-second", 10000, "lines: how many in a second")
	pods := flag.Int("loop", 0, "be the bare loop of rate: make so many pods, like the one of the file that follows, on the clusters of the kubeconfigs behind it")
	promises := flag.Bool("promise", false, "be what the platform does for the runs of rate besides pods and requests")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	measure := func() error { return b.run(ctx, strings.Split(*only, ",")) }
	if *pods > 0 {
		measure = func() error { return loop(ctx, *pods, flag.Args()) }
	}
	if *promises {
		measure = func() error { return promise(ctx, &b) }
	}
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type bench struct {
	binary                      string
	starts                      int
	nodes, runs, replicas, pods int
	lines, perSecond            int
	profile                     string
	stages                      int // how many there were
}

func (b *bench) run(ctx context.Context, only []string) error {
	if err := kubetest.Have(); err != nil {
		return err
	}
	for _, figure := range []struct {
		name    string
		measure func(context.Context) error
	}{
		{"start", b.start},
		{"rate", b.rate},
		{"dead", b.dead},
		{"lines", b.late},
		{"heap", b.heap},
	} {
		if !slices.Contains(only, figure.name) {
			continue
		}
		if err := figure.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", figure.name, err)
		}
	}
	return nil
}

// namespace is where replicas are.
const namespace = "mlaas"

// A stage is a platform that serves clusters, and nothing on this machine.
type stage struct {
	*rig.Platform
	door string // where it listens for the replicas of clusters
}

func (b *bench) stage(ctx context.Context) (*stage, error) {
	port, err := layout.FreePort()
	if err != nil {
		return nil, err
	}
	door := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	args := []string{"--door", door, "--plain"}
	if b.stages++; b.profile != "" {
		args = append(args, "--profile", filepath.Join(b.profile, strconv.Itoa(b.stages)))
	}
	p, err := rig.Up(b.binary, args...)
	if err != nil {
		return nil, err
	}
	s := &stage{p, door}
	if err = s.up(ctx, "local"); err == nil {
		err = s.Do(http.MethodPatch, "/api/cluster/local", map[string]any{"wanted": "drain"}, nil)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// add adds a cluster by a kubeconfig and does not wait for it.
func (s *stage) add(name string, kubeconfig []byte, door string) error {
	return s.Do(http.MethodPost, "/api/cluster", map[string]any{
		"name": name, "kind": "kubernetes", "door": "http://" + door + "/cluster/" + name, "kubeconfig": string(kubeconfig),
		"kube": map[string]any{"supervisor": supervisorRef, "images": map[string]string{"": kubetest.PythonRef}, "namespace": namespace},
	}, nil)
}

const supervisorRef = "kubetest.local/mlaas:1"

// onReal starts a platform with one real cluster, named real. Call end when all
// is measured.
func (b *bench) onReal(ctx context.Context) (c *kubetest.Cluster, s *stage, end func(), err error) {
	if c, err = b.real(ctx); err != nil {
		return nil, nil, nil, err
	}
	if s, err = b.stage(ctx); err != nil {
		c.Close()
		return nil, nil, nil, err
	}
	end = func() {
		s.Close()
		c.Close()
	}
	door, err := c.Expose(s.door)
	if err == nil {
		err = s.add("real", c.Kubeconfig(), door)
	}
	if err == nil {
		err = s.up(ctx, "real")
	}
	if err != nil {
		end()
		return nil, nil, nil, err
	}
	return c, s, end, nil
}

// real is a cluster with one node that runs pods and has the images.
func (b *bench) real(ctx context.Context) (_ *kubetest.Cluster, err error) {
	c, err := kubetest.Open(ctx, kubetest.Opts{Name: "real", Nodes: kubetest.Real(1)})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	binary, err := filepath.Abs(b.binary)
	if err != nil {
		return nil, err
	}
	python, err := kubetest.Python()
	if err != nil {
		return nil, err
	}
	return c, c.Load(ctx, kubetest.Image{Ref: supervisorRef, Files: map[string]string{"/mlaas": binary}}, python)
}
