package mlaas

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A ClusterSpec is a place to run replicas, as an administrator wants it.
// Management alone writes it, and the booster that has emptied a cluster which
// is to go removes it; how it is reached is a [ClusterKey] of its own, which
// nobody may read.
type ClusterSpec struct {
	Name     string        `json:"name"`
	Kind     string        `json:"kind"` // kubernetes: booster reaches its API server; remote: a booster inside it calls a gateway; local: this machine, which has a spec only once it was drained
	Wanted   string        `json:"wanted"`
	Door     string        `json:"door,omitempty"`   // URL by which its replicas reach the door: MLAAS_DOOR of each; a remote one has its own
	Server   string        `json:"server,omitempty"` // URL of its API server, for people
	Kube     *KubeSettings `json:"kube,omitempty"`
	Declared bool          `json:"declared,omitempty"` // a file of clusters has it, and it is changed there
	Created  time.Time     `json:"created"`
	Changed  time.Time     `json:"changed"` // when how it is reached, or what it lends, was changed last: who serves it connects anew
}

// The kinds of clusters.
const (
	ClusterKubernetes = "kubernetes"
	ClusterRemote     = "remote"
	ClusterLocal      = "local"
)

// What is wanted of a cluster.
const (
	ClusterServe = "serve" // runs are placed on it
	ClusterDrain = "drain" // what runs there goes on, nothing new begins
	ClusterGone  = "gone"  // what runs there moves elsewhere, and then it is forgotten
)

// A ClusterKey is how a cluster is reached, sealed. Management alone writes it,
// and who removes the spec removes it too.
type ClusterKey struct {
	Cluster string    `json:"cluster"`
	Sealed  []byte    `json:"sealed"` // kubernetes: a kubeconfig with everything in it; remote: the digest of its token
	Created time.Time `json:"created"`
}

// About is what the key is sealed for: it opens no other cluster.
func (k ClusterKey) About() string { return "cluster/" + k.Cluster }

// KubeSettings are what a Kubernetes cluster lends to replicas, and how. The
// zero value works where nodes can pull images and have no GPU.
type KubeSettings struct {
	// Namespace is where replicas are: those of the team "default" in it, those
	// of another in NAMESPACE-TEAM. Empty: "mlaas".
	Namespace string `json:"namespace,omitempty"`

	// Supervisor is the image that has the mlaas binary at /mlaas.
	Supervisor string `json:"supervisor"`

	// Images are what a job without an image of its own runs in, by the name of
	// its framework: each by digest where the registry is not one's own.
	Images map[string]string `json:"images,omitempty"`

	// Environments is a volume with Python environments by lock hash, instead of
	// images: `mlaas env fill` made them there, at the same path.
	Environments *KubeVolume `json:"environments,omitempty"`

	// Volumes are seen by every replica: data that is there already.
	Volumes []KubeVolume `json:"volumes,omitempty"`

	// GPU says, for each kind of GPU that jobs name, what of a node it is. ""
	// is for jobs that name none.
	GPU map[string]KubeGPU `json:"gpu,omitempty"`

	NodeSelector     map[string]string `json:"nodeSelector,omitempty"`
	Tolerations      []KubeToleration  `json:"tolerations,omitempty"`
	ImagePullSecrets []string          `json:"imagePullSecrets,omitempty"`
	PriorityClass    string            `json:"priorityClass,omitempty"`

	// Quota is what the replicas of one team may hold at most, as a
	// ResourceQuota of its namespace; 0: no limit.
	Quota Resources `json:"quota,omitzero"`

	// Copy says how the supervisor comes to the pod: "image" by an image volume,
	// "init" by an init container; empty: whichever the cluster has.
	Copy string `json:"copy,omitempty"`
}

