package mlaas

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxDepth is how deeply a JSON text that comes from outside may be nested.
const MaxDepth = 64

// ReadJob reads what a user wrote of a job, strictly, fills in every default
// and checks it. Management and the command line read jobs by nothing else, so
// that they agree on what is right.
func ReadJob(data []byte) (spec JobSpec, err error) {
	if err := Decode(data, &spec); err != nil {
		return spec, err
	}
	spec.Complete()
	return spec, spec.Check()
}

// Decode reads a JSON text into what v points to, strictly: a field that does
// not exist, or one of another type, is a [FieldError] that names it by its
// path, such as "roles.worker.cpu". What is no JSON at all is an [ErrSyntax]
// that says where.
func Decode(data []byte, v any) error {
	if err := readable(data); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		return nil
	}
	// The decoder does not say where. What is right never comes here.
	if found := misfit("", data, reflect.TypeOf(v)); found != nil {
		return found
	}
	return fmt.Errorf("%w: %w", err, ErrInvalid)
}

// readable reports why data is no JSON text that may be looked at.
func readable(data []byte) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return fmt.Errorf("there is no JSON: it is empty: %w", ErrSyntax)
	}
	if !utf8.Valid(data) {
		return fmt.Errorf("this is no JSON: it is not UTF-8: %w", ErrSyntax)
	}
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > MaxDepth {
				return fmt.Errorf("the JSON is nested more than %d deep: %w", MaxDepth, ErrSyntax)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	var raw json.RawMessage
	err := json.Unmarshal(data, &raw)
	if at, ok := errors.AsType[*json.SyntaxError](err); ok {
		before := data[:max(0, min(int(at.Offset), len(data)))]
		line := bytes.Count(before, []byte("\n")) + 1
		column := len(before) - bytes.LastIndexByte(before, '\n') - 1
		return fmt.Errorf("this is no JSON: line %d, column %d: %v: %w", line, column, err, ErrSyntax)
	}
	return err
}

// misfit finds the first part of raw that a t cannot be read from.
func misfit(at string, raw json.RawMessage, t reflect.Type) error {
	raw = bytes.TrimSpace(raw)
	null := string(raw) == "null"
	for t.Kind() == reflect.Pointer {
		if null && at != "" {
			return nil
		}
		t = t.Elem()
	}
	wrong := func(want string) error {
		field := at
		if field == "" {
			field = "body"
		}
		return Invalid(field, want, shown(raw))
	}
	if u, ok := reflect.New(t).Interface().(json.Unmarshaler); ok {
		err := u.UnmarshalJSON(raw)
		if f, ok := errors.AsType[*FieldError](err); ok && at != "" {
			return Invalid(at, f.Want, f.Got)
		}
		if err != nil {
			return wrong("what it is elsewhere: " + err.Error())
		}
		return nil
	}
	if null && at != "" {
		return nil // as if it were not there
	}
	switch t.Kind() {
	case reflect.Struct:
		return misfitFields(at, raw, t, wrong)
	case reflect.Map:
		keys, values, ok := members(raw)
		if !ok {
			return wrong("an object")
		}
		for i, k := range keys {
			if err := misfit(below(at, k), values[i], t.Elem()); err != nil {
				return err
			}
		}
	case reflect.Slice, reflect.Array:
		var items []json.RawMessage
		if json.Unmarshal(raw, &items) != nil {
			return wrong("a list")
		}
		for i, item := range items {
			if err := misfit(at+"["+strconv.Itoa(i)+"]", item, t.Elem()); err != nil {
				return err
			}
		}
	default:
		want := map[reflect.Kind]string{reflect.String: "a text", reflect.Bool: "true or false",
			reflect.Float64: "a number", reflect.Float32: "a number"}[t.Kind()]
		if want == "" {
			want = "a whole number"
		}
		if json.Unmarshal(raw, reflect.New(t).Interface()) != nil {
			return wrong(want)
		}
	}
	return nil
}

func misfitFields(at string, raw json.RawMessage, t reflect.Type, wrong func(string) error) error {
	keys, values, ok := members(raw)
	if !ok {
		return wrong("an object")
	}
	var names []string
	types := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && name != "" && name != "-" {
			names, types[name] = append(names, name), f.Type
		}
	}
	for i, k := range keys {
		field, ok := types[k]
		if !ok {
			// The decoder takes a name in any case.
			if j := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, k) }); j >= 0 {
				field, ok = types[names[j]], true
			}
		}
		if !ok {
			return Invalid(below(at, k), meant(k, names), noField{})
		}
		if err := misfit(below(at, k), values[i], field); err != nil {
			return err
		}
	}
	return nil
}

// noField is what a field that does not exist is.
type noField struct{}

// GoString is how a FieldError says it.
func (noField) GoString() string { return "not a field" }

func below(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

// members are the fields of a JSON object in their order.
func members(raw json.RawMessage) (keys []string, values []json.RawMessage, ok bool) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, nil, false
	}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return nil, nil, false
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, nil, false
		}
		keys, values = append(keys, k.(string)), append(values, v)
	}
	return keys, values, true
}

// shown is a JSON value as an error shows it.
func shown(raw json.RawMessage) any {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return string(raw)
	}
	switch v.(type) {
	case map[string]any:
		return said("an object")
	case []any:
		return said("a list")
	case nil:
		return said("null")
	}
	return v
}

// said is a phrase rather than a text that someone wrote.
type said string

// GoString is how a FieldError says it.
func (s said) GoString() string { return string(s) }

// meant is the name that was meant by one that is wrong, or all there are.
func meant(wrong string, names []string) string {
	best, least := "", 3
	for _, n := range names {
		if d := distance(strings.ToLower(wrong), strings.ToLower(n)); d < least {
			best, least = n, d
		}
	}
	switch {
	case best != "":
		return best
	case len(names) == 0:
		return "none"
	}
	return "one of " + strings.Join(slices.Sorted(slices.Values(names)), ", ")
}

// distance is how many letters to add, drop or change to get from a to b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		last := row[0]
		row[0] = i + 1
		for j := range b {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
