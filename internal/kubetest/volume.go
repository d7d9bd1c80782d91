//go:build linux

package kubetest

import (
	"context"
	"fmt"
	"net/http"
)

// Share lets pods of a namespace mount a folder of this machine, read-only, by
// a claim of that name: such as Python environments that are too heavy for
// images. It returns when the claim is bound to its volume, which has the same
// name.
func (c *Cluster) Share(ctx context.Context, namespace, claim, folder string) error {
	type object = map[string]any
	modes, size := []string{"ReadOnlyMany"}, object{"storage": "1Gi"} // nobody measures it
	volume := object{"metadata": meta{Name: claim}, "spec": object{
		"capacity": size, "accessModes": modes, "storageClassName": "", "persistentVolumeReclaimPolicy": "Retain",
		"hostPath": object{"path": folder, "type": "Directory"}, "claimRef": object{"namespace": namespace, "name": claim},
	}}
	if err := c.Call(ctx, http.MethodPost, "/api/v1/persistentvolumes", volume, nil); err != nil {
		return fmt.Errorf("make the volume %s: %w", claim, err)
	}
	request := object{"metadata": meta{Name: claim}, "spec": object{
		"accessModes": modes, "storageClassName": "", "volumeName": claim, "resources": object{"requests": size},
	}}
	claims := "/api/v1/namespaces/" + namespace + "/persistentvolumeclaims"
	if err := c.Call(ctx, http.MethodPost, claims, request, nil); err != nil {
		return fmt.Errorf("make the claim %s: %w", claim, err)
	}
	return Until(ctx, c, claims+"?fieldSelector=metadata.name="+claim, func(p struct{ Status struct{ Phase string } }) (bool, error) {
		return p.Status.Phase == "Bound", nil
	})
}
