package kube

import (
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"mlaas.dev/mlaas"
)

// onWire is a pod in a state of its life, as an API server tells it.
func onWire(t testing.TB, p *corev1.Pod) []byte {
	t.Helper()
	raw, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	body, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Raw: raw}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte(protobufMark), body...)
}

// full is a pod with everything that an API server and a kubelet add.
func full(t testing.TB) *corev1.Pod {
	t.Helper()
	s := &shape{cluster: "east", settings: mlaas.KubeSettings{Supervisor: "mlaas:1", Images: map[string]string{"": "python:3"}}, init: true}
	p, err := s.pod(plainSpec("worker-0"))
	if err != nil {
		t.Fatal(err)
	}
	now := metav1.NewTime(time.Unix(1e9, 0))
	p.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"} // as the last of a watch that begins with all there is
	p.UID, p.ResourceVersion, p.CreationTimestamp, p.DeletionTimestamp = "u", "77", now, &now
	p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "mlaas", Operation: "Update", FieldsV1: metav1.NewFieldsV1(strings.Repeat(" ", 900))}}
	p.Spec.NodeName = "node-1"
	p.Spec.Affinity = elsewhere([]string{"node-2"})
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, Reason: "Evicted", Message: "why", PodIP: "10.0.0.1",
		Conditions:            []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: now}},
		ContainerStatuses:     []corev1.ContainerStatus{{Name: containerName, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}},
		InitContainerStatuses: []corev1.ContainerStatus{{Name: "supervisor"}}}
	return p
}

func decoder() runtime.Decoder {
	codecs := slimming{rest.CodecFactoryForGeneratedClient(scheme.Scheme, scheme.Codecs).WithoutConversion()}
	info, _ := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	return codecs.DecoderToVersion(info.Serializer, corev1.SchemeGroupVersion)
}

// A slim pod is the pod without what is not used, and says the same news.
func TestSlim(t *testing.T) {
	want := full(t)
	got, _, err := decoder().Decode(onWire(t, want), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	fence, ok := fenceOf(want.Labels)
	if !ok {
		t.Fatal("the pod has no fence")
	}
	if news := look(fence, want); !reflect.DeepEqual(look(fence, got.(*corev1.Pod)), news) {
		t.Errorf("news are %+v, want %+v", look(fence, got.(*corev1.Pod)), news)
	}
	containers := func(all []corev1.Container) (out []corev1.Container) {
		for _, c := range all {
			out = append(out, corev1.Container{Image: c.Image, Resources: corev1.ResourceRequirements{Limits: c.Resources.Limits}})
		}
		return out
	}
	m, spec, status := want.ObjectMeta, want.Spec, want.Status
	for i := range status.Conditions {
		status.Conditions[i].LastTransitionTime = metav1.Time{}
	}
	status.PodIP = ""
	want = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, ResourceVersion: m.ResourceVersion, DeletionTimestamp: m.DeletionTimestamp, Labels: m.Labels, Annotations: m.Annotations},
		Spec:       corev1.PodSpec{NodeName: spec.NodeName, Affinity: spec.Affinity, Containers: containers(spec.Containers), InitContainers: containers(spec.InitContainers)},
		Status:     status,
	}
	want.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"} // as a decoder has it
	got.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "Pod"})
	a, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	b, err := got.(*corev1.Pod).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Errorf("a slim pod is\n%+v\nwant\n%+v", got, want)
	}
}

// What is no pod, or broken, is left as it is.
func TestSlimElse(t *testing.T) {
	whole := onWire(t, full(t))
	for name, data := range map[string][]byte{"nothing": nil, "JSON": []byte(`{"kind":"Pod"}`), "half a pod": whole[:len(whole)/2], "a mark": []byte(protobufMark)} {
		if got := slim(data); string(got) != string(data) {
			t.Errorf("%s became %q", name, got)
		}
	}
	for n := range whole { // whatever is cut off
		if out, ok := usedOfPod.append(nil, whole[n:]); ok && len(out) > len(whole)-n {
			t.Fatal("it has grown")
		}
	}
	m, err := metadataOf(whole)
	if err != nil || m.ResourceVersion != "77" {
		t.Errorf("the metadata of a whole pod: %+v, %v", m, err)
	}
	if m, err = metadataOf([]byte(`{"metadata":{"resourceVersion":"78"}}`)); err != nil || m.ResourceVersion != "78" {
		t.Errorf("the metadata in JSON: %+v, %v", m, err)
	}
}

func BenchmarkDecode(b *testing.B) {
	data, d := onWire(b, full(b)), decoder()
	b.Run("slim", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := d.Decode(data, nil, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := d.(slimDecoder).Decoder.Decode(data, nil, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
