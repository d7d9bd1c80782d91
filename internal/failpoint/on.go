//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// What the process has passed. It belongs to the process, as its death does.
var (
	mu     sync.Mutex
	passed = map[string]int{}
)

// Hit passes the point called name, or ends the process there.
func Hit(name string) {
	mu.Lock()
	defer mu.Unlock()
	passed[name]++
	if list := os.Getenv("MLAAS_FAILPOINT_LIST"); list != "" && passed[name] == 1 {
		if err := note(list, name); err != nil {
			panic(err) // a list with holes would leave points untested
		}
	}
	point, times, counted := strings.Cut(os.Getenv("MLAAS_FAILPOINT"), "#")
	if point != name {
		return
	}
	n := 1
	if counted {
		var err error
		if n, err = strconv.Atoi(times); err != nil {
			panic(fmt.Sprintf("MLAAS_FAILPOINT is %q, want a name or name#3", os.Getenv("MLAAS_FAILPOINT")))
		}
	}
	if passed[name] == n {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // nothing after the point happens, not even by luck
	}
}

func note(list, name string) error {
	f, err := os.OpenFile(list, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(name + "\n")
	return err
}
