package scripted_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/booster"
	"mlaas.dev/mlaas/booster/executortest"
	"mlaas.dev/mlaas/booster/scripted"
)

func TestConformance(t *testing.T) {
	executortest.Run(t, func(t *testing.T) executortest.Harness {
		e := &scripted.Executor{
			Limits: []string{"nothing runs here, it is played"},
			Play: func(s booster.Spec) scripted.Script {
				if s.Environment.Image == "broken" {
					return scripted.Script{Broken: "there is no such image"}
				}
				return scripted.Script{Deaf: true, Slow: time.Millisecond}
			},
			Command: func(_ mlaas.Fence, command []string, in io.Reader, out io.Writer) (int, error) {
				if command[0] == "cat" {
					_, err := io.Copy(out, in)
					return 0, err
				}
				var code int
				_, err := fmt.Sscanf(strings.Join(command, " "), "sh -c exit %d", &code)
				return code, err
			},
		}
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		ended := make(chan error)
		go func() { ended <- e.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-ended })
		return executortest.Harness{
			Open: func(*testing.T) booster.Executor { return e },
			Spec: func(_ *testing.T, f mlaas.Fence) booster.Spec { return booster.Spec{Fence: f} },
			Broken: func(_ *testing.T, f mlaas.Fence) booster.Spec {
				return booster.Spec{Fence: f, Environment: mlaas.Environment{Image: "broken"}}
			},
			End:    func(_ *testing.T, f mlaas.Fence, code int) { e.End(f, code) },
			Starts: func(_ *testing.T, f mlaas.Fence) int { return e.Starts(f) },
			Left: func(_ *testing.T, f mlaas.Fence) (left []string) {
				for _, name := range e.Running() {
					if name == f.String() {
						left = append(left, name)
					}
				}
				return left
			},
		}
	})
}

// stage is a door that takes everything and gives the word to start at once.
type stage struct {
	up chan mlaas.Up
}

func (s stage) Serve(ctx context.Context, _ mlaas.Fence, line mlaas.Line[mlaas.Down, mlaas.Up]) error {
	for {
		up, err := line.Receive(ctx)
		if err != nil {
			return err
		}
		var down []mlaas.Down
		switch {
		case up.Hello != nil:
			down = []mlaas.Down{{Welcome: &mlaas.Welcome{}}, {Start: &mlaas.Start{ResumeStep: 1}}}
		case up.Frame != nil:
			down = []mlaas.Down{{Ack: &mlaas.Ack{Stream: up.Frame.Stream, Seq: up.Frame.First + int64(len(up.Frame.Lines)+len(up.Frame.Points)) - 1}}}
		case up.Checkpoint != nil:
			down = []mlaas.Down{{Ack: &mlaas.Ack{Stream: "checkpoint", Seq: up.Checkpoint.Step}}}
		case up.Phase != nil && up.Phase.Status.Final():
			down = []mlaas.Down{{Stop: &mlaas.Stop{}}}
		}
		for _, d := range down {
			if err := line.Send(ctx, d); err != nil {
				return err
			}
		}
		select {
		case s.up <- up:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s stage) Put(_ context.Context, r io.Reader) (mlaas.Digest, int64, error) {
	n, err := io.Copy(io.Discard, r)
	return mlaas.Digest("sha256:" + strings.Repeat("0", 64)), n, err
}

// A part is played to its end, and the door hears of it in order.
func TestScripts(t *testing.T) {
	tests := []struct {
		name string
		part scripted.Script
		want string
	}{
		{"trains", scripted.Script{Steps: 4, Every: time.Hour, Save: 2}, "ready running checkpoint:2 checkpoint:4 succeeded:0 lines=3"},
		{"fails", scripted.Script{Steps: 4, FailAt: 3, Exit: 9}, "ready running failed:9 lines=2"},
		{"too little memory", scripted.Script{Steps: 4, FailAt: 2, OOM: true}, "ready running failed:137:oom lines=1"},
		{"cannot start its program", scripted.Script{Refuse: "no such package"}, "ready failed lines=0"},
		{"is lost", scripted.Script{Steps: 10, LostAt: 2500 * time.Millisecond}, "ready running lost lines=2"},
		{"says nothing", scripted.Script{Steps: 3, Quiet: true}, "ready running succeeded:0 lines=0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := &scripted.Executor{Play: func(booster.Spec) scripted.Script { return tt.part }}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- e.Run(ctx) }()
				defer func() { cancel(); <-ended }()
				s := stage{up: make(chan mlaas.Up)}
				e.Connect(s)
				f := mlaas.Fence{Tenant: "default", Run: "r", Epoch: 1, Replica: "worker-0", Incarnation: 1}
				if err := e.Start(ctx, booster.Spec{Fence: f}); err != nil {
					t.Fatal(err)
				}
				news := make(chan booster.News)
				go e.Watch(ctx, news)
				var got []string
				lines, over := 0, false
				status := func(p mlaas.Phase) {
					word := string(p.Status)
					if p.ExitCode != nil {
						word += fmt.Sprintf(":%d", *p.ExitCode)
					}
					if p.OOM {
						word += ":oom"
					}
					got, over = append(got, word), over || p.Status.Final()
				}
				for !over {
					select {
					case up := <-s.up:
						switch {
						case up.Hello != nil:
							status(up.Hello.Phase)
						case up.Phase != nil:
							status(*up.Phase)
						case up.Checkpoint != nil:
							got = append(got, fmt.Sprintf("checkpoint:%d", up.Checkpoint.Step))
						case up.Frame != nil:
							lines += len(up.Frame.Lines)
						}
					case n := <-news:
						if n.Status == mlaas.ReplicaLost {
							got, over = append(got, "lost"), true
						}
					}
				}
				if s := strings.Join(got, " ") + fmt.Sprintf(" lines=%d", lines); s != tt.want {
					t.Errorf("played %q, want %q", s, tt.want)
				}
			})
		})
	}
}
