package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"sigs.k8s.io/yaml"

	"mlaas.dev/mlaas"
)

// A table is data for people. Columns stay as they are between versions:
// scripts should read json, but some will not.
type table struct {
	Head []string
	Rows [][]string
}

func (t *table) row(cells ...string) { t.Rows = append(t.Rows, cells) }

func (t *table) String() string {
	wide := make([]int, len(t.Head))
	for _, r := range append([][]string{t.Head}, t.Rows...) {
		for i, cell := range r {
			wide[i] = max(wide[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, r := range append([][]string{t.Head}, t.Rows...) {
		var line strings.Builder
		for i, cell := range r {
			line.WriteString(cell + strings.Repeat(" ", wide[i]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

var formats = []string{"table", "json", "yaml", "name"}

func (c *cli) checkOutput() error {
	if slices.Contains(formats, c.output) {
		return nil
	}
	return tell{What: fmt.Sprintf("--output is %q", c.output), Fix: "use one of " + strings.Join(formats, ", "), Kind: mlaas.ErrSyntax}
}

// show prints data as --output says: v whole, or the names alone, or a table.
func (c *cli) show(v any, names []string, people func() string) error {
	switch c.output {
	case "json":
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintf(c.Out, "%s\n", text)
	case "yaml":
		text, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.Out, "%s", text)
	case "name":
		for _, n := range names {
			fmt.Fprintln(c.Out, n)
		}
	default:
		fmt.Fprint(c.Out, people())
	}
	return nil
}

// line prints one value as one line of JSON.
func (c *cli) line(v any) error { return json.NewEncoder(c.Out).Encode(v) }

// say talks to the user, not to what reads the data.
func (c *cli) say(format string, args ...any) {
	if !c.quiet {
		fmt.Fprintf(c.Err, format+"\n", args...)
	}
}

// done says that a step is finished.
func (c *cli) done(format string, args ...any) {
	c.say("%s %s", c.paint(green, "✓"), fmt.Sprintf(format, args...))
}

// A colour is an SGR parameter.
type colour string

const (
	bold   colour = "1"
	dim    colour = "2"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	cyan   colour = "36"
)

// lanes are the colours of replicas: apart from each other also for people
// who cannot tell red from green.
var lanes = []colour{"36", "33", "35", "34", "96", "93", "95", "94"}

// paint colours text where the user sees colours and has not refused them.
func (c *cli) paint(with colour, text string) string {
	if c.Width == nil || c.Env("NO_COLOR") != "" || c.Env("TERM") == "dumb" {
		return text
	}
	return "\x1b[" + string(with) + "m" + text + "\x1b[0m"
}

// colourOut reports whether what goes to Out may be coloured.
func (c *cli) colourOut() bool {
	return c.Terminal && c.Env("NO_COLOR") == "" && c.Env("TERM") != "dumb"
}

// paintOut colours text for Out.
func (c *cli) paintOut(with colour, text string) string {
	if !c.colourOut() {
		return text
	}
	return "\x1b[" + string(with) + "m" + text + "\x1b[0m"
}

// size is an amount of bytes as people say it: 12 KB.
func size[T ~int64](n T) string {
	v, unit := float64(n), "B"
	for _, u := range []string{"KB", "MB", "GB", "TB"} {
		if v < 1000 {
			break
		}
		v, unit = v/1000, u
	}
	if unit == "B" || v >= 10 {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// span is a duration as people say it: 4.1 s, 3m 20s.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0.0 s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm %ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh %dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// ago is how long something is past.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := now.Sub(t)
	switch {
	case d < time.Second:
		return "now"
	case d < 10*time.Second:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	}
	return span(d) + " ago"
}

// standing is a state with the sentence that explains it, unless that begins
// with the state itself.
func standing[S ~string](state S, reason string) string {
	if strings.HasPrefix(strings.ToLower(reason), string(state)) {
		return reason
	}
	return join(": ", string(state), reason)
}

// number is a measured value in few digits.
func number(n mlaas.Number) string {
	return strconv.FormatFloat(float64(n), 'g', 4, 64)
}

// count is "1 file", "3 files".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%s %ss", strconv.Itoa(n), thing)
}

// dash stands for what is empty.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
