package environment

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"mlaas.dev/mlaas"
)

// A listener reads what uv says while it works, and tells it on in our words.
// It keeps the end of it, for when something fails.
type listener struct {
	say func(string) // may be nil

	mu    sync.Mutex
	rest  []byte
	kept  []string
	size  map[string]float64 // MB of each announced download
	done  float64
	total float64
	last  string // the sentence before
}

var (
	downloadingRule = regexp.MustCompile(`^Downloading (\S+) \(([0-9.]+) ?([KMGT]i?B|B)\)`)
	downloadedRule  = regexp.MustCompile(`^Downloaded (\S+)`)
	preparedRule    = regexp.MustCompile(`^Prepared (\d+) packages?`)
	installedRule   = regexp.MustCompile(`^Installed (\d+) packages?`)
)

// Write takes a part of what uv says.
func (l *listener) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := strings.Cut(string(l.rest), "\n")
		if !found {
			if len(l.rest) > 1<<16 {
				l.rest = l.rest[:0]
			}
			return len(p), nil
		}
		l.rest = []byte(rest)
		l.line(strings.TrimSpace(strings.TrimSuffix(line, "\r")))
	}
}

func (l *listener) line(s string) {
	if s == "" {
		return
	}
	if l.kept = append(l.kept, s); len(l.kept) > 200 {
		l.kept = l.kept[100:]
	}
	if l.say == nil {
		return
	}
	switch {
	case downloadingRule.MatchString(s):
		f := downloadingRule.FindStringSubmatch(s)
		mb := megabytes(f[2], f[3])
		if l.size == nil {
			l.size = map[string]float64{}
		}
		l.size[f[1]] = mb
		l.total += mb
		if mb >= 20 {
			l.tell(fmt.Sprintf("downloading %s, %.0f MB", f[1], mb))
		}
	case downloadedRule.MatchString(s):
		name := downloadedRule.FindStringSubmatch(s)[1]
		mb, ok := l.size[name]
		if !ok {
			return
		}
		delete(l.size, name)
		l.done += mb
		if l.total >= 20 {
			l.tell(fmt.Sprintf("downloaded %s: %.0f MB of %.0f MB", name, l.done, l.total))
		}
	case preparedRule.MatchString(s):
		l.tell("installing " + packages(count(preparedRule, s)))
	case installedRule.MatchString(s):
		l.tell("installed " + packages(count(installedRule, s)))
	}
}

func count(rule *regexp.Regexp, s string) int {
	n, _ := strconv.Atoi(rule.FindStringSubmatch(s)[1])
	return n
}

func packages(n int) string {
	if n == 1 {
		return "1 package"
	}
	return strconv.Itoa(n) + " packages"
}

func (l *listener) tell(s string) {
	if s != l.last {
		l.last = s
		l.say(s)
	}
}

// waiting says what has not come yet, for someone who sees nothing move.
func (l *listener) waiting(since time.Duration) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	largest := ""
	for name, mb := range l.size {
		if largest == "" || mb > l.size[largest] || mb == l.size[largest] && name < largest {
			largest = name
		}
	}
	if largest == "" {
		return ""
	}
	return fmt.Sprintf("still downloading %s, %.0f MB, after %.0f s: %.0f MB of %.0f MB are here", largest, l.size[largest], since.Seconds(), l.done, l.total)
}

func (l *listener) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(append(l.kept, strings.TrimSpace(string(l.rest))), "\n")
}

func megabytes(n, unit string) float64 {
	v, _ := strconv.ParseFloat(n, 64)
	switch unit[0] {
	case 'B':
		return v / 1e6
	case 'K':
		return v * 1024 / 1e6
	case 'G':
		return v * (1 << 30) / 1e6
	case 'T':
		return v * (1 << 40) / 1e6
	default:
		return v * (1 << 20) / 1e6
	}
}

// A situation is what was being done when uv failed.
type situation struct {
	env    mlaas.Environment
	needs  []string
	python *interpreter
	entry  Entry
	torch  string
}

var (
	notFoundRule  = regexp.MustCompile(`(\S+) was not found in the package registry`)
	noVersionRule = regexp.MustCompile(`there (?:is|are) no versions? of (\S+?)(?:,| and| that|$)`)
	onlyRule      = regexp.MustCompile(`only (?:the following versions of )?(\S+) (?:is|are) available`)
	noWheelRule   = regexp.MustCompile(`(\S+?)(?:[=<>!~]=?\S*)? has no (?:usable wheels|wheels with a matching (\S+))`)
	sourceRule    = regexp.MustCompile(`Wheels are required for .?([A-Za-z0-9._-]+)`)
	fetchRule     = regexp.MustCompile(`(?m)Failed to fetch: [\x60'"]?(\S+?)[\x60'"]?(?:$|\s)`)
	parseRule     = regexp.MustCompile(`(?s)Couldn't parse requirement|Failed to parse|error: .*(?:Expected|parse)`)
	hashRule      = regexp.MustCompile(`Hash mismatch for .?([^\s\x60]+)`)
)

