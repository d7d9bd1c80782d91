package kube

import (
	"cmp"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
)

// look says where a replica stands by what the cluster says of its pod.
func look(f mlaas.Fence, p *corev1.Pod) booster.News {
	n := booster.News{Fence: f, Node: p.Spec.NodeName}
	c := container(p.Status.ContainerStatuses, containerName)
	disrupted := condition(p, corev1.DisruptionTarget)
	switch {
	case p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded || c != nil && c.State.Terminated != nil:
		n.Status = mlaas.ReplicaLost
		ended(&n, p, c, disrupted)
	case disrupted != nil && disrupted.Reason == "DeletionByTaintManager":
		// Its kubelet is silent: nobody will say how it ended.
		n.Status, n.Reason, n.NodeLost = mlaas.ReplicaLost, disruption(p, disrupted), true
	case c != nil && c.State.Running != nil:
		n.Status, n.Reason = mlaas.ReplicaReady, "its supervisor runs"
		if p.DeletionTimestamp != nil {
			n.Reason = "its pod is being ended"
			if disrupted != nil {
				n.Reason = disruption(p, disrupted)
			}
		}
	case p.Spec.NodeName == "":
		n.Status, n.Reason = mlaas.ReplicaPending, "it waits for a place"
		if s := condition(p, corev1.PodScheduled); s != nil && s.Status == corev1.ConditionFalse && s.Message != "" {
			n.Reason, n.Blocked = "the cluster has no place for it: "+plainly(s.Message), true
			if s.Reason == corev1.PodReasonSchedulingGated {
				n.Reason = "the cluster holds it back: " + plainly(s.Message)
			}
			if not := excluded(p); len(not) > 0 {
				n.Reason += "; it may not run on " + strings.Join(not, ", ")
			}
		}
	default:
		waiting(&n, p, c)
	}
	return n
}

// waiting tells why a container that has its node does not run.
func waiting(n *booster.News, p *corev1.Pod, c *corev1.ContainerStatus) {
	n.Status, n.Reason = mlaas.ReplicaPending, "its container is being made on "+p.Spec.NodeName
	image := p.Spec.Containers[0].Image
	for i := range p.Status.InitContainerStatuses {
		if s := &p.Status.InitContainerStatuses[i]; s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 {
			c, image = s, p.Spec.InitContainers[min(i, len(p.Spec.InitContainers)-1)].Image
			break
		}
	}
	if c == nil || c.State.Waiting == nil {
		return
	}
	why := plainly(c.State.Waiting.Message)
	switch c.State.Waiting.Reason {
	case "ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError":
		n.Reason = fmt.Sprintf("image %s cannot be pulled on %s: %s", image, p.Spec.NodeName, cmp.Or(why, c.State.Waiting.Reason))
		n.Blocked = true
	case "InvalidImageName", "ErrImageNeverPull":
		n.Status = mlaas.ReplicaFailed // waiting does not help
		n.Reason = fmt.Sprintf("image %s cannot be had on %s: %s", image, p.Spec.NodeName, cmp.Or(why, c.State.Waiting.Reason))
	case "", "ContainerCreating", "PodInitializing":
	default: // CreateContainerConfigError, CreateContainerError, RunContainerError
		n.Reason = fmt.Sprintf("its container cannot be made on %s yet: %s", p.Spec.NodeName, cmp.Or(why, c.State.Waiting.Reason))
		n.Blocked = true
	}
}

