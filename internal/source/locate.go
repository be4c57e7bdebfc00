package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"sync"

	yamlv3 "go.yaml.in/yaml/v3"
	v1 "k8s.io/api/core/v1"
)

// locator finds the lines of a manifest's fields, which the decoder does not
// keep: it parses the manifest a second time, once.
type locator struct {
	root   func() *yamlv3.Node
	prefix string
}

// newLocator finds fields below prefix ("" for the document).
func newLocator(data []byte, prefix string) *locator {
	return &locator{prefix: prefix, root: sync.OnceValue(func() *yamlv3.Node {
		var doc yamlv3.Node
		if yamlv3.Unmarshal(data, &doc) != nil || len(doc.Content) == 0 {
			return nil
		}
		return doc.Content[0]
	})}
}

// segments splits spec.containers[0].env[A.B] into its steps. A key in
// brackets may contain dots.
func segments(path string) (steps []string) {
	for path != "" {
		if path[0] == '[' {
			inner, rest, ok := strings.Cut(path[1:], "]")
			if !ok {
				return steps
			}
			steps = append(steps, inner)
			path = strings.TrimPrefix(rest, ".")
			continue
		}
		i := strings.IndexAny(path, ".[")
		if i < 0 {
			return append(steps, path)
		}
		steps = append(steps, path[:i])
		if path[i] == '.' {
			i++
		} else if i == 0 {
			return steps
		}
		path = path[i:]
	}
	return steps
}

// line returns the line of a field, or of the nearest one around it that the
// manifest has; 0 if unknown.
func (l *locator) line(path string) int {
	n := l.root()
	if n == nil {
		return 0
	}
	line := 0
	for _, step := range append(segments(l.prefix), segments(path)...) {
		next, key := child(n, step)
		if next == nil {
			break
		}
		n, line = next, key.Line
	}
	return line
}

// child returns the value of a mapping's key or a sequence's index, and the
// node that shows where it starts.
func child(n *yamlv3.Node, step string) (value, start *yamlv3.Node) {
	if n.Kind == yamlv3.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yamlv3.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i+1], n.Content[i]
			}
		}
	case yamlv3.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
	}
	return nil, nil
}

// explain puts a strict decoder's complaint into words that help: the line,
// and for an unknown field the one that was probably meant.
func (l *locator) explain(text string) string {
	path, unknown := strings.CutPrefix(text, "unknown field ")
	if !unknown {
		return text
	}
	if p, err := strconv.Unquote(path); err == nil {
		path = p
	}
	where := ""
	if line := l.line(path); line > 0 {
		where = fmt.Sprintf("line %d: ", line)
	}
	hint := ""
	if near := nearest(path); near != "" {
		hint = fmt.Sprintf("; did you mean %s?", near)
	}
	return fmt.Sprintf("%sunknown field %s has no effect%s", where, path, hint)
}

// duplicates names the keys that stand twice in one mapping. The conversion
// to JSON keeps the last of them and says nothing.
func (l *locator) duplicates() []string {
	n := l.root()
	for _, step := range segments(l.prefix) {
		if n != nil {
			n, _ = child(n, step)
		}
	}
	var found []string
	var walk func(n *yamlv3.Node, depth int)
	walk = func(n *yamlv3.Node, depth int) {
		if n == nil || depth > 100 {
			return
		}
		if n.Kind == yamlv3.MappingNode {
			lines := map[string]int{}
			for i := 0; i+1 < len(n.Content); i += 2 {
				key := n.Content[i]
				if first, ok := lines[key.Value]; ok && key.Value != "<<" {
					found = append(found, fmt.Sprintf("line %d: %q stands in line %d already; the last one counts", key.Line, key.Value, first))
				}
				lines[key.Value] = key.Line
			}
		}
		for _, c := range n.Content {
			walk(c, depth+1)
		}
	}
	walk(n, 0)
	return found
}

// nearest returns the known field that an unknown path probably means: the
// one of that level which differs in case only or by the fewest letters.
func nearest(path string) string {
	t := reflect.TypeFor[v1.Pod]()
	steps := segments(path)
	for _, step := range steps[:max(len(steps)-1, 0)] {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Kind() {
		case reflect.Struct:
			f, ok := jsonFields(t)[step]
			if !ok {
				return ""
			}
			t = f
		case reflect.Slice, reflect.Map:
			t = t.Elem()
		default:
			return ""
		}
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || len(steps) == 0 {
		return ""
	}
	meant, best := steps[len(steps)-1], ""
	least := max(2, len(meant)/3) + 1
	for name := range jsonFields(t) {
		d := distance(strings.ToLower(meant), strings.ToLower(name))
		if d < least || (d == least && best != "" && name < best) {
			best, least = name, d
		}
	}
	return best
}

// jsonFields returns a struct's fields by their JSON names, those of embedded
// structs included.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			for n, inner := range jsonFields(f.Type) {
				fields[n] = inner
			}
		case name != "" && name != "-":
			fields[name] = f.Type
		}
	}
	return fields
}

// distance is the number of letters to add, remove or change (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// documents counts the YAML documents that hold something.
func documents(data []byte) int {
	if !bytes.Contains(data, []byte("\n---")) {
		return 1
	}
	d := yamlv3.NewDecoder(bytes.NewReader(data))
	n := 0
	for {
		var doc yamlv3.Node
		if err := d.Decode(&doc); err != nil {
			if !errors.Is(err, io.EOF) {
				n++ // something, if nothing that can be read
			}
			return n
		}
		if len(doc.Content) > 0 && doc.Content[0].Tag != "!!null" {
			n++
		}
	}
}
