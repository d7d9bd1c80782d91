package supervisor

import (
	"bytes"
	"strings"
	"time"
	"unicode/utf8"

	"mlaas.dev/mlaas"
)

// barEvery is how often a progress bar, which draws itself again and again
// with \r, becomes a line. What it shows last always does.
const barEvery = 5 * time.Second

// A cutter makes lines of what a program writes to one stream. Its memory is
// bounded by [mlaas.MaxLine], however long a line is.
type cutter struct {
	stream string // stdout | stderr
	now    func() time.Time

	line []byte    // of the line that is not ended yet
	part int       // parts of it that are out; 0: none
	bar  bool      // line was ended by \r: what comes next replaces it
	said time.Time // when a bar was last let through
}

// cut returns the lines that p ends, and the parts of a line that is too long.
func (c *cutter) cut(p []byte) (out []mlaas.LogLine) {
	for len(p) > 0 {
		i := bytes.IndexAny(p, "\r\n")
		text := p
		if i >= 0 {
			text = p[:i]
		}
		if len(text) > 0 {
			if c.bar {
				out = c.bars(out)
			}
			for len(c.line)+len(text) > mlaas.MaxLine {
				n := mlaas.MaxLine - len(c.line)
				c.line = append(c.line, text[:n]...)
				text = text[n:]
				out = c.long(out)
			}
			c.line = append(c.line, text...)
		}
		if i < 0 {
			return out
		}
		if p[i] == '\r' {
			c.bar = true // unless \n follows
		} else {
			out = c.end(out)
		}
		p = p[i+1:]
	}
	return out
}

// bars is called where text follows a \r: the line that stood there is over.
func (c *cutter) bars(out []mlaas.LogLine) []mlaas.LogLine {
	c.bar = false
	if now := c.now(); len(c.line) > 0 && now.Sub(c.said) >= barEvery {
		c.said = now
		return c.end(out)
	}
	c.line, c.part = c.line[:0], 0
	return out
}

// long lets a part of a line through that has no end yet. A rune is not cut.
func (c *cutter) long(out []mlaas.LogLine) []mlaas.LogLine {
	n := len(c.line)
	for back := 1; back < utf8.UTFMax; back++ {
		if b := c.line[len(c.line)-back]; utf8.RuneStart(b) {
			if !utf8.FullRune(c.line[len(c.line)-back:]) {
				n -= back
			}
			break
		}
	}
	rest := bytes.Clone(c.line[n:])
	out = c.say(out, c.line[:n], true)
	c.line = append(c.line[:0], rest...)
	return out
}

// end lets the line through.
func (c *cutter) end(out []mlaas.LogLine) []mlaas.LogLine {
	if len(c.line) > 0 || c.part == 0 {
		out = c.say(out, c.line, c.part > 0)
	}
	c.line, c.part, c.bar = c.line[:0], 0, false
	return out
}

// rest is what was written without an end.
func (c *cutter) rest() (out []mlaas.LogLine) {
	if len(c.line) > 0 {
		out = c.end(out)
	}
	return out
}

// say adds a line, or a part of one. What is not UTF-8 is replaced, which may
// make it longer than a part may be.
func (c *cutter) say(out []mlaas.LogLine, line []byte, cut bool) []mlaas.LogLine {
	text := strings.ToValidUTF8(string(line), "\uFFFD")
	for {
		head := text
		if len(text) > mlaas.MaxLine {
			n := mlaas.MaxLine
			for !utf8.RuneStart(text[n]) {
				n--
			}
			head, cut = text[:n], true
		}
		l := mlaas.LogLine{Time: c.now().UTC(), Stream: c.stream, Text: head}
		if cut {
			c.part++
			l.Part = c.part
		}
		out = append(out, l)
		if text = text[len(head):]; text == "" {
			return out
		}
	}
}
