package management

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
)

// The OpenAPI document is made from the table of routes and the Go types, and
// compared with testdata/openapi.yaml by a test.

// takes says what type the body of a request is, where the handler reads it
// later: new(T).
func (h handler) takes(v any) handler {
	h.asks = reflect.TypeOf(v).Elem()
	return h
}

// gives says what type a raw answer is, or each line of it: new(T).
func (h handler) gives(v any) handler {
	h.out = reflect.TypeOf(v).Elem()
	return h
}

// bytes says that the body of a request is bytes.
func (h handler) bytes() handler {
	h.takesBytes = true
	return h
}

// Schemas of the vocabulary whose JSON is not the one of their Go type. What
// comes in may be written in more ways than what goes out.
type (
	cpuOut    string
	bytesOut  string
	gpuOut    int
	secondsIn float64
	number    float64
	sample    []any
	cpuIn     string
	bytesIn   string
	gpuIn     int
	countIn   int
)

func text(doc string, examples ...any) *huma.Schema {
	return &huma.Schema{Type: "string", Description: doc, Examples: examples}
}

func oneOf(doc string, examples []any, all ...*huma.Schema) *huma.Schema {
	return &huma.Schema{Description: doc, Examples: examples, OneOf: all}
}

func gpuObject() *huma.Schema {
	return &huma.Schema{Type: "object", Required: []string{"count"}, AdditionalProperties: false, Properties: map[string]*huma.Schema{
		"count": {Type: "integer"}, "kind": {Type: "string", Examples: []any{"h200"}}}}
}

// Schema implements huma.SchemaProvider.
func (cpuOut) Schema(huma.Registry) *huma.Schema {
	return text("An amount of processor: cores, or thousandths of one with m", "300m", "2")
}

// Schema implements huma.SchemaProvider.
func (bytesOut) Schema(huma.Registry) *huma.Schema {
	return text("An amount of memory or disk, in bytes or with Ki, Mi, Gi, Ti", "256Mi", "1.5Gi")
}

// Schema implements huma.SchemaProvider.
func (gpuOut) Schema(huma.Registry) *huma.Schema {
	return oneOf("A number of GPUs, with their kind where it matters", []any{1}, &huma.Schema{Type: "integer"}, gpuObject())
}

// Schema implements huma.SchemaProvider.
func (secondsIn) Schema(huma.Registry) *huma.Schema {
	return oneOf("Seconds, or a text such as 90s or 5m", []any{90, "5m"}, &huma.Schema{Type: "number"}, &huma.Schema{Type: "string"})
}

// Schema implements huma.SchemaProvider.
func (number) Schema(huma.Registry) *huma.Schema {
	return oneOf("A number; NaN and the infinities are words", []any{0.25, "NaN"}, &huma.Schema{Type: "number"},
		&huma.Schema{Type: "string", Enum: []any{"NaN", "Infinity", "-Infinity"}})
}

// Schema implements huma.SchemaProvider.
func (sample) Schema(r huma.Registry) *huma.Schema {
	three, five := 3, 5
	return &huma.Schema{Type: "array", MinItems: &three, MaxItems: &five, Items: number(0).Schema(r),
		Description: "[step, time, value], or of a bucket [step, time, min, max, last]; time in Unix milliseconds",
		Examples:    []any{[]any{100, 1767225600000, 0.25}}}
}

// Schema implements huma.SchemaProvider.
func (cpuIn) Schema(huma.Registry) *huma.Schema {
	return oneOf("An amount of processor: cores, or thousandths of one with m", []any{"300m", 0.3, 2}, &huma.Schema{Type: "number"}, &huma.Schema{Type: "string"})
}

// Schema implements huma.SchemaProvider.
func (bytesIn) Schema(huma.Registry) *huma.Schema {
	return oneOf("An amount of memory, in bytes or with k, M, G, Ki, Mi, Gi", []any{"256Mi", "1.5Gi", 1610612736}, &huma.Schema{Type: "number"}, &huma.Schema{Type: "string"})
}

// Schema implements huma.SchemaProvider.
func (gpuIn) Schema(r huma.Registry) *huma.Schema { return gpuOut(0).Schema(r) }

// Schema implements huma.SchemaProvider.
func (countIn) Schema(huma.Registry) *huma.Schema {
	return oneOf("How many: N (of workers: at most N, at least 1), min and max, or a text such as 2-8", []any{4, "2-8", map[string]any{"min": 1, "max": 4}},
		&huma.Schema{Type: "integer"}, &huma.Schema{Type: "string"}, &huma.Schema{Type: "object", AdditionalProperties: false,
			Properties: map[string]*huma.Schema{"min": {Type: "integer"}, "max": {Type: "integer"}}})
}

