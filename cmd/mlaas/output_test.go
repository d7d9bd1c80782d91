package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

var update = flag.Bool("update", false, "write the golden files anew")

// call runs one command line without a terminal.
func call(t *testing.T, env map[string]string, line ...string) (out, talk string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	c := &cli{In: strings.NewReader(""), Out: &o, Err: &e, Env: func(k string) string { return env[k] }}
	code = c.Main(t.Context(), line)
	return o.String(), e.String(), code
}

// TestHelp holds the text of every --help, so that a change of it is seen.
func TestHelp(t *testing.T) {
	var all strings.Builder
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if slices.Contains([]string{"up", "down", "bench"}, cmd.Name()) || cmd.Hidden {
			return
		}
		words := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		out, _, code := call(t, nil, words...)
		if code != 0 {
			t.Errorf("mlaas %s ends with %d", strings.Join(words, " "), code)
		}
		if cmd.Runnable() && cmd.Example == "" {
			t.Errorf("%s --help has no example", cmd.CommandPath())
		}
		all.WriteString("-- " + strings.ReplaceAll(cmd.CommandPath(), " ", "-") + " --\n" + out)
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk((&cli{}).root())
	golden := filepath.Join("testdata", "help.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(all.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), all.String()); diff != "" {
		t.Errorf("the help reads otherwise than %s; -update accepts it (-want +got):\n%s", golden, diff)
	}
}

func TestErrorsReadWell(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want string
		code int
	}{
		{"ours", tell{What: "it is broken", Why: "somebody sat on it", Fix: "stand up", Kind: mlaas.ErrConflict},
			"✗ it is broken\n  why: somebody sat on it\n  fix: stand up\n  (exit 6)\n", 6},
		{"the server's", &client.Error{Kind: mlaas.ErrInvalid, Message: `roles.worker.cpu is "x", want cores`, RequestID: "01jd"},
			"✗ roles.worker.cpu is \"x\", want cores\n  (req 01jd, exit 2)\n", 2},
		{"no token", &client.Error{Kind: mlaas.ErrUnauthorized, Message: "this token is not known"},
			"✗ this token is not known\n  fix: give the platform's token by --token or MLAAS_TOKEN; on its own machine it lies in DIR/token\n  (exit 4)\n", 4},
		{"a file", &os.PathError{Op: "open", Path: "x", Err: os.ErrNotExist}, "✗ there is no x\n  (exit 5)\n", 5},
		{"a program's own", exit(3), "", 3},
		{"unknown", errors.New("oh"), "✗ oh\n  (exit 1)\n", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			c := &cli{Err: &b, Env: func(string) string { return "" }}
			if code := c.fail(t.Context(), tt.err); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if diff := cmp.Diff(tt.want, b.String()); diff != "" {
				t.Errorf("reads otherwise (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMisuse(t *testing.T) {
	home := map[string]string{"HOME": t.TempDir()}
	tests := []struct {
		line string
		says string
		code int
	}{
		{"jbo", "did you mean   mlaas job ?", 2},
		{"job lss", "did you mean   mlaas job ls ?", 2},
		{"job ls --outptu json", "see   mlaas job ls --help", 2},
		{"run a.py b", "what the program is to get goes after --:   mlaas run a.py -- b", 2},
		{"logs", "logs takes JOB or JOB/N, not 0 arguments", 2},
		{"job ls -o xml", "use one of table, json, yaml, name", 2},
		{"job ls", "start one with   mlaas up", 7},
		{"job ls --url http://127.0.0.1:1", "cannot reach mlaas at http://127.0.0.1:1: nothing listens there", 7},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			out, talk, code := call(t, home, strings.Fields(tt.line)...)
			if code != tt.code || !strings.Contains(talk, tt.says) {
				t.Errorf("ends with %d and says %q; want %d and %q", code, talk, tt.code, tt.says)
			}
			if out != "" {
				t.Errorf("an error goes to standard output: %q", out)
			}
		})
	}
}

func TestTokenStaysAtHome(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"url": "http://127.0.0.1:7\n", "token": "secret\n"})
	tests := []struct {
		name       string
		c          cli
		env        map[string]string
		url, token string
	}{
		{"the folder's own", cli{dir: dir}, nil, "http://127.0.0.1:7", "secret"},
		{"by MLAAS_DIR", cli{}, map[string]string{"MLAAS_DIR": dir}, "http://127.0.0.1:7", "secret"},
		{"the same server by its address", cli{url: "http://127.0.0.1:7/"}, map[string]string{"MLAAS_DIR": dir}, "http://127.0.0.1:7/", "secret"},
		{"another server gets none", cli{url: "http://other"}, map[string]string{"MLAAS_DIR": dir}, "http://other", ""},
		{"the environment", cli{}, map[string]string{"MLAAS_DIR": dir, "MLAAS_URL": "http://b", "MLAAS_TOKEN": "t"}, "http://b", "t"},
		{"flags win", cli{url: "http://c", token: "u"}, map[string]string{"MLAAS_URL": "http://b", "MLAAS_TOKEN": "t"}, "http://c", "u"},
		{"a stated folder wins over the environment", cli{dir: dir}, map[string]string{"MLAAS_URL": "http://b", "MLAAS_TOKEN": "t"}, "http://127.0.0.1:7", "secret"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.Env = func(k string) string { return tt.env[k] }
			cl, err := tt.c.connect()
			if err != nil {
				t.Fatal(err)
			}
			if cl.URL != tt.url || cl.Token != tt.token {
				t.Errorf("calls %s with %q, want %s with %q", cl.URL, cl.Token, tt.url, tt.token)
			}
		})
	}
}

