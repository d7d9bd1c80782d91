package main

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

// A screen is where a run is shown: lines go up, and on a terminal one bar
// stays at the bottom.
type screen struct {
	c     *cli
	bar   string
	drawn bool
}

// line prints one line above the bar. draw puts the bar back.
func (s *screen) line(to io.Writer, text string) {
	s.hide()
	fmt.Fprintln(to, text)
}

// hide takes the bar away.
func (s *screen) hide() {
	if s.drawn {
		fmt.Fprint(s.c.Err, "\r\x1b[K")
		s.drawn = false
	}
}

// draw shows the bar as it is now. Without a terminal there is none.
func (s *screen) draw() {
	if s.c.Width == nil || s.c.quiet || s.bar == "" {
		return
	}
	fmt.Fprint(s.c.Err, "\r\x1b[K"+cut(s.bar, s.c.Width()-1))
	s.drawn = true
}

// cut shortens a text to a width. Colours take none.
func cut(text string, width int) string {
	var b strings.Builder
	used, coloured := 0, false
	for len(text) > 0 {
		if loc := colours.FindStringIndex(text); loc != nil && loc[0] == 0 {
			b.WriteString(text[:loc[1]])
			text, coloured = text[loc[1]:], true
			continue
		}
		r, n := utf8.DecodeRuneInString(text)
		if used++; used > width {
			break
		}
		b.WriteRune(r)
		text = text[n:]
	}
	if coloured {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

var (
	colours = regexp.MustCompile(`\x1b\[[0-9;]*m`)
	escapes = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(\x07|\x1b\\)?|.?)`)
)

// clean makes a line of a program safe for a terminal: its colours stay, what
// would move the cursor goes, and of a line that overwrote itself, as progress
// bars do, the last state is shown.
func clean(text string, colour bool) string {
	text = strings.TrimRight(text, "\r")
	if i := strings.LastIndexByte(text, '\r'); i >= 0 {
		text = text[i+1:]
	}
	text = escapes.ReplaceAllStringFunc(text, func(s string) string {
		if colour && colours.FindString(s) == s {
			return s
		}
		return ""
	})
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' && r != '\x1b' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
			return -1
		}
		return r
	}, text)
}

// A printer writes log lines, each with the replica that said it where there
// are several.
type printer struct {
	c     *cli
	alone bool // there is one replica: its lines stand as they are
	times bool
	wide  int
	lane  map[string]colour
}

func (p *printer) format(l client.Line) string {
	text := l.Text
	if p.c.Terminal {
		text = clean(text, p.c.colourOut())
	}
	switch l.Stream {
	case "platform":
		text = p.c.paintOut(dim, text)
	case mlaas.ContainerStream: // its supervisor never delivered a line
		text = p.c.paintOut(dim, "container: "+text)
	}
	if !p.alone {
		if p.lane == nil {
			p.lane = map[string]colour{}
		}
		lane, ok := p.lane[l.Replica]
		if !ok {
			lane = lanes[len(p.lane)%len(lanes)]
			p.lane[l.Replica] = lane
		}
		p.wide = max(p.wide, len(l.Replica))
		text = p.c.paintOut(lane, fmt.Sprintf("%-*s |", p.wide, l.Replica)) + " " + text
	}
	if p.times {
		at := strings.Repeat(" ", 24) // nobody noted it
		if !l.Time.IsZero() {
			at = l.Time.UTC().Format("2006-01-02T15:04:05.000Z")
		}
		text = at + " " + text
	}
	return text
}