// A KubeVolume is a claim that is there in the namespace, seen at Path.
type KubeVolume struct {
	Claim    string `json:"claim"`
	Path     string `json:"path"`
	SubPath  string `json:"subPath,omitempty"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// A KubeGPU is how a GPU is asked for.
type KubeGPU struct {
	Resource     string            `json:"resource"` // "nvidia.com/gpu"
	RuntimeClass string            `json:"runtimeClass,omitempty"`
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	Tolerations  []KubeToleration  `json:"tolerations,omitempty"`
}

// A KubeToleration is a taint that replicas put up with.
type KubeToleration struct {
	Key      string `json:"key,omitempty"`
	Operator string `json:"operator,omitempty"` // Exists | Equal
	Value    string `json:"value,omitempty"`
	Effect   string `json:"effect,omitempty"`
}

// A Cluster is how a place to run replicas does. Booster alone writes it.
type Cluster struct {
	Name     string    `json:"name"` // "local" is this machine
	Kind     string    `json:"kind"`
	Node     string    `json:"node,omitempty"`
	Capacity Resources `json:"capacity"`
	GPUs     []GPU     `json:"gpus,omitempty"` // of each kind, where there are several: capacity has the one of which there is most
	Up       bool      `json:"up"`
	Reason   string    `json:"reason"` // why it is down, or what it cannot enforce
	Limits   []string  `json:"limits"` // what is not isolated or enforced here, a sentence each
	Heard    time.Time `json:"heard"`
	Of       time.Time `json:"of,omitzero"` // what it says is of the spec as it was changed then

	// Left is what is there still of one that is to go: replicas that end or
	// move, and pods that the cluster has not let go of; a sentence each.
	Left []string `json:"left,omitempty"`
}

// Check reports what of the spec is wrong: a [FieldError] each.
func (c ClusterSpec) Check() error {
	if err := CheckName("name", c.Name); err != nil {
		return err
	}
	if !slices.Contains([]string{ClusterServe, ClusterDrain, ClusterGone}, c.Wanted) {
		return Invalid("wanted", `"serve", "drain" or "gone"`, c.Wanted)
	}
	switch c.Kind {
	case ClusterKubernetes:
		if err := checkDoor(c.Door); err != nil {
			return err
		}
		if c.Kube == nil {
			return Invalid("kube.supervisor", "the image that has the mlaas binary at /mlaas", "")
		}
	case ClusterRemote:
		if c.Door != "" {
			return Invalid("door", "nothing: the booster inside a remote cluster is the door there", c.Door)
		}
	case ClusterLocal:
		if c.Door != "" || c.Kube != nil {
			return Invalid("door", "nothing: replicas of this machine need no address", c.Door)
		}
	default:
		return Invalid("kind", `"kubernetes" or "remote"`, c.Kind)
	}
	if c.Kube == nil {
		return nil
	}
	return c.Kube.Check()
}

func checkDoor(door string) error {
	u, err := url.Parse(door)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return Invalid("door", "the URL by which replicas in the cluster reach the booster, such as https://booster.example.org/cluster/NAME", door)
	}
	return nil
}

// KubeHome is the folder of a replica's container that is ours.
const KubeHome = "/var/lib/mlaas"

// What Kubernetes takes for the names of things, and registries for those of
// images: HOST[:PORT]/PATH[:TAG][@DIGEST].
var (
	kubeLabel    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	kubeName     = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)
	kubeResource = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]*[a-z0-9])?/[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?$`)
	kubeKey      = regexp.MustCompile(`^([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?$`)
	kubeValue    = regexp.MustCompile(`^([A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?$`)
	imageRule    = regexp.MustCompile(`^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$`)
)