func TestClean(t *testing.T) {
	tests := []struct{ in, plain, coloured string }{
		{"loss 0.3", "loss 0.3", "loss 0.3"},
		{"\x1b[31mred\x1b[0m", "red", "\x1b[31mred\x1b[0m"},
		{"\x1b[2J\x1b[Hgone", "gone", "gone"},
		{"\x1b]0;title\x07text", "text", "text"},
		{" 10%\r 50%\r100%\r", "100%", "100%"},
		{"a\x00b\x07c\td\u009be", "abc\tde", "abc\tde"},
		{"half \x1b", "half ", "half "},
	}
	for _, tt := range tests {
		if got := clean(tt.in, false); got != tt.plain {
			t.Errorf("clean(%q) is %q, want %q", tt.in, got, tt.plain)
		}
		if got := clean(tt.in, true); got != tt.coloured {
			t.Errorf("clean(%q) in colour is %q, want %q", tt.in, got, tt.coloured)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{{"abc", 5, "abc"}, {"abcdef", 3, "abc"}, {"\x1b[36m━━━\x1b[0m abc", 5, "\x1b[36m━━━\x1b[0m a\x1b[0m"}} {
		if got := cut(tt.in, tt.width); got != tt.want {
			t.Errorf("cut(%q, %d) is %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

func TestAmounts(t *testing.T) {
	for in, want := range map[int64]string{0: "0 B", 999: "999 B", 12_345: "12 KB", 1_200_000: "1.2 MB", 5 << 40: "5.5 TB"} {
		if got := size(in); got != want {
			t.Errorf("size(%d) is %s, want %s", in, got, want)
		}
	}
	for in, want := range map[time.Duration]string{4100 * time.Millisecond: "4.1 s", 59 * time.Second: "59 s", 200 * time.Second: "3m 20s", 5 * time.Hour: "5h 0m", 72 * time.Hour: "3 days"} {
		if got := span(in); got != want {
			t.Errorf("span(%v) is %s, want %s", in, got, want)
		}
	}
}

func TestAgo(t *testing.T) {
	now := time.Now()
	for past, want := range map[time.Duration]string{0: "now", 4 * time.Second: "4 s ago", 90 * time.Second: "1m 30s ago", 72 * time.Hour: "3 days ago"} {
		if got := ago(now, now.Add(-past)); got != want {
			t.Errorf("%v past is %q, want %q", past, got, want)
		}
	}
}

func TestMeant(t *testing.T) {
	names := []string{"mnist", "bert", "resnet-50"}
	for typed, want := range map[string]string{"mnsit": "mnist", "mnis": "mnist", "brt": "bert", "resnet": "resnet-50", "xyz": "", "foo": ""} {
		if got := meant(typed, names); got != want {
			t.Errorf("%s means %q, want %q", typed, got, want)
		}
	}
}
