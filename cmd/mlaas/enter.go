package main

import (
	"github.com/spf13/cobra"

	"mlaas.dev/mlaas/booster/local"
)

// enterCommand stands in front of each program on this machine.
func enterCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "enter FILE [--see=PATH ...] -- COMMAND ...",
		Short:              "start a program inside the sandbox of its replica (for supervisors)",
		Hidden:             true,
		DisableFlagParsing: true,
		Run:                func(_ *cobra.Command, args []string) { local.Enter(args) },
	}
}
