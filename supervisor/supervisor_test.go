package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"mlaas.dev/mlaas"
)

func TestCutter(t *testing.T) {
	long := strings.Repeat("a", mlaas.MaxLine)
	tests := []struct {
		name   string
		chunks []string
		want   []string // "part|text"
	}{
		{"lines", []string{"one\ntwo\n"}, []string{"0|one", "0|two"}},
		{"a line in pieces", []string{"o", "ne\nt", "wo"}, []string{"0|one", "0|two"}},
		{"empty lines", []string{"\n\n"}, []string{"0|", "0|"}},
		{"\\r\\n", []string{"one\r", "\ntwo\r\n"}, []string{"0|one", "0|two"}},
		{"a progress bar", []string{"\r1%\r2%", "\r3%\r100%\nnext\n"}, []string{"0|1%", "0|100%", "0|next"}},
		{"exactly as long as may be", []string{long + "\nb\n"}, []string{"0|" + long, "0|b"}},
		{"too long", []string{long, "bcd\n", "e\n"}, []string{"1|" + long, "2|bcd", "0|e"}},
		{"too long, ends at a part", []string{long + long + "\n"}, []string{"1|" + long, "2|" + long}},
		{"not UTF-8", []string{"a\xff\xfeb\n"}, []string{"0|a\uFFFDb"}},
		{"a rune in pieces", []string{"\xc3", "\xa4\n"}, []string{"0|ä"}},
		{"a rune at the cut", []string{long[1:] + "äz\n"}, []string{"1|" + long[1:], "2|äz"}},
		{"no end", []string{"x"}, []string{"0|x"}},
		{"nothing", []string{""}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Unix(1e9, 0)
			c := &cutter{stream: "stdout", now: func() time.Time { return now }}
			var got []string
			add := func(lines []mlaas.LogLine) {
				for _, l := range lines {
					got = append(got, strconv.Itoa(l.Part)+"|"+l.Text)
				}
			}
			for _, chunk := range tt.chunks {
				add(c.cut([]byte(chunk)))
			}
			add(c.rest())
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %.200q, want %.200q", got, tt.want)
			}
		})
	}
}

// Whatever a program writes, lines are valid and short, and nothing but bars
// and what is not text is missing.
func FuzzCutter(f *testing.F) {
	f.Add([]byte("a\r\nb\rc\xff\n"), 3)
	f.Fuzz(func(t *testing.T, data []byte, at int) {
		c := &cutter{stream: "stdout", now: time.Now}
		at = min(max(at, 0), len(data))
		lines := slices.Concat(c.cut(data[:at]), c.cut(data[at:]), c.rest())
		for _, l := range lines {
			if !utf8.ValidString(l.Text) || len(l.Text) > mlaas.MaxLine || strings.ContainsAny(l.Text, "\r\n") {
				t.Errorf("line %q", l.Text)
			}
		}
		if utf8.Valid(data) && !slices.Contains(data, '\r') && len(data) < mlaas.MaxLine {
			want := strings.TrimSuffix(string(data), "\n")
			var all []string
			for _, l := range lines {
				all = append(all, l.Text)
			}
			if got := strings.Join(all, "\n"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
}

func line(i int64) mlaas.LogLine {
	return mlaas.LogLine{Text: strconv.FormatInt(i, 10) + strings.Repeat(".", int(i*7919%5000))}
}

// A spool gives back what was put into it, in order and by its numbers, also
// after it was opened again with a torn last line.
func TestSpool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "spool") //nolint:usetesting // a property has no T of its own
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s, err := openSpool[mlaas.LogLine](dir, "log", 1<<40)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { s.close() }()
		var last, acked int64
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				var lines []mlaas.LogLine
				for range rapid.IntRange(1, 400).Draw(t, "n") {
					last++
					lines = append(lines, line(last))
				}
				if err := s.append(lines); err != nil {
					t.Fatal(err)
				}
			},
			"ack": func(t *rapid.T) {
				acked = rapid.Int64Range(acked, last).Draw(t, "seq")
				if err := s.ack(acked); err != nil {
					t.Fatal(err)
				}
			},
			"take": func(t *rapid.T) {
				from := rapid.Int64Range(acked+1, last+1).Draw(t, "from")
				count := rapid.IntRange(1, 2000).Draw(t, "count")
				first, items, err := s.take(from, count, 256<<10)
				if err != nil || first != from || len(items) > count || (len(items) == 0) != (from > last) {
					t.Fatalf("take(%d) of %d: %d items from %d, %v", from, last, len(items), first, err)
				}
				for i, l := range items {
					if want := line(from + int64(i)); l != want {
						t.Fatalf("item %d is %.20q, want %.20q", from+int64(i), l.Text, want.Text)
					}
				}
			},
			"open again": func(t *rapid.T) {
				if err := s.close(); err != nil {
					t.Fatal(err)
				}
				f, err := os.OpenFile(s.path(s.parts[len(s.parts)-1].first), os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					t.Fatal(err)
				}
				f.WriteString(`{"line":"to`)
				f.Close()
				if s, err = openSpool[mlaas.LogLine](dir, "log", 1<<40); err != nil {
					t.Fatal(err)
				}
				s.ack(acked) // what Welcome says
			},
			"": func(t *rapid.T) {
				if s.delivered() != (acked == last) {
					t.Fatalf("delivered %v at %d of %d", s.delivered(), acked, last)
				}
				if s.held > recentSize+8<<20 {
					t.Fatalf("%d bytes in memory", s.held)
				}
			},
		})
	})
}

