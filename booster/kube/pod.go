package kube

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/supervisor"
)

// The labels of what is ours. Together they are the fence of a replica.
const (
	labelCluster     = "mlaas.dev/cluster" // its name on the platform: several may share a Kubernetes cluster
	labelTenant      = "mlaas.dev/tenant"
	labelJob         = "mlaas.dev/job"
	labelRun         = "mlaas.dev/run"
	labelEpoch       = "mlaas.dev/epoch"
	labelRole        = "mlaas.dev/role"
	labelIndex       = "mlaas.dev/index"
	labelIncarnation = "mlaas.dev/incarnation"
	labelManaged     = "app.kubernetes.io/managed-by"

	manager = "mlaas"
)

const (
	containerName = "replica"
	home          = mlaas.KubeHome
	binaryDir     = home + "/bin"
	folder        = home + "/replica"

	// nobody is the user of every replica: not root, and of no image.
	nobody = 1000

	// endSeconds is what a replica has when its pod is evicted or drained; more
	// than the supervisor gives its program.
	endSeconds = 30
)

// A shape is what makes the pods of a cluster alike.
type shape struct {
	cluster  string
	settings mlaas.KubeSettings
	init     bool // the supervisor comes by an init container, not by an image volume
	doorCA   []byte
	silence  int64 // seconds that a node may not answer
}

// DefaultNamespace is where replicas are if the settings do not say.
const DefaultNamespace = "mlaas"

// namespace is where the replicas of a team are.
func (s *shape) namespace(t mlaas.Tenant) string {
	base := cmp.Or(s.settings.Namespace, DefaultNamespace)
	if t == "" || t == mlaas.DefaultTenant {
		return base
	}
	return base + "-" + string(t)
}

// labels are those of a replica, or of all of an attempt where role is empty.
func (s *shape) labels(f mlaas.Fence) map[string]string {
	return map[string]string{
		labelManaged: manager, labelCluster: s.cluster, labelTenant: string(f.Tenant),
		labelRun: string(f.Run), labelEpoch: strconv.Itoa(f.Epoch),
	}
}

// ours selects everything of this cluster's.
func (s *shape) ours() string {
	return labelManaged + "=" + manager + "," + labelCluster + "=" + s.cluster
}

// fenceOf reads labels back; ok is false where they are not a replica's.
func fenceOf(l map[string]string) (f mlaas.Fence, ok bool) {
	epoch, err := strconv.Atoi(l[labelEpoch])
	incarnation, err2 := strconv.Atoi(l[labelIncarnation])
	index, err3 := strconv.Atoi(l[labelIndex])
	if err != nil || err2 != nil || err3 != nil || l[labelRun] == "" || l[labelRole] == "" {
		return f, false
	}
	return mlaas.Fence{
		Tenant: mlaas.Tenant(l[labelTenant]), Run: mlaas.RunID(l[labelRun]), Epoch: epoch,
		Replica: mlaas.ReplicaName(l[labelRole], index), Incarnation: incarnation,
	}, true
}

// podName is the same for a second Start, so that there is one pod. It is also
// the host's name in the pod.
func podName(f mlaas.Fence) string { return f.String() }

// secretName and secretKey say where the token of a replica is: one Secret holds
// those of an attempt, or of a thousand of each role where there are more.
func secretName(f mlaas.Fence) string {
	name := fmt.Sprintf("%s-%d", f.Run, f.Epoch)
	if _, index, err := mlaas.SplitReplica(f.Replica); err == nil && index >= 1000 {
		name += "-" + strconv.Itoa(index/1000)
	}
	return name
}

func secretKey(f mlaas.Fence) string { return fmt.Sprintf("%s-%d", f.Replica, f.Incarnation) }

// image is what a replica runs in.
func (s *shape) image(env mlaas.Environment) (string, error) {
	framework := cmp.Or(env.Framework, "python")
	image := cmp.Or(env.Image, s.settings.Images[framework], s.settings.Images[""])
	switch {
	case image == "":
		have := slices.Sorted(maps.Keys(s.settings.Images))
		if len(have) == 0 {
			return "", mlaas.Invalid("environment.image", "an image: cluster "+s.cluster+" has none for "+framework, "")
		}
		return "", mlaas.Invalid("environment.framework", "one that cluster "+s.cluster+" has an image for ("+strings.Join(have, ", ")+"), or environment.image", framework)
	case len(env.Packages) > 0 && s.settings.Environments == nil:
		return "", mlaas.Invalid("environment.packages", "none: cluster "+s.cluster+" installs nothing, what a program needs must be in its image", env.Packages)
	}
	return image, mlaas.CheckImage("environment.image", image)
}

