// Command zz.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"mlaas.dev/mlaas/internal/kubetest"
)

func main() {
	c, err := kubetest.Open(context.Background(), kubetest.Opts{Nodes: kubetest.Real(1)})
	if err != nil {
		fmt.Println(err)
		return
	}
	os.WriteFile("/tmp/zz.kubeconfig", c.Kubeconfig(), 0o600)
	fmt.Println("up")
	io.Copy(io.Discard, os.Stdin)
	fmt.Println(c.Close())
}
