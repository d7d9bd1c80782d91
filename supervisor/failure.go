package supervisor

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"mlaas.dev/mlaas"
)

// How much of the end of stderr is kept, where Python says why it ended.
const (
	lastLines  = 400
	lastLength = 1000 // of each
)

// longMessage is how many lines of an error's message may stand between its
// traceback and the last that looks like an error.
const longMessage = 20

// remember keeps the last lines of stderr.
func (p *program) remember(lines []mlaas.LogLine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range lines {
		p.stderr = append(p.stderr, l.Text[:min(len(l.Text), lastLength)])
	}
	if n := len(p.stderr); n > lastLines {
		p.stderr = slices.Delete(p.stderr, 0, n-lastLines)
	}
}

var (
	errorLine  = regexp.MustCompile(`^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning|Failure))(?:: (.*))?$`)
	raisedLine = regexp.MustCompile(`^[A-Za-z_][\w.]*(?::|$)`) // below a traceback any name of an error is one
	fileLine   = regexp.MustCompile(`^\s+File "(.+)", line (\d+)(?:,? in (.*))?$`)
)

const (
	tracebackLine = "Traceback (most recent call last):"
	crashLine     = "Fatal Python error: "
)

// failure says why a program failed: what Python said last, and the line of the
// program's own where it happened; for code that does not parse, where.
func (p *program) failure(code int) (string, *mlaas.Failure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.stderr) - 1; i >= 0; i-- {
		line := strings.TrimRight(p.stderr[i], " ")
		m := errorLine.FindStringSubmatch(line)
		if m != nil && slices.Contains([]string{"SyntaxError", "IndentationError", "TabError"}, m[1]) {
			return p.unparsable(i, m[0])
		}
		if m == nil && line != tracebackLine {
			continue
		}
		if line == tracebackLine { // an error of the program's own, called as it likes
			j := i + 1
			for j < len(p.stderr) && (p.stderr[j] == "" || p.stderr[j][0] == ' ') {
				j++
			}
			if j == len(p.stderr) || !raisedLine.MatchString(p.stderr[j]) {
				continue
			}
			i, line = j, p.stderr[j]
		}
		f := p.place(p.traceback(i), line)
		reason := fmt.Sprintf("the program ended with exit code %d: %s", code, line)
		if f.File != "" {
			reason += fmt.Sprintf(" (%s:%d in %s: %s)", f.File, f.Line, f.Function, f.Text)
		}
		return reason, f
	}
	return fmt.Sprintf("the program ended with exit code %d", code), nil
}

// unparsable says where code does not parse; what Python says of it is line i.
func (p *program) unparsable(i int, what string) (string, *mlaas.Failure) {
	f := &mlaas.Failure{Error: what}
	for j := i - 1; j >= 0; j-- {
		if at := fileLine.FindStringSubmatch(p.stderr[j]); at != nil {
			f.File, _ = p.own(at[1])
			f.Line, _ = strconv.Atoi(at[2])
			if j+1 < i {
				f.Text = strings.TrimSpace(p.stderr[j+1])
			}
			return fmt.Sprintf("the program does not parse: %s:%d: %s", f.File, f.Line, what), f
		}
	}
	return "the program does not parse: " + what, f
}

// crash says why a program ended that a signal ended: where Python itself broke
// down, as faulthandler has written, innermost call first.
func (p *program) crash(sig syscall.Signal) (string, *mlaas.Failure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	reason := "the program was ended by signal " + signalName(sig)
	i := slices.IndexFunc(p.stderr, func(s string) bool { return strings.HasPrefix(s, crashLine) })
	if i < 0 {
		return reason, nil
	}
	var frames []string
	current := false
	for _, line := range p.stderr[i:] {
		if strings.HasPrefix(line, "Current thread") {
			current = true
		} else if current && !fileLine.MatchString(line) {
			break
		} else if current {
			frames = append(frames, line)
		}
	}
	slices.Reverse(frames)
	f := p.place(frames, strings.TrimPrefix(p.stderr[i], crashLine))
	if f.File != "" {
		reason += fmt.Sprintf(" (%s:%d in %s)", f.File, f.Line, f.Function)
	}
	return reason, f
}

// traceback is the frames of the traceback that ends with line i or with a
// message that goes on there, with the text that Python shows of each.
func (p *program) traceback(i int) []string {
	j := i
	for j >= 0 && p.stderr[j] != tracebackLine {
		j--
	}
	if j < 0 {
		return nil
	}
	k := j + 1
	for k < i && strings.HasPrefix(p.stderr[k], " ") {
		k++
	}
	if i-k > longMessage {
		return nil // it was of another error
	}
	return p.stderr[j:k]
}

// place is the innermost call in the program's own code among the lines of a
// traceback.
func (p *program) place(lines []string, what string) *mlaas.Failure {
	f := &mlaas.Failure{Error: what}
	for i, line := range lines {
		at := fileLine.FindStringSubmatch(line)
		if at == nil {
			continue
		}
		file, own := p.own(at[1])
		if !own {
			continue
		}
		f.File, f.Function, f.Text = file, at[3], ""
		f.Line, _ = strconv.Atoi(at[2])
		if i+1 < len(lines) && !fileLine.MatchString(lines[i+1]) {
			f.Text = strings.TrimSpace(lines[i+1])
		}
	}
	return f
}

// own is the path of a file in the program's code, and whether it is there and
// not in a package.
func (p *program) own(file string) (string, bool) {
	code := filepath.Join(p.s.Folder, CodeDir)
	short, in := strings.CutPrefix(file, code+"/")
	if filepath.IsAbs(file) && !in || strings.HasPrefix(file, "<") {
		return file, false
	}
	short = filepath.Clean(short)
	return short, !strings.Contains(short, "site-packages/") && !strings.Contains(short, "dist-packages/")
}
