package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A thing is an object of Kubernetes, as far as the tests look at it.
type thing struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	Spec     struct {
		Replicas int
		Template struct {
			Spec struct {
				ServiceAccountName           string
				AutomountServiceAccountToken *bool
				SecurityContext              struct{ RunAsNonRoot bool }
				Containers                   []struct {
					Image           string
					Args            []string
					SecurityContext struct {
						AllowPrivilegeEscalation *bool
						ReadOnlyRootFilesystem   bool
					}
					VolumeMounts []struct{ Name, MountPath string }
				}
				Volumes []struct{ Name string }
			}
		}
	}
	Rules []struct{ Resources, Verbs []string }
}

// rendered is what the chart makes with values.
func rendered(t *testing.T, values string) (map[string]thing, error) {
	t.Helper()
	all, err := render("ml", "platform", []byte(values))
	if err != nil {
		return nil, err
	}
	out := map[string]thing{}
	for _, object := range all {
		text, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		var x thing
		if err := json.Unmarshal(text, &x); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		at := x.Kind + " " + x.Metadata.Name
		if x.Metadata.Namespace != "" {
			at += " in " + x.Metadata.Namespace
		}
		if _, twice := out[at]; twice || x.Kind == "" || x.Metadata.Name == "" {
			t.Errorf("%q is there twice, or without a name", at)
		}
		out[at] = x
	}
	return out, nil
}

const whole = "image: registry.example.org/mlaas:1\nsecret: ml\n"

func TestWhole(t *testing.T) {
	all, err := rendered(t, whole+"tlsSecret: tls\ncaSecret: ca\nmanagement: {hosts: [mlaas.example.org], clustersSecret: clusters}\nbooster: {clusters: [lab, dc2], allowExec: true}\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"management", "contractor", "booster"} {
		for _, kind := range []string{"Deployment", "Service", "PodDisruptionBudget"} {
			if _, ok := all[kind+" ml-"+part]; !ok {
				t.Errorf("there is no %s of %s", kind, part)
			}
		}
		d := all["Deployment ml-"+part]
		pod := d.Spec.Template.Spec
		if d.Spec.Replicas != 2 || len(pod.Containers) != 1 || !pod.SecurityContext.RunAsNonRoot || pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
			t.Errorf("%s is %+v", part, d)
			continue
		}
		c := pod.Containers[0]
		if c.SecurityContext.AllowPrivilegeEscalation == nil || *c.SecurityContext.AllowPrivilegeEscalation || !c.SecurityContext.ReadOnlyRootFilesystem {
			t.Errorf("%s may do too much: %+v", part, c.SecurityContext)
		}
		if !slices.ContainsFunc(c.VolumeMounts, func(m struct{ Name, MountPath string }) bool { return m.MountPath == "/tmp" }) {
			t.Errorf("%s has no place for files that pass", part)
		}
		for _, m := range c.VolumeMounts {
			if !slices.ContainsFunc(pod.Volumes, func(v struct{ Name string }) bool { return v.Name == m.Name }) {
				t.Errorf("%s mounts %s, which is no volume", part, m.Name)
			}
		}
	}
	wants(t, all, "management", "management", "--host=mlaas.example.org", "--clusters=/clusters/clusters.yaml", "--allow-exec", "--tls-cert=/tls/tls.crt", "--tls-ca=/ca/ca.crt", "--advertise=https://$(POD_IP):7480")
	wants(t, all, "contractor", "contractor", "--listen=:7481", "--dir=/data")
	wants(t, all, "booster", "booster", "--cluster=lab,dc2", "--allow-exec", "--door-ca=/ca/ca.crt")
	if slices.Contains(args(all, "booster"), "--plain") {
		t.Error("with a certificate it serves in plain text")
	}
	if _, ok := all["Deployment ml-agent"]; ok {
		t.Error("there is an agent that nobody asked for")
	}
}

func args(all map[string]thing, part string) []string {
	return all["Deployment ml-"+part].Spec.Template.Spec.Containers[0].Args
}

func wants(t *testing.T, all map[string]thing, part string, want ...string) {
	t.Helper()
	has := args(all, part)
	for i, w := range want {
		if i == 0 && has[0] != w || !slices.Contains(has, w) {
			t.Errorf("%s is called with %q, without %s", part, has, w)
		}
	}
}

// An agent alone needs neither store nor key, and sees secrets only where its
// replicas are.
func TestAgent(t *testing.T) {
	const agent = "image: registry.example.org/mlaas:1\nmanagement: {enabled: false}\ncontractor: {enabled: false}\nbooster: {enabled: false}\n" +
		"agent: {enabled: true, cluster: far, gateways: [\"https://a\", \"https://b\"], tokenSecret: far%s}\n"
	all, err := rendered(t, fmt.Sprintf(agent, ""))
	if err != nil {
		t.Fatal(err)
	}
	wants(t, all, "agent", "booster", "--on=kubernetes", "--cluster=far", "--gateway=https://a", "--gateway=https://b", "--cluster-token-file=/cluster-token/token", "--door=http://ml-agent.platform.svc:7482", "--plain")
	d := all["Deployment ml-agent"]
	if d.Spec.Replicas != 1 || d.Spec.Template.Spec.ServiceAccountName != "ml-agent" {
		t.Errorf("it is %+v", d)
	}
	if _, ok := all["ServiceAccount ml-agent"]; !ok {
		t.Error("its service account is not there")
	}
	may := func(role, resource string) bool {
		return slices.ContainsFunc(all[role].Rules, func(r struct{ Resources, Verbs []string }) bool { return slices.Contains(r.Resources, resource) })
	}
	if !may("ClusterRole platform-ml-agent", "pods") || !may("ClusterRole platform-ml-agent", "namespaces") {
		t.Errorf("everywhere it may %+v", all["ClusterRole platform-ml-agent"].Rules)
	}
	if all, err = rendered(t, fmt.Sprintf(agent, ", namespaces: [mlaas]")); err != nil {
		t.Fatal(err)
	}
	if may("ClusterRole platform-ml-agent", "secrets") || !may("ClusterRole platform-ml-agent", "nodes") || !may("Role ml-agent in mlaas", "secrets") {
		t.Errorf("with namespaces it may %+v everywhere, and %+v in one", all["ClusterRole platform-ml-agent"].Rules, all["Role ml-agent in mlaas"].Rules)
	}
}

// What is missing is said.
func TestMissing(t *testing.T) {
	for values, says := range map[string]string{
		"":                               "image is empty",
		"image: m":                       "secret is empty",
		whole + "agent: {enabled: true}": "agent.cluster is empty",
		whole + "agent: {enabled: true, cluster: far}":                            "agent.gateways is empty",
		whole + "agent: {enabled: true, cluster: far, gateways: [\"https://a\"]}": "agent.tokenSecret is empty",
	} {
		if _, err := rendered(t, values); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("with %q it says %v, want %s", values, err, says)
		}
	}
}
