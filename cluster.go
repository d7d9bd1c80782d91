package mlaas

import "time"

// A ClusterSpec is a place to run replicas, as an administrator wants it.
// Management alone writes it; how it is reached is a [ClusterKey] of its own,
// which nobody may read.
type ClusterSpec struct {
	Name    string        `json:"name"`
	Kind    string        `json:"kind"` // kubernetes: booster reaches its API server; remote: a booster inside it calls a gateway
	Wanted  string        `json:"wanted"`
	Door    string        `json:"door"` // URL by which its replicas reach the door: MLAAS_DOOR of each
	Kube    *KubeSettings `json:"kube,omitempty"`
	Created time.Time     `json:"created"`
	Changed time.Time     `json:"changed"`
}

// What is wanted of a cluster.
const (
	ClusterServe = "serve" // runs are placed on it
	ClusterDrain = "drain" // what runs there goes on, nothing new begins
	ClusterGone  = "gone"  // what runs there moves elsewhere, and then it is forgotten
)

// A ClusterKey is how a cluster is reached, sealed. Management alone writes it.
type ClusterKey struct {
	Cluster string    `json:"cluster"`
	Sealed  []byte    `json:"sealed"` // kubernetes: a kubeconfig with everything in it; remote: the digest of its token
	Created time.Time `json:"created"`
}

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

	// Environments is a volume with Python environments by lock hash, as `mlaas
	// env` makes them, instead of images.
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
	Up       bool      `json:"up"`
	Reason   string    `json:"reason"` // why it is down, or what it cannot enforce
	Limits   []string  `json:"limits"` // what is not isolated or enforced here, a sentence each
	Heard    time.Time `json:"heard"`
}