// needed are the fields without which the types of the vocabulary cannot be
// written; all others have a default.
var needed = map[reflect.Type][]string{
	reflect.TypeFor[mlaas.JobSpec]():    {"name"},
	reflect.TypeFor[mlaas.Data]():       {"name", "source"},
	reflect.TypeFor[mlaas.SecretUse]():  {"secret", "variable"},
	reflect.TypeFor[mlaas.ActionRule](): {"name", "on", "do"},
	reflect.TypeFor[mlaas.File]():       {"path", "digest", "size"},
	reflect.TypeFor[mlaas.Tree]():       {"files"},
	reflect.TypeFor[SecretValue]():      {"name", "value"},
	reflect.TypeFor[DatasetAsk]():       {"name", "files"},
	reflect.TypeFor[LockChoice]():       {"lock"},
}

// schemas is two registries in one document: of what goes out, where a field
// is there unless it may be left away, and of what comes in, where most may.
type schemas struct {
	huma.Registry
	in huma.Registry
}

const schemaPrefix = "#/components/schemas/"

func newSchemas() schemas {
	named := func(t reflect.Type, hint string) string {
		name := huma.DefaultSchemaNamer(t, hint)
		if rest, ok := strings.CutPrefix(name, "List"); ok && rest != "" {
			return rest + "List"
		}
		return name
	}
	s := schemas{huma.NewMapRegistry(schemaPrefix, named), huma.NewMapRegistry(schemaPrefix, func(t reflect.Type, hint string) string { return named(t, hint) + "Input" })}
	for _, r := range []huma.Registry{s.Registry, s.in} {
		r.RegisterTypeAlias(reflect.TypeFor[mlaas.Seconds](), reflect.TypeFor[secondsIn]())
		r.RegisterTypeAlias(reflect.TypeFor[mlaas.Number](), reflect.TypeFor[number]())
		r.RegisterTypeAlias(reflect.TypeFor[Sample](), reflect.TypeFor[sample]())
	}
	s.RegisterTypeAlias(reflect.TypeFor[mlaas.MilliCPU](), reflect.TypeFor[cpuOut]())
	s.RegisterTypeAlias(reflect.TypeFor[mlaas.Bytes](), reflect.TypeFor[bytesOut]())
	s.RegisterTypeAlias(reflect.TypeFor[mlaas.GPU](), reflect.TypeFor[gpuOut]())
	s.in.RegisterTypeAlias(reflect.TypeFor[mlaas.MilliCPU](), reflect.TypeFor[cpuIn]())
	s.in.RegisterTypeAlias(reflect.TypeFor[mlaas.Bytes](), reflect.TypeFor[bytesIn]())
	s.in.RegisterTypeAlias(reflect.TypeFor[mlaas.GPU](), reflect.TypeFor[gpuIn]())
	s.in.RegisterTypeAlias(reflect.TypeFor[mlaas.Count](), reflect.TypeFor[countIn]())
	return s
}

// Map implements huma.Registry.
func (s schemas) Map() map[string]*huma.Schema {
	all := maps.Clone(s.Registry.Map())
	maps.Copy(all, s.in.Map())
	return all
}

// MarshalJSON is how the document has both.
func (s schemas) MarshalJSON() ([]byte, error) { return json.Marshal(s.Map()) }

// settle corrects what huma cannot know of our types: lists are never null,
// and of what comes in only little must be there.
func (s schemas) settle() {
	for name, schema := range s.Map() {
		s.plain(schema)
		if t := s.Registry.TypeFromRef(schemaPrefix + name); t == reflect.TypeFor[mlaas.Job]() {
			schema.Properties["results"] = &huma.Schema{OneOf: []*huma.Schema{schema.Properties["results"], {Type: "null"}}}
		}
		if t := s.in.TypeFromRef(schemaPrefix + name); t != nil {
			schema.Required = needed[t]
		}
	}
}

func (s schemas) plain(schema *huma.Schema) {
	if schema == nil {
		return
	}
	if schema.Type == huma.TypeArray {
		schema.Nullable = false
	}
	s.plain(schema.Items)
	for _, p := range schema.Properties {
		s.plain(p)
	}
	if a, ok := schema.AdditionalProperties.(*huma.Schema); ok {
		s.plain(a)
	}
}