// explain turns what uv said into one sentence: which package, why, and what
// would mend it.
func (m *Manager) explain(ctx context.Context, what, said string, err error, s situation) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if noRoom(err) || strings.Contains(said, "No space left on device") || strings.Contains(said, "os error 28") || strings.Contains(said, "os error 122") {
		return problem(mlaas.ErrDisk, "there is no room left to %s: free some space on the disk of %s, or run mlaas gc", what, m.Dir)
	}
	flat := strings.Join(strings.Fields(said), " ")
	if f := hashRule.FindStringSubmatch(said); f != nil {
		return problem(mlaas.ErrInvalid, "the index gives another %s than the lock names: it was changed there; make a new lock with mlaas env upgrade", f[1])
	}
	if strings.Contains(flat, "401 Unauthorized") || strings.Contains(flat, "403 Forbidden") {
		return problem(mlaas.ErrUnavailable, "the package index refuses this machine's credentials: %s", detail(said))
	}
	if f := fetchRule.FindStringSubmatch(said); f != nil || strings.Contains(flat, "error sending request") || strings.Contains(flat, "dns error") || strings.Contains(flat, "timed out") {
		from := "the package index"
		if f != nil {
			from = f[1]
		}
		if s.torch == "cpu" || s.torch == "auto" {
			if strings.Contains(from, "torch") {
				return problem(mlaas.ErrUnavailable, "PyTorch's own index cannot be reached (%s): connect this machine to it, name a mirror in MLAAS_TORCH, or set MLAAS_TORCH=pypi to take the CUDA build, several gigabytes, from the ordinary index", detail(said))
			}
		}
		return problem(mlaas.ErrUnavailable, "%s cannot be reached (%s): look at this machine's network, and at PIP_INDEX_URL where it goes through a mirror", from, detail(said))
	}
	if f := notFoundRule.FindStringSubmatch(flat); f != nil {
		return problem(mlaas.ErrInvalid, "there is no package named %s: look at its spelling in environment.packages", f[1])
	}
	version := ""
	if s.python != nil {
		version = s.python.minor()
	}
	if f := noWheelRule.FindStringSubmatch(flat); f != nil || sourceRule.MatchString(flat) {
		name := ""
		if f != nil {
			name = f[1]
		} else {
			name = sourceRule.FindStringSubmatch(flat)[1]
		}
		return problem(mlaas.ErrInvalid, "%s has no built wheel for Python %s on %s, and packages are not built from source here%s", bareName(name), version, system(), s.otherPython(name))
	}
	if strings.Contains(flat, "Python") && (strings.Contains(flat, "current Python version") || strings.Contains(flat, "Requires-Python") || strings.Contains(flat, "depends on Python")) {
		return problem(mlaas.ErrInvalid, "no version of %s is for Python %s%s", s.blamed(flat), version, s.otherPython(s.blamed(flat)))
	}
	if f := noVersionRule.FindStringSubmatch(flat); f != nil {
		return problem(mlaas.ErrInvalid, "there is no version %s for Python %s: look at what the index has, and at environment.packages", f[1], version)
	}
	if f := onlyRule.FindStringSubmatch(flat); f != nil {
		return problem(mlaas.ErrInvalid, "no version of %s suits the other packages and Python %s: %s", bareName(f[1]), version, detail(said))
	}
	if strings.Contains(flat, "No solution found") {
		return problem(mlaas.ErrInvalid, "these packages do not go together: %s", detail(said))
	}
	if parseRule.MatchString(said) {
		return problem(mlaas.ErrInvalid, "environment.packages cannot be read: %s", detail(said))
	}
	if text := detail(said); text != "" {
		return problem(mlaas.ErrInternal, "cannot %s: %s", what, text)
	}
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		return problem(mlaas.ErrInternal, "cannot %s: uv ended with status %d and said nothing", what, exit.ExitCode())
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}

// blamed is the first requested package that uv's words mention.
func (s situation) blamed(flat string) string {
	for _, p := range s.needs {
		if n, _ := requirement(p); strings.Contains(flat, n) {
			return n
		}
	}
	return list(s.needs)
}

func bareName(requirement string) string {
	name, _, _ := strings.Cut(requirement, "==")
	return strings.TrimRight(strings.FieldsFunc(name+" ", func(r rune) bool { return strings.ContainsRune("<>=!~ ,", r) })[0], ",")
}

// otherPython says which Pythons the framework is for, where the one that is
// here may be the reason.
func (s situation) otherPython(name string) string {
	n := normal(bareName(name))
	for _, p := range s.entry.Packages {
		if own, _ := requirement(p); own == n && len(s.entry.Pythons) > 0 {
			return fmt.Sprintf(": ask for %s in environment.python, and install it if it is not here", or(s.entry.Pythons))
		}
	}
	return ": ask for another version of it, or for another Python"
}

func or(words []string) string {
	if len(words) < 2 {
		return list(words)
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// detail is what uv gave as the reason, on one line and not too long.
func detail(said string) string {
	var parts []string
	for line := range strings.SplitSeq(said, "\n") {
		line = strings.TrimSpace(line)
		for _, p := range []string{"error: ", "cause: ", "× ", "╰─▶ ", "Caused by: "} {
			line = strings.TrimPrefix(line, p)
		}
		if strings.Trim(line, "^~ ") == "" || strings.HasPrefix(line, "hint:") || strings.HasPrefix(line, "warning:") || line == "No solution found when resolving dependencies" {
			continue
		}
		parts = append(parts, line)
	}
	if len(parts) > 4 {
		parts = append(parts[:2], parts[len(parts)-2:]...)
	}
	text := strings.TrimSuffix(strings.Join(parts, "; "), ".")
	if r := []rune(text); len(r) > 600 {
		text = string(r[:600]) + "..."
	}
	return text
}
