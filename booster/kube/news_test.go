package kube

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"mlaas.dev/mlaas"
)

// What a cluster says of a pod, and what a user reads of it.
func TestLook(t *testing.T) {
	on := func(p *corev1.Pod) { p.Spec.NodeName = "n1" }
	phase := func(s corev1.PodPhase) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Status.Phase = s } }
	state := func(s corev1.ContainerState) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: containerName, State: s}}
		}
	}
	waits := func(reason, message string) func(*corev1.Pod) {
		return state(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}})
	}
	over := func(code int32, reason string) func(*corev1.Pod) {
		return state(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: "why\nnot."}})
	}
	says := func(c corev1.PodConditionType, s corev1.ConditionStatus, reason, message string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c, Status: s, Reason: reason, Message: message})
		}
	}
	deleted := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
	running := state(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
	as := func(reason, message string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Status.Reason, p.Status.Message = reason, message }
	}
	failed := phase(corev1.PodFailed)
	tests := []struct {
		name   string
		is     []func(*corev1.Pod)
		status mlaas.ReplicaStatus
		reason string
		code   int // -1: not known
		oom    bool
	}{
		{"new", nil, mlaas.ReplicaPending, "it waits for a place", -1, false},
		{"no room", []func(*corev1.Pod){says(corev1.PodScheduled, "False", "Unschedulable", "0/3 nodes are available: 3 Insufficient cpu.")},
			mlaas.ReplicaPending, "the cluster has no place for it: 0/3 nodes are available: 3 Insufficient cpu", -1, false},
		{"no other node", []func(*corev1.Pod){says(corev1.PodScheduled, "False", "Unschedulable", "0/1 nodes are available."), func(p *corev1.Pod) { p.Spec.Affinity = elsewhere([]string{"n1", "n2"}) }},
			mlaas.ReplicaPending, "the cluster has no place for it: 0/1 nodes are available; it may not run on n1, n2", -1, false},
		{"held back", []func(*corev1.Pod){says(corev1.PodScheduled, "False", "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")},
			mlaas.ReplicaPending, "the cluster holds it back: Scheduling is blocked due to non-empty scheduling gates", -1, false},
		{"being made", []func(*corev1.Pod){on, waits("ContainerCreating", "")}, mlaas.ReplicaPending, "its container is being made on n1", -1, false},
		{"no image", []func(*corev1.Pod){on, waits("ImagePullBackOff", `Back-off pulling image "a:1": not found`)},
			mlaas.ReplicaPending, `image a:1 cannot be pulled on n1: Back-off pulling image "a:1": not found`, -1, false},
		{"no image of the supervisor", []func(*corev1.Pod){on, waits("PodInitializing", ""), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Image: "s:1"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}}}
		}}, mlaas.ReplicaPending, "image s:1 cannot be pulled on n1: ErrImagePull", -1, false},
		{"never an image", []func(*corev1.Pod){on, waits("ErrImageNeverPull", "")}, mlaas.ReplicaFailed, "image a:1 cannot be had on n1: ErrImageNeverPull", -1, false},
		{"no claim", []func(*corev1.Pod){on, waits("CreateContainerConfigError", "secret \"x\" not found")}, mlaas.ReplicaPending, `its container cannot be made on n1 yet: secret "x" not found`, -1, false},
		{"runs", []func(*corev1.Pod){on, running}, mlaas.ReplicaReady, "its supervisor runs", -1, false},
		{"is being drained", []func(*corev1.Pod){on, running, deleted, says(corev1.DisruptionTarget, "True", "EvictionByEvictionAPI", "")}, mlaas.ReplicaReady, "evicted from n1, which is being drained", -1, false},
		{"ended", []func(*corev1.Pod){on, failed, over(7, "Error")}, mlaas.ReplicaLost, "its supervisor ended with exit code 7", 7, false},
		{"delivered", []func(*corev1.Pod){on, phase(corev1.PodSucceeded), over(0, "Completed")}, mlaas.ReplicaLost, "its supervisor has delivered everything and ended", 0, false},
		{"killed", []func(*corev1.Pod){on, failed, over(137, "Error")}, mlaas.ReplicaLost, "its supervisor was ended by signal 9", 137, false},
		{"deleted", []func(*corev1.Pod){on, failed, deleted, over(137, "Error")}, mlaas.ReplicaLost, "its pod was deleted by somebody else", 137, false},
		{"out of memory", []func(*corev1.Pod){on, failed, over(137, "OOMKilled")}, mlaas.ReplicaLost, "out of memory: its ceiling is 64Mi", 137, true},
		{"out of memory without a ceiling", []func(*corev1.Pod){on, failed, over(137, "OOMKilled"), func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits = nil }},
			mlaas.ReplicaLost, "out of memory: the node has no more", 137, true},
		{"evicted", []func(*corev1.Pod){on, failed, as("Evicted", "The node was low on resource: memory."), over(137, "Error")}, mlaas.ReplicaLost, "evicted from n1: The node was low on resource: memory", 137, false},
		{"drained", []func(*corev1.Pod){on, failed, deleted, says(corev1.DisruptionTarget, "True", "EvictionByEvictionAPI", ""), over(143, "Error")}, mlaas.ReplicaLost, "evicted from n1, which is being drained", 143, false},
		{"preempted", []func(*corev1.Pod){on, failed, says(corev1.DisruptionTarget, "True", "PreemptionByScheduler", "preempting to accommodate a higher priority pod")},
			mlaas.ReplicaLost, "preempted on n1: preempting to accommodate a higher priority pod", -1, false},
		{"the node is silent", []func(*corev1.Pod){on, running, deleted, says(corev1.DisruptionTarget, "True", "DeletionByTaintManager", "")}, mlaas.ReplicaLost, "node n1 is lost: it does not answer", -1, false},
		{"the node is gone", []func(*corev1.Pod){on, failed, says(corev1.DisruptionTarget, "True", "DeletionByPodGC", "")}, mlaas.ReplicaLost, "node n1 is lost: it is not part of the cluster any more", -1, false},
		{"the node ends", []func(*corev1.Pod){on, failed, as("Terminated", "Pod was terminated in response to imminent node shutdown."), says(corev1.DisruptionTarget, "True", "TerminationByKubelet", "Pod was terminated in response to imminent node shutdown.")},
			mlaas.ReplicaLost, "ended by n1: Pod was terminated in response to imminent node shutdown", -1, false},
		{"the node does not know", []func(*corev1.Pod){on, failed, over(137, "ContainerStatusUnknown")}, mlaas.ReplicaLost, "n1 does not know any more how it ended", -1, false},
		{"the node refuses", []func(*corev1.Pod){on, failed, as("OutOfcpu", "Node didn't have enough resource: cpu")}, mlaas.ReplicaLost, "n1 did not take it: OutOfcpu Node didn't have enough resource: cpu", -1, false},
		{"cannot begin", []func(*corev1.Pod){on, failed, over(128, "StartError")}, mlaas.ReplicaFailed, "its container could not be started: why not", -1, false},
		{"no supervisor", []func(*corev1.Pod){on, failed, func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "no space"}}}}
		}}, mlaas.ReplicaFailed, "the supervisor could not be brought into its pod: exit code 1 no space", -1, false},
		{"without a word", []func(*corev1.Pod){on, failed}, mlaas.ReplicaLost, "its pod ended without a word", -1, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "a:1", Resources: corev1.ResourceRequirements{
				Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}}}}}}
			for _, f := range tt.is {
				f(p)
			}
			f := mlaas.Fence{Run: run}
			n := look(f, p)
			code := -1
			if n.ExitCode != nil {
				code = *n.ExitCode
			}
			blocked := slices.Contains([]string{"no room", "no other node", "held back", "no image", "no image of the supervisor", "no claim"}, tt.name)
			if n.Blocked != blocked {
				t.Errorf("that it is blocked is %t", n.Blocked)
			}
			slim, _, err := decoder().Decode(onWire(t, p), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if again := look(f, slim.(*corev1.Pod)); !reflect.DeepEqual(again, n) {
				t.Errorf("of the slim pod it is %+v, want %+v", again, n)
			}
			gone := slices.Contains([]string{"the node is silent", "the node is gone", "the node ends", "the node does not know"}, tt.name)
			if n.NodeLost != gone {
				t.Errorf("that its node is lost is %t", n.NodeLost)
			}
			if n.Fence != f || n.Status != tt.status || n.Reason != tt.reason || code != tt.code || n.OOM != tt.oom || n.Node != p.Spec.NodeName {
				t.Errorf("it is %s: %q, exit code %d, out of memory %t\nwant %s: %q, %d, %t", n.Status, n.Reason, code, n.OOM, tt.status, tt.reason, tt.code, tt.oom)
			}
		})
	}
	if s := plainly(strings.Repeat("ä ", maxWhy)); len(s) > maxWhy+3 {
		t.Errorf("%d bytes are kept of a message", len(s))
	}
}
