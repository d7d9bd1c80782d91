// Command idle measures what an idle platform costs: memory over all its
// processes, and processor time.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"mlaas.dev/mlaas/bench/rig"
)

func main() {
	binary := flag.String("bin", "bin/mlaas", "the mlaas binary")
	over := flag.Duration("for", time.Minute, "how long to watch")
	flag.Parse()
	p, err := rig.Up(*binary)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer p.Close()
	<-time.After(10 * time.Second) // what starting costs is not idling
	before := rig.CPU(rig.Tree(p.PID))
	<-time.After(*over)
	pids := rig.Tree(p.PID)
	rig.Row("idle platform, memory of all its processes (PSS)", rig.PSS(pids), 100, "MB", true, fmt.Sprintf("%d processes", len(pids)))
	rig.Row("idle platform, share of one core", 100*(rig.CPU(pids)-before)/over.Seconds(), 1, "%", true, fmt.Sprintf("over %s", over))
}
