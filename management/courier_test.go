package management

import (
	"strings"
	"testing"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/series"
)

// A long event is several lines; what is missing between them is told, and
// nothing is joined over it.
func TestParts(t *testing.T) {
	long := `{"type":"stream","name":"stdout","text":"` + strings.Repeat("a}", 100) + `"}`
	line := func(cursor int64, stream, text string, part int) series.Line {
		return series.Line{Cursor: cursor, LogLine: mlaas.LogLine{Stream: stream, Text: text, Part: part}}
	}
	var p parts
	tests := []struct {
		line  series.Line
		whole bool
		text  string
	}{
		{line(1, mlaas.KernelStream, `{"type":"stream","name":"stdout","text":"x"}`, 0), true, "x"},
		{line(2, mlaas.KernelStream, long[:60], 1), false, ""}, // ends with a brace, and is no JSON
		{line(3, mlaas.KernelStream, long[60:], 2), true, strings.Repeat("a}", 100)},
		{line(4, mlaas.KernelStream, long[:60], 1), false, ""},
		{line(5, "platform", "1 line is not here any more", 0), true, "1 line is not here any more\n"},
		{line(6, mlaas.KernelStream, `{"type":"stream","name":"stdout","text":"y"}`, 0), true, "y"},
	}
	for _, tt := range tests {
		e, whole := p.add(tt.line)
		if whole != tt.whole || e.Text != tt.text {
			t.Errorf("line %d: %v %q, want %v %q", tt.line.Cursor, whole, e.Text, tt.whole, tt.text)
		}
		if whole && e.Seq != tt.line.Cursor {
			t.Errorf("line %d: its number is %d", tt.line.Cursor, e.Seq)
		}
	}
}
