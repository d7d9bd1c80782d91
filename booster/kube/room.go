package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

// roomEvery is how often the nodes are counted. Between, the API server is only
// asked whether it is there.
const roomEvery = 30 * time.Second

// A room is what the nodes have, as it was counted last.
type room struct {
	mu   sync.Mutex
	at   time.Time
	have booster.Capacity
}

// Capacity tells what the nodes that may take replicas have, without what
// others use of it, and no more than the quota. It is an error where the API
// server does not answer.
func (e *Executor) Capacity(ctx context.Context) (booster.Capacity, error) {
	if err := e.begin(); err != nil {
		return booster.Capacity{}, err
	}
	e.room.mu.Lock()
	defer e.room.mu.Unlock()
	if e.room.at.IsZero() || time.Since(e.room.at) >= roomEvery {
		have, err := e.count(ctx)
		if err != nil {
			return have, e.fault(err)
		}
		e.room.have, e.room.at = have, time.Now()
	} else if _, err := e.serverVersion(ctx); err != nil {
		return booster.Capacity{}, e.fault(err)
	}
	have := e.room.have
	have.Limits = append(slices.Clone(have.Limits), e.limits()...)
	return have, nil
}

func (e *Executor) count(ctx context.Context) (c booster.Capacity, err error) {
	nodes, err := e.nodes(ctx)
	quota := e.Settings.Quota
	if apierrors.IsForbidden(err) && quota.CPU > 0 && quota.Memory > 0 {
		c.Total = quota
		c.Limits = []string{"We may not see the nodes, so the capacity is the quota, whether there is room for it or not."}
		return c, nil
	}
	if err != nil {
		return c, err
	}
	usable := map[string][]string{} // by node: the kinds of its GPUs
	kinds := map[string]int{}
	var silent []string
	for i := range nodes {
		n := &nodes[i]
		if !works(n) && selects(e.Settings.NodeSelector, n.Labels) {
			silent = append(silent, n.Name)
		}
		if !e.takes(n) {
			continue
		}
		usable[n.Name] = nil
		c.Total.CPU += mlaas.MilliCPU(n.Status.Allocatable.Cpu().MilliValue())
		c.Total.Memory += mlaas.Bytes(n.Status.Allocatable.Memory().Value())
		for kind, g := range e.shape.gpus() {
			if q, ok := n.Status.Allocatable[corev1.ResourceName(g.Resource)]; ok && selects(g.NodeSelector, n.Labels) {
				kinds[kind] += int(q.Value())
				usable[n.Name] = append(usable[n.Name], kind)
			}
		}
	}
	if len(silent) > 0 {
		c.Limits = append(c.Limits, unanswered(silent))
	}
	var others mlaas.Resources
	if err := e.others(ctx, func(p *corev1.Pod) {
		if its, ok := usable[p.Spec.NodeName]; ok {
			cpu, memory, gpus := requests(p)
			others.CPU += mlaas.MilliCPU(cpu)
			others.Memory += mlaas.Bytes(memory)
			for _, kind := range its {
				kinds[kind] -= int(gpus[e.shape.gpus()[kind].Resource])
			}
		}
	}); apierrors.IsForbidden(err) {
		c.Limits = append(c.Limits, "We may not see what others run, so replicas may wait for room that is counted as free.")
	} else if err != nil {
		return c, err
	}
	c.Total.CPU, c.Total.Memory = max(0, c.Total.CPU-others.CPU), max(0, c.Total.Memory-others.Memory)
	c.Total.GPU, c.GPUs = most(kinds), named(kinds)
	within := func(have *int64, most int64) {
		if most > 0 {
			*have = min(*have, most)
		}
	}
	within((*int64)(&c.Total.CPU), int64(quota.CPU))
	within((*int64)(&c.Total.Memory), int64(quota.Memory))
	if quota.GPU.Count > 0 {
		c.Total.GPU.Count = min(c.Total.GPU.Count, quota.GPU.Count)
		for i := range c.GPUs {
			if g := &c.GPUs[i]; quota.GPU.Kind == "" || strings.EqualFold(quota.GPU.Kind, g.Kind) {
				g.Count = min(g.Count, quota.GPU.Count)
			}
		}
	}
	return c, nil
}

// maxSilent is how many nodes are named that do not answer.
const maxSilent = 3

// unanswered says which nodes are missing.
func unanswered(silent []string) string {
	slices.Sort(silent)
	if len(silent) == 1 {
		return "Node " + silent[0] + " does not answer, so nothing is placed there."
	}
	named := strings.Join(silent[:min(len(silent), maxSilent)], ", ")
	if more := len(silent) - maxSilent; more > 0 {
		named += fmt.Sprintf(" and %d more", more)
	}
	return "Nodes " + named + " do not answer, so nothing is placed there."
}

// most is the kind of GPU that there is most of. A job that names no kind takes
// any, so the unnamed kind counts only where no other does.
func most(kinds map[string]int) (g mlaas.GPU) {
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if n := kinds[kind]; n > 0 && (n > g.Count || g.Kind == "" && kind != "") {
			g = mlaas.GPU{Count: n, Kind: kind}
		}
	}
	return g
}