func TestSpoolIsBounded(t *testing.T) {
	dir := t.TempDir()
	s, err := openSpool[mlaas.LogLine](dir, "log", 100_000)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	kept := int64(0)
	for i := int64(1); i < 1000; i++ {
		if err := s.append([]mlaas.LogLine{line(i)}); errors.Is(err, errFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		kept++
	}
	if kept == 999 {
		t.Fatal("it is never full")
	}
	if err := s.insist(mlaas.LogLine{Text: "full"}); err != nil {
		t.Error(err)
	}
	if err := s.ack(kept + 1); err != nil {
		t.Fatal(err)
	}
}

// Syncing covers every part, and minds none that went meanwhile.
func TestSpoolSync(t *testing.T) {
	s, err := openSpool[string](t.TempDir(), "log", 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for range 3 {
		if err := s.append([]string{strings.Repeat("x", partSize)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.parts); n != 3 {
		t.Fatalf("%d parts, want 3", n)
	}
	if err := s.sync(); err != nil {
		t.Errorf("three parts: %v", err)
	}
	if err := os.Remove(s.path(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.sync(); err != nil {
		t.Errorf("one was taken away: %v", err)
	}
	if err := os.Chmod(s.path(2), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.sync(); os.Geteuid() != 0 && err == nil {
		t.Error("one that cannot be opened is no error")
	}
}

// A door that knows more than the spool is believed.
func TestSpoolGap(t *testing.T) {
	s, err := openSpool[mlaas.LogLine](t.TempDir(), "log", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	s.append([]mlaas.LogLine{line(1)})
	if err := s.ack(10); err != nil {
		t.Fatal(err)
	}
	s.append([]mlaas.LogLine{line(11)})
	first, items, err := s.take(11, 10, 1000)
	if err != nil || first != 11 || len(items) != 1 {
		t.Errorf("%d, %v, %v", first, items, err)
	}
}

// A part that somebody removed or damaged is stood for, and what follows is
// still given.
func TestSpoolDamaged(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"removed": os.Remove,
		"cut":     func(path string) error { return os.Truncate(path, 0) },
		"zeroed":  func(path string) error { return os.WriteFile(path, make([]byte, partSize), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s, err := openSpool[mlaas.LogLine](t.TempDir(), "log", 1<<40)
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			s.blank = mlaas.LogLine{Text: "missing"}
			n := int64(0)
			for ; len(s.parts) < 4; n++ {
				if err := s.append([]mlaas.LogLine{{Text: strconv.FormatInt(n+1, 10) + strings.Repeat(".", 100<<10)}}); err != nil {
					t.Fatal(err)
				}
			}
			lost := s.parts[1]
			if err := damage(s.path(lost.first)); err != nil {
				t.Fatal(err)
			}
			for seq := int64(1); seq <= n; {
				first, items, err := s.take(seq, 1000, 256<<10)
				if err != nil || first != seq || len(items) == 0 {
					t.Fatalf("from %d: %d, %d items, %v", seq, first, len(items), err)
				}
				for _, it := range items {
					want := strconv.FormatInt(seq, 10)
					if seq >= lost.first && seq < lost.next() {
						want = "missing"
					}
					if got := strings.TrimRight(it.Text, "."); got != want {
						t.Errorf("%d is %.20q, want %s", seq, got, want)
					}
					seq++
				}
			}
		})
	}
}

func TestPoint(t *testing.T) {
	tests := []struct {
		text  string
		wrong bool
	}{
		{`["loss", 1, 1700000000000, 0.5]`, false},
		{`["loss", 1, 1700000000000, "NaN"]`, false},
		{`["loss", -1, 0, "-Infinity"]`, false},
		{`["loss", 1, 1, 1e400]`, false},
		{`["loss", 1, 1]`, true},
		{`["loss", 1, 1, 1, 1]`, true},
		{`["", 1, 1, 1]`, true},
		{`["a\nb", 1, 1, 1]`, true},
		{`["loss", 1.5, 1, 1]`, true},
		{`["loss", 1e300, 1, 1]`, true},
		{`["loss", "NaN", 1, 1]`, true},
		{`["loss", 1, 1, "x"]`, true},
		{`[1, 1, 1, 1]`, true},
		{`{}`, true},
		{`null`, true},
		{`["` + strings.Repeat("k", 300) + `", 1, 1, 1]`, true},
	}
	for _, tt := range tests {
		var p point
		if err := json.Unmarshal([]byte(tt.text), &p); err != nil || p.wrong != tt.wrong {
			t.Errorf("%s: wrong %v, %v; want %v", tt.text, p.wrong, err, tt.wrong)
		}
	}
}

func TestEntry(t *testing.T) {
	tests := []struct {
		files []string
		want  string
		err   string
	}{
		{[]string{"main.py", "b.py"}, "main.py", ""},
		{[]string{"train.py", "data.csv"}, "train.py", ""},
		{[]string{"a.py", "b.py"}, "", "no file to start: name a command, or have a main.py; the code has a.py, b.py"},
		{nil, "", "no file to start: name a command, or have a main.py; the code has no files"},
	}
	for _, tt := range tests {
		dir := t.TempDir()
		for _, f := range tt.files {
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := entryOf(dir)
		if got != tt.want || fmt.Sprint(err) != tt.err && (err != nil || tt.err != "") {
			t.Errorf("%v: %q, %v", tt.files, got, err)
		}
	}
}

// Two supervisors of one folder: one of them runs the program.
// A disk that was full leaves a line where something is missing, although there
// was no room for that line either.
func TestGapIsSaid(t *testing.T) {
	s := &Supervisor{Now: time.Now, wake: make(chan struct{}, 1)}
	var err error
	if s.lines, err = openSpool[mlaas.LogLine](t.TempDir(), "log", 1<<20); err != nil {
		t.Fatal(err)
	}
	defer s.lines.close()
	text := func(text string) mlaas.LogLine { return mlaas.LogLine{Text: text} }
	s.log(text("one"))
	file := s.lines.file
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	s.lines.file = full
	s.log(text("two"), text("three"))
	s.log(text("four"))
	s.lines.file = file
	full.Close()
	s.log(text("five"))
	s.log(text("six"))
	_, got, err := s.lines.take(1, 100, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, l := range got {
		texts = append(texts, l.Text)
	}
	want := []string{"one", "3 lines and points have been dropped so far; there is room again", "five", "six"}
	if !slices.Equal(texts, want) || s.dropped != 3 {
		t.Errorf("kept %q, want %q; %d dropped", texts, want, s.dropped)
	}
}

// What the user adds to the paths comes first; ours stay, or the program could
// not import mlaas.
func TestVariables(t *testing.T) {
	s := &Supervisor{Config: Config{Folder: "/r", Fence: mlaas.Fence{Run: "r", Epoch: 1, Replica: "worker-0"}}}
	ours := map[string]string{"PATH": "/venv/bin:/usr/bin", "PYTHONPATH": "/lib/mlaas"}
	tests := []struct {
		user         map[string]string
		path, python string
	}{
		{nil, "/venv/bin:/usr/bin", "/lib/mlaas/_site:/lib/mlaas"},
		{map[string]string{"PYTHONPATH": "src:/x"}, "/venv/bin:/usr/bin", "/lib/mlaas/_site:src:/x:/lib/mlaas"},
		{map[string]string{"PYTHONPATH": "", "PATH": "/mine:/usr/bin"}, "/mine:/usr/bin:/venv/bin", "/lib/mlaas/_site:/lib/mlaas"},
	}
	for _, tt := range tests {
		start := mlaas.Start{Environment: mlaas.Environment{Variables: tt.user}}
		env := s.variables(start, &Runtime{Variables: ours, Site: "/lib/mlaas/_site"}, "/r/run/mlaas.sock")
		for _, want := range []string{"PATH=" + tt.path, "PYTHONPATH=" + tt.python, "MLAAS_REPLICA=worker-0"} {
			if !slices.Contains(env, want) {
				t.Errorf("%v: no %s in %q", tt.user, want, env)
			}
		}
	}
}

// A disk that is full for a while costs a program time, and not its life.
func TestRoomily(t *testing.T) {
	full := fmt.Errorf("the folder: %w", syscall.ENOSPC)
	tests := []struct {
		name   string
		errors []error // of one try after the other
		want   error
	}{
		{"room at once", []error{nil}, nil},
		{"room later", []error{full, mlaas.ErrDisk, nil}, nil},
		{"another error", []error{full, mlaas.ErrInvalid}, mlaas.ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Supervisor{Now: time.Now, wake: make(chan struct{}, 1)}
				n := 0
				err := s.roomily(t.Context(), func() error {
					n++
					return tt.errors[n-1]
				})
				if !errors.Is(err, tt.want) || n != len(tt.errors) {
					t.Errorf("ends with %v after %d tries, want %v after %d", err, n, tt.want, len(tt.errors))
				}
				if said := s.phase.Reason; n > 1 && !strings.Contains(said, "waiting for room") {
					t.Errorf("said %q meanwhile", said)
				}
			})
		})
	}
}

func TestClaim(t *testing.T) {
	dir := t.TempDir()
	lock, err := Claim(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(t.Context(), dir); !errors.Is(err, ErrClaimed) {
		t.Errorf("while the first lives: %v", err)
	}
	lock.Close()
	if _, err := Claim(t.Context(), dir); !errors.Is(err, ErrClaimed) {
		t.Errorf("after the first: %v", err)
	}
}

func BenchmarkLine(b *testing.B) {
	s, err := openSpool[mlaas.LogLine](b.TempDir(), "log", 1<<40)
	if err != nil {
		b.Fatal(err)
	}
	defer s.close()
	c := &cutter{stream: "stdout", now: time.Now}
	text := []byte(fmt.Sprintf("step %d loss %f accuracy %f\n", 100, rand.Float64(), rand.Float64()))
	b.ReportAllocs()
	for i := range b.N {
		s.append(c.cut(text))
		s.ack(int64(i))
	}
}

// Parts of getting ready that go on at once have a time each; several of one
// name are one, which ends with the last.
func TestStage(t *testing.T) {
	now := time.Unix(1000, 0)
	s := &Supervisor{Now: func() time.Time { now = now.Add(time.Second); return now }}
	code, first := s.stage(mlaas.StageCode), s.stage(mlaas.StageData)
	second := s.stage(mlaas.StageData)
	code()
	held := s.phase
	first()
	second()
	is := s.phase
	if len(is.Stages) != 2 || is.Stages[0].Name != mlaas.StageCode || is.Stages[0].Ended.Sub(is.Stages[0].Began) != 2*time.Second {
		t.Errorf("stages are %+v", is.Stages)
	}
	if data := is.Stages[1]; data.Name != mlaas.StageData || data.Ended.Sub(data.Began) != 3*time.Second {
		t.Errorf("fetching data is %+v", data)
	}
	if held.Stages[1].Ended != nil {
		t.Error("what was being sent has changed")
	}
}
