// Command paper runs `mlaas bench paper --short`, the paper's figure 6.1, on a
// platform of its own with MNIST in it.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"mlaas.dev/mlaas/bench/rig"
)

func main() {
	binary := flag.String("bin", "bin/mlaas", "the mlaas binary")
	flag.Parse()
	if err := run(*binary, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(binary string, args []string) error {
	get := exec.Command("bash", "examples/get_mnist.sh")
	get.Stderr = os.Stderr
	folder, err := get.Output()
	if err != nil {
		return fmt.Errorf("examples/get_mnist.sh: %w", err)
	}
	p, err := rig.Up(binary)
	if err != nil {
		return err
	}
	defer p.Close()
	for _, call := range [][]string{
		{"data", "put", "mnist", strings.TrimSpace(string(folder))},
		append([]string{"bench", "paper", "--short"}, args...),
	} {
		cmd := exec.Command(binary, call...)
		cmd.Env = append(os.Environ(), "MLAAS_URL="+p.URL, "MLAAS_TOKEN="+p.Token)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("mlaas %s: %w", strings.Join(call, " "), err)
		}
	}
	return nil
}