// named are the kinds that have a name, where there are several.
func named(kinds map[string]int) (all []mlaas.GPU) {
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if kind != "" && kinds[kind] > 0 {
			all = append(all, mlaas.GPU{Count: kinds[kind], Kind: kind})
		}
	}
	if len(all) < 2 {
		return nil
	}
	return all
}

func (e *Executor) nodes(ctx context.Context) ([]corev1.Node, error) {
	all, err := e.api.Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"}) // as the cache has it: it is a sum
	if err != nil {
		return nil, err
	}
	return all.Items, nil
}

// others calls f for the pods that are not ours and hold something.
func (e *Executor) others(ctx context.Context, f func(*corev1.Pod)) error {
	o := metav1.ListOptions{
		LabelSelector: labelCluster + "!=" + e.Cluster,
		FieldSelector: "status.phase!=Succeeded,status.phase!=Failed", Limit: 500,
	}
	for {
		some, err := e.api.Pods("").List(ctx, o)
		if err != nil {
			return err
		}
		for i := range some.Items {
			f(&some.Items[i])
		}
		if o.Continue = some.Continue; o.Continue == "" {
			return nil
		}
	}
}

// takes reports whether replicas can be placed on a node.
func (e *Executor) takes(n *corev1.Node) bool {
	if n.Spec.Unschedulable || !works(n) || !selects(e.Settings.NodeSelector, n.Labels) {
		return false
	}
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectPreferNoSchedule {
			continue
		}
		tolerated := slices.ContainsFunc(e.Settings.Tolerations, func(o mlaas.KubeToleration) bool { return tolerates(o, t) })
		for _, g := range e.Settings.GPU { // a node of GPUs takes those that ask for them
			tolerated = tolerated || slices.ContainsFunc(g.Tolerations, func(o mlaas.KubeToleration) bool { return tolerates(o, t) })
		}
		if !tolerated {
			return false
		}
	}
	return true
}

func tolerates(o mlaas.KubeToleration, t corev1.Taint) bool {
	return (o.Effect == "" || o.Effect == string(t.Effect)) && (o.Key == "" || o.Key == t.Key) && (o.Operator == "Exists" || o.Value == t.Value)
}

// works reports whether the kubelet of a node answers.
func works(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// requests is what a pod holds of its node: all of its containers, or one that
// comes before them, if that is more.
func requests(p *corev1.Pod) (milliCPU, memory int64, others map[string]int64) {
	sum, most := map[corev1.ResourceName]int64{}, map[corev1.ResourceName]int64{}
	amount := func(name corev1.ResourceName, list corev1.ResourceList) int64 {
		q := list[name]
		if name == corev1.ResourceCPU {
			return q.MilliValue()
		}
		return q.Value()
	}
	for _, c := range p.Spec.InitContainers {
		beside := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		for name := range c.Resources.Requests {
			n := amount(name, c.Resources.Requests)
			if beside {
				sum[name] += n
			} else {
				most[name] = max(most[name], sum[name]+n)
			}
		}
	}
	for _, c := range p.Spec.Containers {
		for name := range c.Resources.Requests {
			sum[name] += amount(name, c.Resources.Requests)
		}
	}
	for name, n := range most {
		sum[name] = max(sum[name], n)
	}
	for name := range p.Spec.Overhead {
		sum[name] += amount(name, p.Spec.Overhead)
	}
	others = map[string]int64{}
	for name, n := range sum {
		others[string(name)] = n
	}
	return sum[corev1.ResourceCPU], sum[corev1.ResourceMemory], others
}

// serverVersion asks the API server which it is, and so whether it is there.
func (e *Executor) serverVersion(ctx context.Context) (minor int, err error) {
	data, err := e.api.RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return 0, err
	}
	var v struct{ Major, Minor string }
	if err := json.Unmarshal(data, &v); err != nil {
		return 0, err
	}
	minor, err = strconv.Atoi(strings.TrimRight(v.Minor, "+"))
	if v.Major != "1" || err != nil {
		return 0, fmt.Errorf("it says that it is Kubernetes %s.%s", v.Major, v.Minor)
	}
	return minor, nil
}

// imageVolumes reports whether an image can be mounted into pods everywhere.
func (e *Executor) imageVolumes(ctx context.Context) (bool, error) {
	minor, err := e.serverVersion(ctx)
	if err != nil || minor < 35 {
		return false, e.fault(err)
	}
	nodes, err := e.nodes(ctx)
	if apierrors.IsForbidden(err) {
		return false, nil
	}
	if err != nil {
		return false, e.fault(err)
	}
	for i := range nodes {
		if !mountsImages(nodes[i].Status.NodeInfo.ContainerRuntimeVersion) {
			return false, nil
		}
	}
	return len(nodes) > 0, nil
}

// mountsImages reports whether a runtime, as "containerd://2.1.4", can.
func mountsImages(runtime string) bool {
	name, version, _ := strings.Cut(runtime, "://")
	least, ok := map[string][2]int{"containerd": {2, 1}, "cri-o": {1, 33}}[name]
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if !ok || len(parts) < 2 {
		return false
	}
	major, err := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err == nil && err2 == nil && (major > least[0] || major == least[0] && minor >= least[1])
}