// gpu is how GPUs of a kind are asked for.
func (s *shape) gpu(kind string) (mlaas.KubeGPU, error) {
	for name, g := range s.gpus() {
		if strings.EqualFold(name, kind) {
			return g, nil
		}
	}
	var have []string
	for name := range s.gpus() {
		if name != "" {
			have = append(have, name)
		}
	}
	slices.Sort(have)
	if len(have) == 0 {
		return mlaas.KubeGPU{}, mlaas.Invalid("gpu.kind", "none: the settings of cluster "+s.cluster+" name no kinds of GPU", kind)
	}
	return mlaas.KubeGPU{}, mlaas.Invalid("gpu.kind", "one that cluster "+s.cluster+" has: "+strings.Join(have, ", "), kind)
}

// gpus are the kinds that the settings name; there is always one without.
func (s *shape) gpus() map[string]mlaas.KubeGPU {
	all := map[string]mlaas.KubeGPU{"": {Resource: "nvidia.com/gpu"}}
	maps.Copy(all, s.settings.GPU)
	return all
}

// pod is a replica. The same spec gives the same pod.
func (s *shape) pod(r booster.Spec) (*corev1.Pod, error) {
	f := r.Fence
	role, index, err := mlaas.SplitReplica(f.Replica)
	if err != nil {
		return nil, err
	}
	if wrong := validation.IsDNS1123Label(podName(f)); len(wrong) > 0 {
		return nil, mlaas.Invalid("fence", "what may be the name of a host: "+wrong[0], f.String())
	}
	image, err := s.image(r.Environment)
	if err != nil {
		return nil, err
	}
	config := supervisor.Config{
		Fence: f, Job: r.Job, Folder: folder, EnvDir: folder + "/env", DataDir: folder + "/cache",
		Image: r.Environment.Image != "" || s.settings.Environments == nil, Fleeting: true,
		DoorCA: s.doorCA, Ceiling: r.Ceiling,
	}
	if e := s.settings.Environments; e != nil && !config.Image {
		config.Shared = e.Path
	}
	told, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	held, err := s.resources(r)
	if err != nil {
		return nil, err
	}
	var gpu mlaas.KubeGPU
	if n := r.Need.GPU; n.Count > 0 {
		if gpu, err = s.gpu(n.Kind); err != nil {
			return nil, err
		}
	}
	volumes, mounts := s.volumes()
	env := []corev1.EnvVar{
		{Name: supervisor.ConfigVariable, Value: string(told)},
		{Name: supervisor.DoorVariable, Value: r.Door},
		{Name: supervisor.TokenVariable, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: secretName(f)}, Key: secretKey(f)}}},
		{Name: supervisor.AddressVariable, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: supervisor.NodeVariable, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
	}
	if gpu.Resource == "" { // images of NVIDIA ask for all there are
		env = append(env, corev1.EnvVar{Name: "NVIDIA_VISIBLE_DEVICES", Value: "void"})
	}
	labels := s.labels(f)
	maps.Copy(labels, map[string]string{
		"app.kubernetes.io/name": "mlaas-replica", "app.kubernetes.io/component": role,
		labelJob: string(r.Job), labelRole: role, labelIndex: strconv.Itoa(index), labelIncarnation: strconv.Itoa(f.Incarnation),
	})
	confined := &corev1.SecurityContext{
		AllowPrivilegeEscalation: ref(false),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace(f.Tenant), Name: podName(f), Labels: labels},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: ref[int64](endSeconds),
			AutomountServiceAccountToken:  ref(false),
			EnableServiceLinks:            ref(false),
			ShareProcessNamespace:         ref(true), // what a program leaves behind is reaped by the pod's first process
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot: ref(true), RunAsUser: ref[int64](nobody), RunAsGroup: ref[int64](nobody),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			NodeSelector:      merge(s.settings.NodeSelector, gpu.NodeSelector),
			Tolerations:       s.tolerations(s.settings.Tolerations, gpu.Tolerations),
			Affinity:          elsewhere(r.Exclude),
			PriorityClassName: s.settings.PriorityClass,
			Volumes:           volumes,
			Containers: []corev1.Container{{
				Name: containerName, Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
				Command: []string{binaryDir + "/mlaas", "supervise", "--container"}, WorkingDir: home,
				Env: env, Resources: held, VolumeMounts: mounts, SecurityContext: confined,
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
			}},
		},
	}
	if gpu.RuntimeClass != "" {
		p.Spec.RuntimeClassName = ref(gpu.RuntimeClass)
	}
	for _, name := range s.settings.ImagePullSecrets {
		p.Spec.ImagePullSecrets = append(p.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
	}
	if s.init {
		p.Spec.InitContainers = []corev1.Container{{
			Name: "supervisor", Image: s.settings.Supervisor, ImagePullPolicy: corev1.PullIfNotPresent,
			Command:         []string{"/mlaas", "install", binaryDir + "/mlaas"},
			Resources:       corev1.ResourceRequirements{Requests: plain(held.Requests), Limits: plain(held.Limits)},
			VolumeMounts:    []corev1.VolumeMount{{Name: "bin", MountPath: binaryDir}},
			SecurityContext: confined.DeepCopy(),
		}}
	}
	return p, nil
}

