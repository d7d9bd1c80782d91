package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

// version is set by the linker; see the Makefile.
var version string

// release is what this program is: what the linker said, else the module.
func release() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	var revision, changed string
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				changed = "+changes"
			}
		}
	}
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	return strings.TrimSpace(v + " " + revision + changed)
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Say which mlaas this is", Args: cobra.NoArgs, Example: "  mlaas version",
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": release(), "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			return c.show(v, []string{v["version"]}, func() string {
				return fmt.Sprintf("mlaas %s (%s, %s)\n", v["version"], v["go"], v["platform"])
			})
		}}
}

func (c *cli) completionCommand() *cobra.Command {
	return &cobra.Command{Use: "completion bash|zsh|fish|powershell", Short: "Write a completion script for a shell",
		Args: cobra.MatchAll(one("the name of a shell", "mlaas completion bash"), cobra.OnlyValidArgs), ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		Example: "  source <(mlaas completion bash)\n  mlaas completion fish > ~/.config/fish/completions/mlaas.fish",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(c.Out, true)
			case "zsh":
				return root.GenZshCompletion(c.Out)
			case "fish":
				return root.GenFishCompletion(c.Out, true)
			default:
				return root.GenPowerShellCompletionWithDesc(c.Out)
			}
		}}
}

func (c *cli) statusCommand() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Say how the platform is: what runs, what is full, what is not enforced", Args: cobra.NoArgs,
		Example: "  mlaas status\n  mlaas status -o json",
		RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
			s, err := cl.Status(ctx)
			if err != nil {
				return err
			}
			return c.show(s, []string{cl.URL}, func() string { return condition(cl.URL, s) })
		})}
}

// condition is how the platform is, in lines.
func condition(at string, s client.Status) string {
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", what, fmt.Sprintf(format, args...))
	}
	line("platform", "mlaas %s at %s", dash(s.Version), at)
	line("runs", "%s", tally(s.Runs))
	line("replicas", "%s", tally(s.Replicas))
	for _, k := range s.Clusters {
		state := "up"
		if !k.Up {
			state = "down: " + k.Reason
		}
		line("cluster", "%s is %s; promised: cpu %s of %s, memory %s of %s, GPUs %d of %d", k.Name, state,
			k.Used.CPU, k.Capacity.CPU, size(k.Used.Memory), size(k.Capacity.Memory), k.Used.GPU.Count, k.Capacity.GPU.Count)
	}
	for _, l := range s.Limits {
		line("limit", "%s", l)
	}
	if s.Data != "" {
		line("data", "%s, %s free", s.Data, size(s.Disk.Free))
	}
	for _, part := range sortedKeys(s.Disk.Used) {
		most := ""
		if n := s.Disk.Caps[part]; n > 0 {
			most = " of at most " + size(n)
		}
		line("", "%-9s %s%s", part, size(s.Disk.Used[part]), most)
	}
	parked := ""
	if s.Store.Parked > 0 {
		parked = fmt.Sprintf(", %d given up", s.Store.Parked)
	}
	line("store", "%s, %s waiting%s, %d commits in %d durable writes", count(int(s.Store.Records), "record"), count(int(s.Store.Waiting), "message"), parked, s.Store.Commits, s.Store.Syncs)
	return b.String()
}

func tally(of map[string]int) string {
	var out []string
	for _, k := range sortedKeys(of) {
		out = append(out, fmt.Sprintf("%d %s", of[k], k))
	}
	return first(strings.Join(out, ", "), "none live")
}

func (c *cli) gcCommand() *cobra.Command {
	return &cobra.Command{Use: "gc", Short: "Free what is no longer needed: deleted jobs, old logs, unused content", Args: cobra.NoArgs,
		Example: "  mlaas gc",
		Long: `Frees what nothing needs: jobs deleted more than 7 days ago, checkpoints beyond
those that are kept, content that nothing names, and the oldest logs over their
cap. The platform does so by itself once a day.`,
		RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
			freed, err := cl.GC(ctx)
			if err != nil {
				return err
			}
			return c.show(freed, nil, func() string {
				t := table{Head: []string{"FREED", "WHAT"}}
				t.row("", count(freed.Jobs, "job")+" deleted more than 7 days ago")
				t.row("", count(freed.Checkpoints, "checkpoint")+" beyond those that are kept")
				t.row(size(freed.Freed), count(freed.Blobs, "piece")+" of content that nothing names")
				t.row(size(freed.Logs), "of logs and metrics over their cap")
				t.row("", count(freed.Logins, "login")+" that ended long ago, and links that are too old")
				for _, p := range freed.Places {
					t.row("", p)
				}
				return t.String()
			})
		})}
}

func (c *cli) apiCommand() *cobra.Command {
	var data string
	var headers []string
	cmd := &cobra.Command{Use: "api METHOD PATH", Short: "Call the REST API as it is", Args: cobra.ExactArgs(2),
		Example: `  mlaas api GET /api/job
  mlaas api POST /api/job -d '{"name": "mnist"}'
  mlaas api PUT /api/blob/sha256:... -d @file`,
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			at, err := url.Parse(args[1])
			if err != nil || !strings.HasPrefix(at.Path, "/") {
				return tell{What: fmt.Sprintf("%q is no path", args[1]), Fix: "begin with a slash:   mlaas api GET /api/job", Kind: mlaas.ErrSyntax}
			}
			r := client.Request{Method: strings.ToUpper(args[0]), Path: at.EscapedPath(), Query: at.Query(), Accept: "*/*"}
			switch {
			case data == "-":
				r.Open = func() (io.ReadCloser, error) { return io.NopCloser(c.In), nil }
			case strings.HasPrefix(data, "@"):
				r.Open = func() (io.ReadCloser, error) { return os.Open(data[1:]) }
			case data != "":
				r.Size = int64(len(data))
				r.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(data)), nil }
			}
			r.Type = "application/json"
			for _, h := range headers {
				k, v, _ := strings.Cut(h, ":")
				switch v = strings.TrimSpace(v); http.CanonicalHeaderKey(strings.TrimSpace(k)) {
				case "Content-Type":
					r.Type = v
				case "Accept":
					r.Accept = v
				case "Idempotency-Key":
					r.Key = v
				case "If-Match":
					if _, err := fmt.Sscanf(strings.Trim(v, `"W/`), "%d", &r.Revision); err != nil {
						return tell{What: fmt.Sprintf("If-Match is %q, want a revision", v), Fix: "-H 'If-Match: 3'", Kind: mlaas.ErrSyntax}
					}
				default:
					return tell{What: fmt.Sprintf("header %q is not one that can be set", k), Fix: "set Content-Type, Accept, Idempotency-Key or If-Match", Kind: mlaas.ErrSyntax}
				}
			}
			resp, err := cl.Send(ctx, r)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(c.Out, resp.Body)
			return err
		})}
	cmd.Flags().StringVarP(&data, "data", "d", "", "the body: a text, @FILE, or - for standard input")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "Content-Type, Accept, Idempotency-Key or If-Match; may be repeated")
	return cmd
}
