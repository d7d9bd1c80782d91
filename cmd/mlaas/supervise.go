package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/supervisor"
	"mlaas.dev/mlaas/supervisor/environment"
)

// superviseCommand is the process in each replica; executors start it.
func superviseCommand() *cobra.Command {
	var drain bool
	c := &cobra.Command{
		Use:    "supervise FOLDER",
		Short:  "run the supervisor of one replica (for executors)",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(c *cobra.Command, args []string) error {
			// It waits most of its life: rather small than fast.
			debug.SetGCPercent(50)
			debug.SetMemoryLimit(64 << 20)
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM)
			defer stop()
			// Taken and not heeded: what is ignored, programs and shells would ignore.
			signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT)
			config, err := supervisor.ReadConfig(args[0])
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("replica", config.Fence)
			manager := &environment.Manager{Dir: config.EnvDir, Log: log}
			s := &supervisor.Supervisor{
				Config: config, Log: log, Drain: drain,
				Door: &supervisor.HTTPDoor{Address: config.Door, Token: config.Token},
				Prepare: func(ctx context.Context, e mlaas.Environment, lock []byte, say func(string)) (*supervisor.Runtime, error) {
					p, err := manager.Prepare(ctx, e, lock, say)
					if err != nil {
						return nil, err
					}
					run := supervisor.Runtime(*p)
					return &run, nil
				},
			}
			suspend := make(chan os.Signal, 1)
			signal.Notify(suspend, syscall.SIGUSR1) // of mlaas down
			go func() {
				<-suspend
				s.Suspend()
			}()
			err = s.Run(ctx)
			if errors.Is(err, supervisor.ErrSuspended) {
				return nil
			}
			if errors.Is(err, supervisor.ErrClaimed) {
				log.Info(err.Error())
				os.Exit(supervisor.ExitClaimed)
			}
			return err
		},
	}
	c.Flags().BoolVar(&drain, "drain", false, "deliver what a dead supervisor left, then end")
	return c
}