// resources are what a replica is placed by and what it may not exceed.
func (s *shape) resources(r booster.Spec) (out corev1.ResourceRequirements, err error) {
	out.Requests, out.Limits = corev1.ResourceList{}, corev1.ResourceList{}
	for list, of := range map[*corev1.ResourceList]mlaas.Resources{&out.Requests: r.Need, &out.Limits: r.Ceiling} {
		if of.CPU > 0 {
			(*list)[corev1.ResourceCPU] = *resource.NewMilliQuantity(int64(of.CPU), resource.DecimalSI)
		}
		if of.Memory > 0 {
			(*list)[corev1.ResourceMemory] = *resource.NewQuantity(int64(of.Memory), resource.BinarySI)
		}
	}
	if r.Disk > 0 {
		out.Requests[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(r.Disk), resource.BinarySI)
		out.Limits[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(r.Disk), resource.BinarySI)
	}
	if n := r.Need.GPU; n.Count > 0 {
		gpu, err := s.gpu(n.Kind)
		if err != nil {
			return out, err
		}
		out.Limits[corev1.ResourceName(gpu.Resource)] = *resource.NewQuantity(int64(n.Count), resource.DecimalSI)
		out.Requests[corev1.ResourceName(gpu.Resource)] = *resource.NewQuantity(int64(n.Count), resource.DecimalSI)
	}
	if len(out.Limits) == 0 {
		out.Limits = nil
	}
	return out, nil
}

// plain is CPU and memory alone: an init container holds as much as the program
// will, and so adds nothing to what the pod needs.
func plain(all corev1.ResourceList) (out corev1.ResourceList) {
	for name, q := range all {
		if name == corev1.ResourceCPU || name == corev1.ResourceMemory {
			if out == nil {
				out = corev1.ResourceList{}
			}
			out[name] = q
		}
	}
	return out
}

// volumes are what every replica sees.
func (s *shape) volumes() (volumes []corev1.Volume, mounts []corev1.VolumeMount) {
	add := func(name string, from corev1.VolumeSource, m corev1.VolumeMount) {
		m.Name = name
		if !slices.ContainsFunc(volumes, func(v corev1.Volume) bool { return v.Name == name }) {
			volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: from})
		}
		mounts = append(mounts, m)
	}
	empty := func(medium corev1.StorageMedium) corev1.VolumeSource {
		return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium}}
	}
	binary := empty("")
	if !s.init {
		binary = corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: s.settings.Supervisor, PullPolicy: corev1.PullIfNotPresent}}
	}
	add("bin", binary, corev1.VolumeMount{MountPath: binaryDir, ReadOnly: true})
	add("replica", empty(""), corev1.VolumeMount{MountPath: folder})
	add("shm", empty(corev1.StorageMediumMemory), corev1.VolumeMount{MountPath: "/dev/shm"}) // 64 MiB of the runtime are too few to load data with
	claims := map[string]string{}
	claim := func(v mlaas.KubeVolume, readOnly bool) {
		name, ok := claims[v.Claim]
		if !ok {
			name = "volume-" + strconv.Itoa(len(claims))
			claims[v.Claim] = name
		}
		add(name, corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: v.Claim}},
			corev1.VolumeMount{MountPath: v.Path, SubPath: v.SubPath, ReadOnly: readOnly})
	}
	if e := s.settings.Environments; e != nil {
		claim(*e, true)
	}
	for _, v := range s.settings.Volumes {
		claim(v, v.ReadOnly)
	}
	return volumes, mounts
}

// tolerations are those of the cluster and of the GPU, and how long a silent
// node is waited for.
func (s *shape) tolerations(lists ...[]mlaas.KubeToleration) (out []corev1.Toleration) {
	for _, list := range lists {
		for _, t := range list {
			out = append(out, corev1.Toleration{Key: t.Key, Operator: corev1.TolerationOperator(t.Operator), Value: t.Value, Effect: corev1.TaintEffect(t.Effect)})
		}
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		out = append(out, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ref(s.silence)})
	}
	return out
}

// elsewhere keeps a replica from nodes by their names.
func elsewhere(nodes []string) *corev1.Affinity {
	if len(nodes) == 0 {
		return nil
	}
	var not []corev1.NodeSelectorRequirement
	for _, name := range nodes { // one for each: the API takes no list here
		not = append(not, corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpNotIn, Values: []string{name}})
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: not}},
	}}}
}

// excluded is the reverse of elsewhere.
func excluded(p *corev1.Pod) (nodes []string) {
	if p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil || p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	for _, term := range p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, r := range term.MatchFields {
			nodes = append(nodes, r.Values...)
		}
	}
	return nodes
}

func merge(all ...map[string]string) (out map[string]string) {
	for _, m := range all {
		for k, v := range m {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

func ref[T any](v T) *T { return &v }
