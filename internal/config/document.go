package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	yamlnode "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// maxFileSize bounds what is read of one file; real ones have a few KiB.
const maxFileSize = 4 << 20

// schema is what a configuration file has to be.
type schema struct {
	apiVersion, kind string
	fields           reflect.Type
}

func kubeletSchema() schema {
	return schema{kubeletconfig.SchemeGroupVersion.String(), "KubeletConfiguration", reflect.TypeFor[kubeletconfig.KubeletConfiguration]()}
}

// document is one configuration file, decoded but not yet typed.
type document struct {
	name   string
	schema schema
	// tree holds maps, lists, json.Number, strings, booleans and nil.
	tree map[string]any
	// lines maps a field's path to the line that it stands on. It is empty if
	// the positions could not be found.
	lines map[string]int
	// repeated are the paths of keys that occur twice in one mapping, with the
	// line of the later one, which is the one that counts.
	repeated map[string]int
}

func (d *document) at(line int) string {
	if line <= 0 {
		return d.name
	}
	return d.name + ":" + strconv.Itoa(line)
}

func (d *document) problem(path, format string, args ...any) Problem {
	line := 0
	for p := path; p != "" && line == 0; p = parentPath(p) {
		line = d.lines[p]
	}
	return Problem{Source: d.at(line), Field: path, Reason: fmt.Sprintf(format, args...)}
}

// readDocument reads and decodes a file. An empty file is an error, because a
// truncated one would otherwise silently mean "all defaults".
func readDocument(name string, as schema) (*document, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, Errors{{Source: name, Reason: "cannot be read: " + reasonOf(err)}}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, Errors{{Source: name, Reason: "cannot be read: " + reasonOf(err)}}
	}
	if len(data) > maxFileSize {
		return nil, Errors{{Source: name, Reason: fmt.Sprintf("is larger than %d MiB", maxFileSize>>20)}}
	}
	return parseDocument(name, data, as)
}

// reasonOf drops the operation and the path of an error, which are said anyway.
func reasonOf(err error) string {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}

// yamlLine finds the line number in a message of the YAML parser.
var yamlLine = regexp.MustCompile(`^(?:error converting YAML to JSON: )?yaml: (?:unmarshal errors:\s*)?line (\d+): (.*)`)

// parseDocument decodes YAML or JSON and checks that it is of the kind that is
// wanted, of the one version there is.
func parseDocument(name string, data []byte, as schema) (*document, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, Errors{{Source: name, Reason: "is empty"}}
	}
	d := &document{name: name, schema: as, lines: map[string]int{}, repeated: map[string]int{}}

	// YAML is converted as the Kubernetes decoders do it (YAML 1.1 booleans,
	// last of two equal keys), so that values mean what they mean upstream.
	raw := data
	if !looksLikeJSON(data) || !json.Valid(data) {
		converted, err := yaml.YAMLToJSON(data)
		if err != nil {
			return nil, Errors{syntaxProblem(name, data, err)}
		}
		raw = converted
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, Errors{{Source: name, Reason: err.Error()}}
	}
	tree, ok := value.(map[string]any)
	if !ok {
		return nil, Errors{{Source: name, Reason: "must hold a mapping of fields, holds " + describe(value)}}
	}
	d.tree = tree
	d.findPositions(data)

	var problems Errors
	for _, want := range []struct{ field, value string }{
		{"apiVersion", as.apiVersion},
		{"kind", as.kind},
	} {
		switch got := tree[want.field]; got {
		case want.value:
		case nil:
			problems = append(problems, d.problem(want.field, "is missing, must be %s", want.value))
		default:
			problems = append(problems, d.problem(want.field, "is %s, must be %s", show(got), want.value))
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return d, nil
}

func looksLikeJSON(data []byte) bool {
	trimmed := bytes.TrimSpace(data)
	return len(trimmed) > 0 && trimmed[0] == '{'
}

func syntaxProblem(name string, data []byte, err error) Problem {
	if looksLikeJSON(data) {
		var syntax *json.SyntaxError
		var value any
		if jsonErr := json.Unmarshal(data, &value); errors.As(jsonErr, &syntax) {
			line := 1 + bytes.Count(data[:min(int(syntax.Offset), len(data))], []byte("\n"))
			return Problem{Source: fmt.Sprintf("%s:%d", name, line), Reason: "not valid JSON: " + syntax.Error()}
		}
	}
	message := strings.Join(strings.Fields(err.Error()), " ")
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		return Problem{Source: name + ":" + m[1], Reason: "not valid YAML: " + m[2]}
	}
	return Problem{Source: name, Reason: "not valid YAML: " + strings.TrimPrefix(strings.TrimPrefix(message, "error converting YAML to JSON: "), "yaml: ")}
}

// findPositions fills lines and repeated from a second, position-keeping
// parse. It is best effort: without it problems name the file only.
func (d *document) findPositions(data []byte) {
	if looksLikeJSON(data) {
		// A tab is white space in JSON and an error in YAML.
		data = bytes.ReplaceAll(data, []byte("\t"), []byte(" "))
	}
	var root yamlnode.Node
	if err := yamlnode.Unmarshal(data, &root); err != nil || len(root.Content) == 0 {
		return
	}
	d.visit(root.Content[0], "", 0)
}

func (d *document) visit(node *yamlnode.Node, path string, depth int) {
	const deepest = 32 // no field lies deeper; guards against alias loops
	if depth > deepest {
		return
	}
	switch node.Kind {
	case yamlnode.MappingNode:
		seen := map[string]bool{}
		for i := 0; i+1 < len(node.Content); i += 2 {
			key, value := node.Content[i], node.Content[i+1]
			child := childPath(path, key.Value)
			if seen[key.Value] {
				d.repeated[child] = key.Line
			}
			seen[key.Value] = true
			d.lines[child] = key.Line
			d.visit(value, child, depth+1)
		}
	case yamlnode.SequenceNode:
		for i, item := range node.Content {
			child := fmt.Sprintf("%s[%d]", path, i)
			d.lines[child] = item.Line
			d.visit(item, child, depth+1)
		}
	}
}

// childPath appends a key the way field paths are written: a.b for names,
// a[x.y] for keys that are not names.
func childPath(path, key string) string {
	if strings.ContainsAny(key, ".[]/ ") {
		return path + "[" + key + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// describe names the kind of a decoded value.
func describe(value any) string {
	switch value.(type) {
	case nil:
		return "nothing"
	case map[string]any:
		return "a mapping"
	case []any:
		return "a list"
	default:
		return show(value)
	}
}

// show prints a decoded value, strings quoted and long values cut.
func show(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	const longest = 80
	if len(data) > longest {
		return string(data[:longest]) + "…"
	}
	return string(data)
}
