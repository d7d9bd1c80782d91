package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/supervisor"
	"mlaas.dev/mlaas/supervisor/environment"
)

// superviseCommand is the process in each replica; executors start it.
func superviseCommand() *cobra.Command {
	var drain, container bool
	c := &cobra.Command{
		Use:   "supervise FOLDER | --container",
		Short: "run the supervisor of one replica (for executors)",
		Args: func(c *cobra.Command, args []string) error {
			if container {
				return cobra.NoArgs(c, args)
			}
			return cobra.ExactArgs(1)(c, args)
		},
		Hidden: true,
		RunE: func(c *cobra.Command, args []string) error {
			// It waits most of its life: rather small than fast.
			debug.SetGCPercent(50)
			debug.SetMemoryLimit(64 << 20)
			// Taken and not heeded: what is ignored, programs and shells would ignore.
			signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT)
			read := supervisor.ReadContainer
			if !container {
				read = func() (supervisor.Config, error) { return supervisor.ReadConfig(args[0]) }
			}
			config, err := read()
			if err != nil {
				return err
			}
			ctx, suspend := c.Context(), make(chan os.Signal, 1)
			grace, why := time.Hour, "the platform was taken down"
			if container { // its pod is deleted, evicted or drained: that is no end of our own
				ctx = context.WithoutCancel(ctx)
				signal.Notify(suspend, syscall.SIGTERM)
				grace, why = containerGrace, "its pod is being ended"
			} else {
				var stop context.CancelFunc
				ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM)
				defer stop()
				signal.Notify(suspend, syscall.SIGUSR1) // of mlaas down
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("replica", config.Fence)
			manager := &environment.Manager{Dir: config.EnvDir, Shared: config.Shared, Log: log}
			s := &supervisor.Supervisor{
				Config: config, Log: log, Drain: drain,
				Door: &supervisor.HTTPDoor{Address: config.Door, Token: config.Token, CA: config.DoorCA},
				Prepare: func(ctx context.Context, e mlaas.Environment, lock []byte, say func(string)) (*supervisor.Runtime, error) {
					var p *environment.Prepared
					var err error
					if config.Image {
						p, err = manager.Image(ctx, e, os.Environ())
					} else {
						p, err = manager.Prepare(ctx, e, lock, say)
					}
					if err != nil {
						return nil, err
					}
					run := supervisor.Runtime(*p)
					return &run, nil
				},
			}
			if !config.Image {
				s.Tools = manager.Tools
			}
			go func() {
				<-suspend
				s.Suspend(grace, why)
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
	c.Flags().BoolVar(&container, "container", false, "this is the container of the replica that the variables name")
	return c
}

// containerGrace is less than what a pod has to end: what its program says last
// is delivered in the rest.
const containerGrace = 20 * time.Second

// installCommand puts this binary where the containers of a pod find it.
func installCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "install FILE",
		Short:  "copy this program to FILE (for init containers)",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) (err error) {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			from, err := os.Open(self)
			if err != nil {
				return err
			}
			defer from.Close()
			to, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
			if err != nil {
				return err
			}
			_, err = io.Copy(to, from)
			return errors.Join(err, to.Close())
		},
	}
}
