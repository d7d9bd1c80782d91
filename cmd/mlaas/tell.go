package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

// Exit codes that no kind of failure has.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitTimeout     = 124 // --timeout ran out
	exitPlatform    = 125 // the platform failed, not the program
	exitInterrupted = 130 // Ctrl+C
)

// A tell is an error as its reader wants it: what, why, and how to mend it.
type tell struct {
	What string
	Why  string
	Fix  string
	Kind *mlaas.Kind
}

func (t tell) Error() string { return strings.TrimSuffix(t.What+": "+t.Why, ": ") }

func (t tell) Unwrap() error {
	if t.Kind == nil {
		return mlaas.ErrInternal
	}
	return t.Kind
}

// An exit ends the command with a code and says nothing more.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// misused makes a usage error of what cobra found in the words for cmd.
func misused(cmd *cobra.Command, err error) error {
	if _, ok := errors.AsType[tell](err); ok {
		return err
	}
	t := tell{What: err.Error(), Fix: "see   " + cmd.CommandPath() + " --help", Kind: mlaas.ErrSyntax}
	var typed, parent string
	if n, _ := fmt.Sscanf(t.What, "unknown command %q for %q", &typed, &parent); n == 2 {
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(append(names, sub.Name()), sub.Aliases...)
			}
		}
		t.What = fmt.Sprintf("%s has no command %q", parent, typed)
		if near := meant(typed, names); near != "" {
			t.Fix = fmt.Sprintf("did you mean   %s %s ?", parent, near)
		}
	}
	return t
}

// fail prints what went wrong and returns the exit code.
func (c *cli) fail(ctx context.Context, err error) int {
	if code, ok := errors.AsType[exit](err); ok {
		return int(code)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	t, code := explain(err)
	fmt.Fprintf(c.Err, "%s %s\n", c.paint(red, "✗"), t.What)
	if t.Why != "" {
		fmt.Fprintf(c.Err, "  why: %s\n", t.Why)
	}
	if t.Fix != "" {
		fmt.Fprintf(c.Err, "  fix: %s\n", t.Fix)
	}
	note := fmt.Sprintf("exit %d", code)
	if e, ok := errors.AsType[*client.Error](err); ok && e.RequestID != "" {
		note = "req " + e.RequestID + ", " + note
	}
	fmt.Fprintf(c.Err, "  %s\n", c.paint(dim, "("+note+")"))
	return code
}

// explain turns any error into one that its reader can act on.
func explain(err error) (tell, int) {
	kind := mlaas.KindOf(err)
	code := kind.Exit
	t, ok := errors.AsType[tell](err)
	if !ok {
		t = tell{What: err.Error(), Kind: kind}
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok && t.What == err.Error() && kind == mlaas.ErrInternal {
		code = exitFailed
		t.What = fmt.Sprintf("cannot %s %s: %v", path.Op, path.Path, path.Err)
		if errors.Is(err, fs.ErrNotExist) {
			code, t.What = mlaas.ErrNotFound.Exit, fmt.Sprintf("there is no %s", path.Path)
		}
	}
	if e, ok := errors.AsType[*client.Error](err); ok && t.Fix == "" {
		t.Fix = e.Fix
	}
	if t.Fix != "" {
		return t, code
	}
	switch kind {
	case mlaas.ErrUnauthorized:
		t.Fix = "give the platform's token by --token or MLAAS_TOKEN; on its own machine it lies in DIR/token"
	case mlaas.ErrUnavailable:
		t.Fix = "start it with   mlaas up   or name another by --url or MLAAS_URL"
	case mlaas.ErrStale:
		t.Fix = "somebody else changed it meanwhile: look again and repeat"
	case mlaas.ErrDisk:
		t.Fix = "free space with   mlaas gc"
	}
	return t, code
}

// meant offers the name that is nearest to what was typed, or nothing.
func meant(typed string, names []string) string {
	best, least := "", max(1, len(typed)/3)+1
	for _, n := range names {
		if d := distance(strings.ToLower(typed), strings.ToLower(n)); d < least || d < len(n) && strings.HasPrefix(n, typed) && best == "" {
			best, least = n, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, change or swap between a and b.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	before, last := make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := range x {
		row := make([]int, len(y)+1)
		row[0] = i + 1
		for j := range y {
			change := 1
			if x[i] == y[j] {
				change = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+change)
			if i > 0 && j > 0 && x[i] == y[j-1] && x[i-1] == y[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(y)]
}

// absent is the error for a name that is not there.
func absent(what, typed string, names []string, list string) error {
	t := tell{What: fmt.Sprintf("there is no %s %q", what, typed), Kind: mlaas.ErrNotFound, Fix: "see   " + list}
	if near := meant(typed, names); near != "" {
		t.Fix = fmt.Sprintf("did you mean %s?   See also   %s", near, list)
	}
	return t
}

// exitCodes is the help topic on exit codes.
func exitCodes() *cobra.Command {
	var b strings.Builder
	line := func(code int, text string) { fmt.Fprintf(&b, "  %3d  %s\n", code, text) }
	words := map[int][]string{}
	for _, k := range mlaas.Kinds {
		words[k.Exit] = append(words[k.Exit], k.Code)
	}
	line(0, "it worked")
	for _, code := range []int{1, 2, 4, 5, 6, 7} {
		line(code, strings.Join(slices.Compact(words[code]), ", "))
	}
	line(exitTimeout, "--timeout ran out")
	line(exitPlatform, "run --follow, job wait: the platform failed, not the program")
	line(exitInterrupted, "interrupted by Ctrl+C; also a run that was stopped")
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: "What the exit codes mean:\n\n" + b.String() + `
` + "`mlaas run --follow` and `mlaas job wait` end with the exit code of the program.",
	}
}
