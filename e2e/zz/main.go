// Command zz.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"mlaas.dev/mlaas/internal/kubetest"
)

func main() {
	ctx := context.Background()
	c, err := kubetest.Open(ctx, kubetest.Opts{Nodes: kubetest.Real(2), FastEviction: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	os.WriteFile("/tmp/zz.kubeconfig", c.Kubeconfig(), 0o600)
	exec.Command("python3", "/tmp/pod.py", "pod").Run()
	time.Sleep(5 * time.Second)
	fmt.Println("kill", time.Now())
	c.KillNode(ctx, 0)
	time.Sleep(12 * time.Second)
	fmt.Println("start", time.Now())
	fmt.Println(c.RestartNode(ctx, 0))
	fmt.Println("ready", time.Now())
	exec.Command("bash", "-c", "rm -rf /tmp/zzlogs; mkdir /tmp/zzlogs; cp /tmp/kubetest-*/*.log /tmp/zzlogs").Run()
	fmt.Println(c.Close())
}
