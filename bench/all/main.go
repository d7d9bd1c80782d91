// Command all runs every bench against one binary and ends with 1 if a figure
// is beyond its limit. Quote none of it from a busy machine.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	binary := flag.String("bin", "bin/mlaas", "the mlaas binary")
	flag.Parse()
	path, err := filepath.Abs(*binary)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	failed := false
	for _, bench := range []struct {
		name string
		args []string
	}{
		{"start", []string{"-bin", path}},
		{"overhead", []string{"-bin", path}},
		{"prepare", nil},
		{"create", []string{"-bin", path}},
		{"idle", []string{"-bin", path}},
		{"fleet", nil},
		{"commits", nil},
		{"redis", nil},
		{"series", nil},
		{"blob", nil},
		{"scale", []string{"-bin", path}},
		{"readers", []string{"-bin", path}},
		{"paper", []string{"-bin", path}},
	} {
		fmt.Printf("== %s\n", bench.name)
		seen := &verdicts{Writer: os.Stdout}
		cmd := exec.Command("go", append([]string{"run", "./bench/" + bench.name}, bench.args...)...)
		cmd.Stdout, cmd.Stderr = seen, os.Stderr
		if err := cmd.Run(); err != nil {
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", bench.name, err)
			failed = true
		}
		failed = failed || seen.bad
	}
	if failed {
		fmt.Println("a figure is beyond its limit, or a bench failed")
		os.Exit(1)
	}
}

// verdicts passes on what a bench prints and notes whether a figure did not
// hold.
type verdicts struct {
	io.Writer
	bad bool
}

func (v *verdicts) Write(b []byte) (int, error) {
	v.bad = v.bad || strings.Contains(string(b), "DOES NOT HOLD")
	return v.Writer.Write(b)
}