// ended tells how a pod came to its end.
func ended(n *booster.News, p *corev1.Pod, c *corev1.ContainerStatus, disrupted *corev1.PodCondition) {
	var t *corev1.ContainerStateTerminated
	if c != nil {
		t = c.State.Terminated
	}
	for i := range p.Status.InitContainerStatuses {
		if s := p.Status.InitContainerStatuses[i].State.Terminated; s != nil && s.ExitCode != 0 && t == nil {
			n.Status = mlaas.ReplicaFailed
			n.Reason = fmt.Sprintf("the supervisor could not be brought into its pod: exit code %d %s", s.ExitCode, plainly(s.Message))
			return
		}
	}
	if t != nil && t.Reason != "ContainerStatusUnknown" {
		code := int(t.ExitCode)
		n.ExitCode = &code
	}
	switch {
	case t != nil && t.Reason == "OOMKilled":
		n.OOM = true
		n.Reason = "out of memory: the node has no more"
		if limit, ok := p.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory]; ok {
			n.Reason = "out of memory: its ceiling is " + limit.String()
		}
	case p.Status.Reason == "Evicted":
		n.Reason = fmt.Sprintf("evicted from %s: %s", p.Spec.NodeName, plainly(p.Status.Message))
	case disrupted != nil:
		n.Reason, n.NodeLost = disruption(p, disrupted), nodeLost(disrupted)
	case t != nil && (t.Reason == "StartError" || t.Reason == "ContainerCannotRun"):
		n.Status, n.ExitCode = mlaas.ReplicaFailed, nil
		n.Reason = "its container could not be started: " + plainly(t.Message)
	case t != nil && t.Reason == "ContainerStatusUnknown":
		n.Reason, n.NodeLost = fmt.Sprintf("%s does not know any more how it ended", p.Spec.NodeName), true // it was restarted
	case t != nil && t.Signal != 0:
		n.Reason = fmt.Sprintf("its supervisor was ended by signal %d", t.Signal)
	case t != nil && t.ExitCode == 0 && p.DeletionTimestamp == nil:
		n.Reason = "its supervisor has delivered everything and ended"
	case p.DeletionTimestamp != nil:
		n.Reason = "its pod was deleted by somebody else"
	case t != nil && t.ExitCode > 128:
		n.Reason = fmt.Sprintf("its supervisor was ended by signal %d", t.ExitCode-128)
	case t != nil:
		n.Reason = fmt.Sprintf("its supervisor ended with exit code %d", t.ExitCode)
	case p.Status.Reason != "" || p.Status.Message != "": // of the kubelet: OutOfcpu, UnexpectedAdmissionError, NodeAffinity
		n.Reason = fmt.Sprintf("%s did not take it: %s", p.Spec.NodeName, plainly(strings.TrimSpace(p.Status.Reason+" "+p.Status.Message)))
	default:
		n.Reason = "its pod ended without a word"
	}
}

// disruption is why the cluster itself ends a pod.
func disruption(p *corev1.Pod, c *corev1.PodCondition) string {
	node := cmp.Or(p.Spec.NodeName, "its node")
	switch c.Reason {
	case "PreemptionByScheduler":
		return "preempted on " + node + ": " + plainly(c.Message)
	case "DeletionByTaintManager":
		return "node " + node + " is lost: it does not answer"
	case "DeletionByPodGC":
		return "node " + node + " is lost: it is not part of the cluster any more"
	case "EvictionByEvictionAPI":
		return "evicted from " + node + ", which is being drained"
	case "TerminationByKubelet":
		return "ended by " + node + ": " + plainly(cmp.Or(p.Status.Message, c.Message))
	}
	return "ended by the cluster: " + plainly(cmp.Or(c.Message, c.Reason))
}

// nodeLost reports whether a pod ends because its node does.
func nodeLost(c *corev1.PodCondition) bool {
	return c.Reason == "DeletionByTaintManager" || c.Reason == "DeletionByPodGC" || c.Reason == "TerminationByKubelet" && strings.Contains(c.Message, "shutdown")
}

func condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == t && (t == corev1.PodScheduled || c.Status == corev1.ConditionTrue) {
			return c
		}
	}
	return nil
}

func container(all []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}

// maxWhy is how much of what a cluster says is kept of a pod.
const maxWhy = 400

// plainly is a message of the cluster on one line, and not too long.
func plainly(s string) string {
	s = strings.TrimSuffix(strings.Join(strings.Fields(s), " "), ".")
	if len(s) > maxWhy {
		s = strings.ToValidUTF8(s[:maxWhy], "") + "..."
	}
	return s
}
