package compose

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// literal is v as a literal of Python: a text, a number, a truth value, or a
// list or tuple of these. Every value of a description goes into a program
// through here. A text becomes ASCII between double quotes, with an escape for
// everything that is not a letter, a digit or plain punctuation, so that it
// ends where it should whatever is in it.
func literal(v any) string {
	switch v := v.(type) {
	case string:
		return quoted(v)
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		text := strconv.FormatFloat(v, 'g', -1, 64)
		switch {
		case math.IsNaN(v) || math.IsInf(v, 0):
			return "float(" + quoted(text) + ")"
		case !strings.ContainsAny(text, ".e"):
			text += ".0"
		}
		return text
	case bool:
		if v {
			return "True"
		}
		return "False"
	case nil:
		return "None"
	case []int: // a shape
		return shapeText(v)
	case []string:
		var parts []string
		for _, s := range v {
			parts = append(parts, quoted(s))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	panic(fmt.Sprintf("compose: no literal for %T", v)) // a mistake in a template of ours
}

func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			b.WriteString(`\ufffd`)
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r >= ' ' && r <= '~':
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
