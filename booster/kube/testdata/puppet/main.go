// Command puppet plays the supervisor of the conformance suite in a pod: it
// says its fence, starts a process more, and is deaf until it is told to end.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"mlaas.dev/mlaas/supervisor"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	signal.Ignore(syscall.SIGTERM)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var c supervisor.Config
	if err := json.Unmarshal([]byte(os.Getenv(supervisor.ConfigVariable)), &c); err != nil && args[0] != "install" {
		return err
	}
	socket := filepath.Join(c.Folder, "end")
	switch args[0] {
	case "install":
		data, err := os.ReadFile(self)
		if err != nil {
			return err
		}
		return os.WriteFile(args[1], data, 0o755)
	case "supervise":
		fmt.Println(c.Fence)
		l, err := net.Listen("unix", socket)
		if err != nil {
			return err
		}
		if err := exec.Command(self, "wait").Start(); err != nil {
			return err
		}
		to, err := l.Accept()
		if err != nil {
			return err
		}
		text, err := io.ReadAll(to)
		if err != nil {
			return err
		}
		code, err := strconv.Atoi(string(text))
		if err != nil {
			return err
		}
		os.Exit(code)
	case "wait":
		select {}
	case "hog":
		var all [][]byte
		for {
			page := make([]byte, 1<<20)
			for i := range page {
				page[i] = 1
			}
			all = append(all, page)
			_ = all[len(all)/2]
		}
	case "end":
		to, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(to, args[1]); err != nil {
			return err
		}
		return to.Close()
	}
	return fmt.Errorf("unknown part %q", args[0])
}
