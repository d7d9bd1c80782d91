//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"mlaas.dev/mlaas/bench/rig"
	"mlaas.dev/mlaas/internal/kubetest"
)

// first says when its first line ran; pods have the machine's clock.
const first = "import time\nprint(time.time(), flush=True)\n"

// start measures the same program as a run and as a bare pod, in turn.
func (b *bench) start(ctx context.Context) error {
	c, s, end, err := b.onReal(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := s.job("start", first); err != nil {
		return err
	}
	var ours, bare []float64
	for i := range b.starts + 1 { // the first warms both up and is not counted
		us, err := s.first(ctx, "start")
		if err != nil {
			return err
		}
		it, err := barePod(ctx, c, fmt.Sprintf("bare-%d", i))
		if err != nil {
			return err
		}
		if i > 0 {
			ours, bare = append(ours, us), append(bare, it)
		}
	}
	us, it := rig.Median(ours), rig.Median(bare)
	rig.Row("run accepted -> first line, more than a bare pod (median)", us-it, 1, "s", true,
		fmt.Sprintf("%.2f s against %.2f s, slowest %.2f s against %.2f s, n=%d", us, it, ours[len(ours)-1], bare[len(bare)-1], b.starts))
	return nil
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// job makes a job of one small replica.
func (s *stage) job(name, program string) error {
	if err := s.Do(http.MethodPost, "/api/job", map[string]any{"name": name, "roles": map[string]any{"worker": map[string]any{"replicas": 1, "cpu": 0.5, "memory": "256Mi"}}}, nil); err != nil {
		return err
	}
	return s.Do(http.MethodPost, "/api/job/"+name+"/code", map[string]any{"files": map[string]string{"main.py": program}}, nil)
}

// up waits until a cluster is up.
func (s *stage) up(ctx context.Context, name string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(time.Minute)
	defer late.Stop()
	for {
		var k struct {
			Up     bool
			Reason string
		}
		if err := s.Do(http.MethodGet, "/api/cluster/"+name, nil, &k); err == nil && k.Up {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("cluster %s is not up: %s", name, k.Reason)
		case <-tick.C:
		}
	}
}

// first runs a job once and returns the seconds from the request to the first
// line of its program.
func (s *stage) first(ctx context.Context, job string) (float64, error) {
	var run struct{ ID string }
	asked := seconds(time.Now())
	if err := s.Do(http.MethodPost, "/api/job/"+job+"/run", map[string]any{}, &run); err != nil {
		return 0, err
	}
	began := 0.0
	err := s.Lines("/api/run/"+run.ID+"/log?follow=true", func(line []byte) bool {
		var l struct{ Stream, Line string }
		if json.Unmarshal(line, &l) == nil && l.Stream == "stdout" {
			began, _ = strconv.ParseFloat(l.Line, 64)
			return false
		}
		return ctx.Err() == nil
	})
	if err == nil && began == 0 {
		err = fmt.Errorf("run %s printed nothing", run.ID)
	}
	if err != nil {
		return 0, err
	}
	return began - asked, s.Wait(run.ID)
}

// barePod runs the program as a pod of its own, and returns the seconds from
// the request to its first line.
func barePod(ctx context.Context, c *kubetest.Cluster, name string) (float64, error) {
	type object = map[string]any
	held := object{"cpu": "500m", "memory": "256Mi"}
	pods := "/api/v1/namespaces/default/pods"
	asked := seconds(time.Now())
	if err := c.Call(ctx, http.MethodPost, pods, object{"metadata": object{"name": name}, "spec": object{
		"restartPolicy": "Never", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
		"containers": []object{{"name": "main", "image": kubetest.PythonRef, "imagePullPolicy": "IfNotPresent", "command": []string{"/usr/bin/python3", "-c", first},
			"terminationMessagePolicy": "FallbackToLogsOnError", "resources": object{"requests": held, "limits": held}}},
	}}, nil); err != nil {
		return 0, err
	}
	err := kubetest.Until(ctx, c, pods+"?fieldSelector=metadata.name="+name, func(p struct {
		Status struct{ Phase, Message string }
	}) (bool, error) {
		if p.Status.Phase == "Failed" {
			return false, fmt.Errorf("pod %s failed: %s", name, p.Status.Message)
		}
		return p.Status.Phase == "Succeeded", nil
	})
	if err != nil {
		return 0, err
	}
	var said []byte
	if err := c.Call(ctx, http.MethodGet, pods+"/"+name+"/log", nil, &said); err != nil {
		return 0, err
	}
	began, err := strconv.ParseFloat(strings.TrimSpace(string(said)), 64)
	if err != nil {
		return 0, err
	}
	return began - asked, c.Call(ctx, http.MethodDelete, pods+"/"+name, nil, nil)
}