// OpenAPI is the document of the whole API.
func (m *Management) OpenAPI() *huma.OpenAPI {
	s := newSchemas()
	doc := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{Title: "mlaas", Version: "1",
			Description: "Machine learning as a service: jobs, runs, replicas, logs, metrics, datasets. Every answer of 400 and more is a Problem. " +
				"A POST takes an Idempotency-Key for 24 h. Lists take limit and page_token. A repeated field or one that does not exist is refused, with its name.",
			License: &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}},
		Components: &huma.Components{Schemas: s, SecuritySchemes: map[string]*huma.SecurityScheme{
			"token":   {Type: "http", Scheme: "bearer", Description: "The token that mlaas up writes to DIR/token"},
			"session": {Type: "apiKey", In: "cookie", Name: auth.Cookie, Description: "A browser that came by a login link"},
		}},
		Security: []map[string][]string{{"token": {}}, {"session": {}}},
	}
	problem := s.Schema(reflect.TypeFor[Problem](), true, "Problem")
	tags := map[string]bool{}
	for _, rt := range m.routes() {
		op := rt.operation(s, problem)
		for _, t := range op.Tags {
			tags[t] = true
		}
		doc.AddOperation(op)
	}
	for _, t := range slices.Sorted(maps.Keys(tags)) {
		doc.Tags = append(doc.Tags, &huma.Tag{Name: t})
	}
	s.settle()
	return doc
}

// operation is what the document says of a route.
func (rt route) operation(s schemas, problem *huma.Schema) *huma.Operation {
	method, pattern, _ := strings.Cut(rt.Call, " ")
	op := &huma.Operation{Method: method, Path: strings.ReplaceAll(pattern, "...}", "}"), OperationID: rt.ID, Summary: rt.Doc, Tags: []string{tagOf(pattern)},
		Responses: map[string]*huma.Response{}, Extensions: map[string]any{"x-policy": string(rt.Policy)}}
	if rt.Policy == auth.Public {
		op.Security = []map[string][]string{}
	}
	for _, f := range rt.in.fields {
		schema := huma.SchemaFromField(s, f.StructField, "")
		schema.Description, schema.Nullable = "", false
		p := &huma.Param{Name: f.name, In: f.from, Description: f.Tag.Get("doc"), Required: f.from == "path", Schema: schema}
		if e, ok := f.Tag.Lookup("example"); ok && schema.Examples == nil {
			p.Example = e
		}
		op.Parameters = append(op.Parameters, p)
	}
	if rt.creates && method == http.MethodPost {
		op.Parameters = append(op.Parameters, &huma.Param{Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: "string"}, Example: "01k9p2q0000000000000000000",
			Description: "Makes a repeated request the same one, for 24 h: it is answered as the first was. With another request it is a 422"})
	}
	op.RequestBody = rt.request(s)
	status := rt.status
	op.Responses[strconv.Itoa(status)] = rt.response(s, status)
	if rt.other != 0 {
		op.Responses[strconv.Itoa(rt.other)] = rt.response(s, rt.other)
	}
	for status, why := range rt.refusals(op) {
		op.Responses[strconv.Itoa(status)] = &huma.Response{Description: why, Content: map[string]*huma.MediaType{"application/problem+json": {Schema: problem}}}
	}
	op.Responses["default"] = &huma.Response{Description: "Any other failure", Content: map[string]*huma.MediaType{"application/problem+json": {Schema: problem}}}
	return op
}

func tagOf(pattern string) string {
	parts := strings.Split(strings.Trim(pattern, "/"), "/")
	if parts[0] != "api" {
		return "platform"
	}
	if len(parts) > 3 && parts[1] == "job" && parts[3] != "restore" {
		return parts[3]
	}
	return parts[1]
}

func (rt route) request(s schemas) *huma.RequestBody {
	body := &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{}}
	t := rt.asks
	if t == nil && rt.in.body != nil {
		t = rt.in.body.Type
	}
	switch {
	case rt.takesBytes:
		body.Content[octets] = &huma.MediaType{Schema: &huma.Schema{Type: "string", Format: "binary"}}
		return body
	case rt.in.upload != nil:
		t = reflect.TypeFor[FilesAsk]()
		for _, media := range []string{"application/zip", "application/gzip"} {
			body.Content[media] = &huma.MediaType{Schema: &huma.Schema{Type: "string", Format: "binary"}}
		}
	case t == nil:
		return nil
	}
	media := "application/json"
	if strings.HasPrefix(rt.Call, http.MethodPatch) {
		media = "application/merge-patch+json"
	}
	body.Content[media] = &huma.MediaType{Schema: s.in.Schema(t, true, rt.ID), Example: examples[rt.ID]}
	if rt.in.body != nil {
		body.Description = rt.in.body.Tag.Get("doc")
		body.Required = rt.in.body.Tag.Get("body") != "optional"
	}
	return body
}