// Check reports what of the settings no cluster would take: a [FieldError] that
// begins with "kube.". Whether a claim or a class is there, the cluster says
// when a replica needs it.
func (k KubeSettings) Check() error {
	if k.Namespace != "" && !kubeLabel.MatchString(k.Namespace) {
		return Invalid("kube.namespace", "a name of Kubernetes: 1 to 63 of a-z, 0-9 and '-'", k.Namespace)
	}
	if err := CheckImage("kube.supervisor", k.Supervisor); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(k.Images)) {
		if err := CheckImage("kube.images."+cmp.Or(name, `""`), k.Images[name]); err != nil {
			return err
		}
	}
	paths := map[string]bool{}
	if k.Environments != nil {
		if err := k.Environments.check("kube.environments", paths); err != nil {
			return err
		}
	}
	for i, v := range k.Volumes {
		if err := v.check(fmt.Sprintf("kube.volumes[%d]", i), paths); err != nil {
			return err
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(k.GPU)) {
		g, at := k.GPU[kind], "kube.gpu."+cmp.Or(kind, `""`)
		if !kubeResource.MatchString(g.Resource) {
			return Invalid(at+".resource", `the name of a resource of nodes, such as "nvidia.com/gpu"`, g.Resource)
		}
		if g.RuntimeClass != "" && !kubeName.MatchString(g.RuntimeClass) {
			return Invalid(at+".runtimeClass", "a name of Kubernetes", g.RuntimeClass)
		}
		if err := checkNodes(at, g.NodeSelector, g.Tolerations); err != nil {
			return err
		}
	}
	for i, name := range k.ImagePullSecrets {
		if !kubeName.MatchString(name) {
			return Invalid(fmt.Sprintf("kube.imagePullSecrets[%d]", i), "the name of a secret in the namespace", name)
		}
	}
	if k.PriorityClass != "" && !kubeName.MatchString(k.PriorityClass) {
		return Invalid("kube.priorityClass", "a name of Kubernetes", k.PriorityClass)
	}
	if k.Quota.CPU < 0 || k.Quota.Memory < 0 || k.Quota.GPU.Count < 0 {
		return Invalid("kube.quota", "amounts of at least 0", k.Quota)
	}
	if !slices.Contains([]string{"", "image", "init"}, k.Copy) {
		return Invalid("kube.copy", `"image", "init" or nothing`, k.Copy)
	}
	return checkNodes("kube", k.NodeSelector, k.Tolerations)
}

// CheckImage reports whether a field names an image as registries do.
func CheckImage(field, image string) error {
	if len(image) > 512 || !imageRule.MatchString(image) {
		return Invalid(field, "the name of an image, HOST/PATH:TAG or HOST/PATH@sha256:DIGEST", image)
	}
	return nil
}

// check notes where the volume is seen: there is one for each path.
func (v KubeVolume) check(field string, paths map[string]bool) error {
	if !kubeName.MatchString(v.Claim) {
		return Invalid(field+".claim", "the name of a PersistentVolumeClaim in the namespace", v.Claim)
	}
	if !path.IsAbs(v.Path) || path.Clean(v.Path) != v.Path || v.Path == "/" {
		return Invalid(field+".path", "a clean absolute path, such as /data", v.Path)
	}
	if v.Path == KubeHome || strings.HasPrefix(v.Path, KubeHome+"/") || paths[v.Path] {
		return Invalid(field+".path", "a path that is not within "+KubeHome+", and another one for each volume", v.Path)
	}
	paths[v.Path] = true
	if v.SubPath != "" && (path.IsAbs(v.SubPath) || slices.Contains(strings.Split(v.SubPath, "/"), "..")) {
		return Invalid(field+".subPath", "a path within the volume", v.SubPath)
	}
	return nil
}

// checkNodes looks at what says on which nodes replicas may be.
func checkNodes(field string, selector map[string]string, tolerations []KubeToleration) error {
	for _, key := range slices.Sorted(maps.Keys(selector)) {
		if !kubeKey.MatchString(key) || !kubeValue.MatchString(selector[key]) {
			return Invalid(field+".nodeSelector", "labels of nodes", key+"="+selector[key])
		}
	}
	for i, t := range tolerations {
		at := fmt.Sprintf("%s.tolerations[%d]", field, i)
		if !slices.Contains([]string{"", "Exists", "Equal"}, t.Operator) {
			return Invalid(at+".operator", `"Exists" or "Equal"`, t.Operator)
		}
		if t.Operator == "Exists" && t.Value != "" {
			return Invalid(at+".value", "nothing beside the operator Exists", t.Value)
		}
		if !slices.Contains([]string{"", "NoSchedule", "PreferNoSchedule", "NoExecute"}, t.Effect) {
			return Invalid(at+".effect", `"NoSchedule", "PreferNoSchedule" or "NoExecute"`, t.Effect)
		}
		if t.Operator != "Exists" && t.Key == "" {
			return Invalid(at+".key", "the key of a taint; the operator Exists alone goes without", t.Key)
		}
	}
	return nil
}
