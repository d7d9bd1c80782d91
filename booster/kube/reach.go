package kube

import (
	"context"
	"errors"
	"io"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	"mlaas.dev/mlaas"
)

// Logs returns what the supervisor itself wrote, as the kubelet keeps it: of the
// container, or, where that never began, of what should have brought it.
func (e *Executor) Logs(ctx context.Context, f mlaas.Fence, follow bool) (io.ReadCloser, error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	var err error
	for _, c := range []string{containerName, "supervisor"} {
		var r io.ReadCloser
		r, err = e.api.Pods(e.shape.namespace(f.Tenant)).GetLogs(podName(f), &corev1.PodLogOptions{Container: c, Follow: follow}).Stream(ctx)
		if err == nil {
			return r, nil
		}
		if !apierrors.IsBadRequest(err) { // it has not begun, or there is none
			break
		}
	}
	if apierrors.IsNotFound(err) || apierrors.IsBadRequest(err) {
		return nil, unknown(f)
	}
	return nil, e.fault(err)
}

// Exec runs a command inside a running replica. A container has one user, which
// is the program's.
func (e *Executor) Exec(ctx context.Context, f mlaas.Fence, command []string, in io.Reader, out io.Writer) (int, error) {
	if err := e.begin(); err != nil {
		return 0, err
	}
	if len(command) == 0 {
		return 0, mlaas.Invalid("command", "a command", command)
	}
	namespace := e.shape.namespace(f.Tenant)
	p, err := e.api.Pods(namespace).Get(ctx, podName(f), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return 0, unknown(f)
	}
	if err != nil {
		return 0, e.fault(err)
	}
	if c := container(p.Status.ContainerStatuses, containerName); p.DeletionTimestamp != nil || c == nil || c.State.Running == nil {
		return 0, unknown(f)
	}
	url := e.api.RESTClient().Post().Resource("pods").Namespace(namespace).Name(p.Name).SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: containerName, Command: command, Stdin: in != nil, Stdout: true, Stderr: true,
	}, scheme.ParameterCodec).URL()
	web, err := remotecommand.NewWebSocketExecutor(e.config, "GET", url.String())
	if err != nil {
		return 0, e.fault(err)
	}
	old, err := remotecommand.NewSPDYExecutor(e.config, "POST", url)
	if err != nil {
		return 0, e.fault(err)
	}
	session, err := remotecommand.NewFallbackExecutor(web, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return 0, e.fault(err)
	}
	both := &oneWriter{w: out}
	err = session.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: both, Stderr: both})
	var code exec.CodeExitError
	if errors.As(err, &code) {
		return code.Code, nil
	}
	return 0, e.fault(err)
}

// A oneWriter takes what several write at once.
type oneWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *oneWriter) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(p)
}
