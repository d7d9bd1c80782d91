package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
	"mlaas.dev/mlaas/internal/stream"
)

func (c *cli) forwardCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "port-forward JOB|JOB/N [REPLICA] [HERE:]PORT...",
		Short: "Reach ports of a running replica at ports of this machine",
		Long: `Listens at 127.0.0.1 and brings each connection to a port of a running replica,
through the platform, wherever the replica runs. It goes on until Ctrl+C.`,
		Example: `  mlaas port-forward mnist 6006              TensorBoard of the first replica, at the same port here
  mlaas port-forward mnist/7 worker-1 8080:80
  mlaas port-forward mnist 0:6006            at any port that is free here`,
		Args: cobra.MinimumNArgs(2),
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			job, name, ports := args[0], "", args[1:]
			if _, _, err := mlaas.SplitReplica(ports[0]); err == nil && len(ports) > 1 {
				name, ports = ports[0], ports[1:]
			}
			var pairs [][2]int
			for _, text := range ports {
				here, there, ok := strings.Cut(text, ":")
				if !ok {
					there = here
				}
				a, err := strconv.Atoi(here)
				b, err2 := strconv.Atoi(there)
				if err != nil || err2 != nil || a < 0 || a > 65535 || b < 1 || b > 65535 {
					return mlaas.Invalid("port", "PORT or HERE:PORT, such as 6006 or 8080:80", text)
				}
				pairs = append(pairs, [2]int{a, b})
			}
			run, replica, err := findReplica(ctx, cl, job, name)
			if err != nil {
				return err
			}
			f := &forward{c: c, cl: cl, run: run, replica: replica}
			return f.serve(ctx, pairs)
		}),
	}
}

// A forward brings connections to a replica.
type forward struct {
	c       *cli
	cl      *client.Client
	run     client.Run
	replica string
	all     sync.WaitGroup
}

func (f *forward) serve(ctx context.Context, pairs [][2]int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer f.all.Wait()
	defer cancel()
	for _, p := range pairs {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p[0])))
		if err != nil {
			return tell{What: fmt.Sprintf("cannot listen at port %d here", p[0]), Why: err.Error(), Fix: fmt.Sprintf("choose another:   0:%d   takes any that is free", p[1]), Kind: mlaas.ErrConflict}
		}
		defer l.Close()
		fmt.Fprintf(f.c.Out, "%s -> %s of %s, port %d\n", l.Addr(), f.replica, runName(f.run), p[1])
		f.all.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				f.all.Go(func() {
					defer conn.Close()
					if err := f.bring(ctx, conn, p[1]); err != nil && ctx.Err() == nil {
						f.c.say("%s %v", f.c.paint(yellow, "!"), err)
					}
				})
			}
		})
	}
	<-ctx.Done()
	return nil
}

// bring is one connection.
func (f *forward) bring(ctx context.Context, conn net.Conn, port int) error {
	at, err := f.cl.Port(ctx, string(f.run.Job), f.run.ID, f.replica, port)
	if err != nil {
		return err
	}
	defer at.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	go func() {
		buf := make([]byte, stream.Chunk)
		for {
			n, err := conn.Read(buf)
			if n > 0 && at.Send(ctx, stream.Packet{Kind: stream.Data, Data: buf[:n]}) != nil {
				return
			}
			if err != nil {
				_ = at.Send(ctx, stream.Packet{Kind: stream.End}) // whoever receives hears why not
				return
			}
		}
	}()
	for {
		p, err := at.Receive(ctx)
		if err != nil {
			return errors.New("the connection to the replica is lost")
		}
		switch p.Kind {
		case stream.Data:
			if _, err := conn.Write(p.Data); err != nil {
				return nil // whoever connected has gone
			}
		case stream.Exit:
			var end stream.Ending
			if err := json.Unmarshal(p.Data, &end); err != nil {
				return err
			}
			return end.Err()
		}
	}
}
