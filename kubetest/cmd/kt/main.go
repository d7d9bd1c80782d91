// Command kt is every program of a Kubernetes cluster in one binary. It is
// the one that its own name says, so it is run through links that are called
// etcd, kube-apiserver and so on: linking them once costs minutes less than
// linking each.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/client"
	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins" // what containerd can do are plugins
	"github.com/containerd/containerd/v2/cmd/containerd/command"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // calls of the API are counted
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// programs are what the binary may be called.
var programs = map[string]func(context.Context) error{
	"etcd":                    func(context.Context) error { etcdmain.Main(os.Args); return nil },
	"kube-apiserver":          func(context.Context) error { return cli.RunNoErrOutput(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func(context.Context) error { return cli.RunNoErrOutput(controllers.NewControllerManagerCommand()) },
	"kube-scheduler":          func(context.Context) error { return cli.RunNoErrOutput(scheduler.NewSchedulerCommand()) },
	"kube-proxy":              func(context.Context) error { return cli.RunNoErrOutput(proxy.NewProxyCommand()) },
	"kubelet":                 func(ctx context.Context) error { return cli.RunNoErrOutput(kubelet.NewKubeletCommand(ctx)) },
	"containerd":              func(ctx context.Context) error { return command.App().Run(ctx, os.Args) },
	"image-import":            imageImport,
}

func main() {
	name := filepath.Base(os.Args[0])
	program, ok := programs[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "%s is none of the programs in this binary: run it as one of %s\n", name, strings.Join(slices.Sorted(maps.Keys(programs)), ", "))
		os.Exit(2)
	}
	if err := program(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// imageImport gives images to the containerd at a socket, where its kubelet
// finds them by name and by digest: image-import SOCKET ARCHIVE... It prints
// both.
func imageImport(ctx context.Context) error {
	if len(os.Args) < 3 {
		return fmt.Errorf("want a socket and the archives of images")
	}
	c, err := client.New(os.Args[1])
	if err != nil {
		return err
	}
	defer c.Close()
	ctx = namespaces.WithNamespace(ctx, "k8s.io") // the one that kubelets look in
	for _, path := range os.Args[2:] {
		if err := importOne(ctx, c, path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func importOne(ctx context.Context, c *client.Client, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	imported, err := c.Import(ctx, f)
	if err != nil {
		return err
	}
	for _, i := range imported {
		image := client.NewImage(c, i)
		if err := image.Unpack(ctx, "overlayfs"); err != nil {
			return err
		}
		named, err := reference.ParseNormalizedNamed(i.Name)
		if err != nil {
			return err
		}
		byDigest := images.Image{Name: named.Name() + "@" + i.Target.Digest.String(), Target: i.Target}
		if _, err := c.ImageService().Create(ctx, byDigest); err != nil && !errdefs.IsAlreadyExists(err) {
			return err
		}
		fmt.Println(i.Name, byDigest.Name)
	}
	return nil
}