func (rt route) response(s schemas, status int) *huma.Response {
	says := map[int]string{200: "Done", 201: "Made", 202: "Asked for", 204: "Done; there is nothing to say"}[status]
	if rt.other == 200 && status == 200 {
		says = "Equal content is there already: this is it"
	}
	res := &huma.Response{Description: says, Headers: map[string]*huma.Param{
		"X-Request-Id": {Description: "Names the request in the platform's log", Schema: &huma.Schema{Type: "string"}}}}
	media := rt.media
	if media == "" {
		media = "application/json"
	}
	switch {
	case status == http.StatusNoContent || strings.HasPrefix(rt.Call, http.MethodHead):
	case rt.out != nil:
		res.Content = map[string]*huma.MediaType{media: {Schema: s.Schema(rt.out, true, rt.ID)}}
	case media == "application/json", media == "application/yaml":
		res.Content = map[string]*huma.MediaType{media: {Schema: &huma.Schema{Type: "object", AdditionalProperties: true}}}
	case media == octets:
		res.Content = map[string]*huma.MediaType{media: {Schema: &huma.Schema{Type: "string", Format: "binary"}}}
	default:
		res.Content = map[string]*huma.MediaType{media: {Schema: &huma.Schema{Type: "string"}}}
	}
	for _, media := range rt.files {
		res.Content[media] = &huma.MediaType{Schema: &huma.Schema{Type: "string", Format: "binary"}}
	}
	if status == http.StatusCreated {
		res.Headers["Location"] = &huma.Param{Description: "Where it is", Schema: &huma.Schema{Type: "string"}}
	}
	return res
}

// refusals are the problems that a route may answer with.
func (rt route) refusals(op *huma.Operation) map[int]string {
	all := map[int]string{}
	if rt.Policy != auth.Public {
		all[401] = "It is not known who is asking"
		all[403] = "This is not allowed to who is asking"
	}
	for _, p := range op.Parameters {
		switch {
		case p.In == "path":
			all[404] = "There is no such thing"
		case p.Name == "If-Match":
			all[412] = "It was changed since it was read"
		}
		if p.In != "path" {
			all[422] = "A field is wrong; the problem names it"
		}
	}
	if op.RequestBody != nil {
		all[400] = "The body cannot be read"
		all[413] = "The body is over a limit"
		all[422] = "A field is wrong; the problem names it"
	}
	if rt.creates {
		all[409] = "This goes against what is there"
		all[507] = "There is no room left to keep this"
	}
	return all
}

// documents is the document as text, made once.
type documents struct {
	once       sync.Once
	json, yaml []byte
	err        error
}

func (m *Management) documented() *documents {
	d := &m.documents
	d.once.Do(func() {
		doc := m.OpenAPI()
		if d.json, d.err = json.Marshal(doc); d.err == nil {
			d.yaml, d.err = doc.YAML()
		}
	})
	return d
}

func (m *Management) openapiJSON(w http.ResponseWriter, _ *http.Request, _ *noIn) error {
	d := m.documented()
	if d.err != nil {
		return d.err
	}
	return document(w, "application/json", d.json)
}

func (m *Management) openapiYAML(w http.ResponseWriter, _ *http.Request, _ *noIn) error {
	d := m.documented()
	if d.err != nil {
		return d.err
	}
	return document(w, "application/yaml", d.yaml)
}

func document(w http.ResponseWriter, media string, text []byte) error {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.Write(text) //nolint:errcheck // who asked has gone; there is nobody to tell
	return nil
}

// examples are bodies as one would write them, by the name of the route. A
// test sends each of them.
var examples = map[string]any{
	"createJob": map[string]any{"name": "mnist", "environment": map[string]any{"framework": "tensorflow"},
		"roles":     map[string]any{"ps": map[string]any{"replicas": 1}, "worker": map[string]any{"replicas": map[string]any{"min": 1, "max": 2}, "cpu": "300m", "memory": "256Mi", "gpu": 0}},
		"execution": map[string]any{"command": []string{"python", "main.py"}, "parameters": map[string]any{"steps": 1000}}},
	"editJob":       map[string]any{"roles": map[string]any{"worker": map[string]any{"replicas": 4}}, "labels": map[string]any{"team": "vision"}},
	"pushCode":      map[string]any{"files": map[string]any{"main.py": "print('hello')\n"}},
	"putVersion":    map[string]any{"labels": map[string]any{"stage": "good"}},
	"startRun":      map[string]any{"version": "latest", "parameters": map[string]any{"steps": 100}},
	"pushDataset":   map[string]any{"files": map[string]any{"labels.csv": "a,b\n1,2\n"}},
	"setLock":       map[string]any{"lock": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
	"setSecret":     map[string]any{"name": "hub-token", "value": "hf_..."},
	"createDataset": map[string]any{"name": "tiny", "files": []any{map[string]any{"path": "empty.csv", "digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "size": 0}}},
}
