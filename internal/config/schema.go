package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
)

// findings is what a check of one document against the Go types found.
type findings struct {
	// wrong are values of the wrong type: always errors.
	wrong Errors
	// odd are unknown and repeated fields: warnings, or errors if strict.
	odd Errors
}

// check compares the document with the Go type of its kind. Values that do not
// fit are reported and taken out of the tree, so that everything else can
// still be validated in the same run.
func (d *document) check() findings {
	var f findings
	d.checkStruct(d.tree, d.schema.fields, "", &f)
	for path := range d.repeated {
		f.odd = append(f.odd, Problem{Source: d.at(d.repeated[path]), Field: path, Reason: "is given twice, the later one counts"})
	}
	f.wrong, f.odd = f.wrong.sorted(), f.odd.sorted()
	return f
}

// checkValue reports whether value fits into t.
func (d *document) checkValue(value any, t reflect.Type, path string, f *findings) bool {
	if value == nil {
		return true // as if the field were absent
	}
	if isLeaf(t) {
		return d.checkLeaf(value, t, path, f)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.checkValue(value, t.Elem(), path, f)
	case reflect.Struct:
		fields, ok := value.(map[string]any)
		if !ok {
			f.wrong = append(f.wrong, d.problem(path, "must be a mapping of fields, is %s", describe(value)))
			return false
		}
		d.checkStruct(fields, t, path, f)
		return true
	case reflect.Map:
		entries, ok := value.(map[string]any)
		if !ok {
			f.wrong = append(f.wrong, d.problem(path, "must be a mapping, is %s", describe(value)))
			return false
		}
		for key, entry := range entries {
			if !d.checkValue(entry, t.Elem(), childPath(path, key), f) {
				delete(entries, key)
			}
		}
		return true
	case reflect.Slice:
		items, ok := value.([]any)
		if !ok {
			f.wrong = append(f.wrong, d.problem(path, "must be a list, is %s", describe(value)))
			return false
		}
		good := true
		for i, item := range items {
			good = d.checkValue(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i), f) && good
		}
		return good
	default:
		return d.checkLeaf(value, t, path, f)
	}
}

// isLeaf reports whether t reads its JSON itself, such as a duration.
func isLeaf(t reflect.Type) bool {
	return t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]())
}

func (d *document) checkStruct(fields map[string]any, t reflect.Type, path string, f *findings) {
	known := jsonFields(t)
	for key, value := range fields {
		child := childPath(path, key)
		field, ok := known[key]
		if !ok {
			reason := "is not a field of " + d.schema.kind
			if path != "" {
				reason = "is not a field of " + path
			}
			if near := nearest(key, keysOf(known)); near != "" {
				reason += fmt.Sprintf("; did you mean %s?", childPath(path, near))
			}
			f.odd = append(f.odd, d.problem(child, "%s", reason))
			delete(fields, key)
			continue
		}
		if !d.checkValue(value, field.Type, child, f) {
			delete(fields, key)
		}
	}
}

func (d *document) checkLeaf(value any, t reflect.Type, path string, f *findings) bool {
	data, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(data, reflect.New(t).Interface())
	}
	if err == nil {
		return true
	}
	f.wrong = append(f.wrong, d.problem(path, "must be %s, is %s", expected(t), describe(value)))
	return false
}

// expected says in words what a leaf of type t takes.
func expected(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[metav1.Duration]():
		return `a duration such as "1m30s"`
	case reflect.TypeFor[logsapi.TimeOrMetaDuration]():
		return `a duration such as "5s"`
	case reflect.TypeFor[resource.Quantity](), reflect.TypeFor[resource.QuantityValue]():
		return `a quantity such as "500Mi"`
	case reflect.TypeFor[metav1.Time]():
		return "a time as in RFC 3339"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int32:
		return "a whole number of 32 bits"
	case reflect.Int64, reflect.Int:
		return "a whole number"
	case reflect.Uint32:
		return "a whole number of 32 bits, not negative"
	case reflect.Float64:
		return "a number"
	case reflect.String:
		return "a string (in quotes if it looks like something else)"
	default:
		return "a " + t.String()
	}
}

// jsonFields maps the JSON names of a struct to its fields, those of inlined
// structs included.
func jsonFields(t reflect.Type) map[string]reflect.StructField {
	fields := map[string]reflect.StructField{}
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-" || !field.IsExported():
		case name == "" && field.Anonymous:
			for inner, f := range jsonFields(field.Type) {
				f.Index = append(slices.Clone(field.Index), f.Index...)
				fields[inner] = f
			}
		case name != "":
			fields[name] = field
		}
	}
	return fields
}

// jsonField finds one field by its JSON name.
func jsonField(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		field := t.Field(i)
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case tag == name && field.IsExported():
			return field, true
		case tag == "" && field.Anonymous:
			if inner, ok := jsonField(field.Type, name); ok {
				inner.Index = append(slices.Clone(field.Index), inner.Index...)
				return inner, true
			}
		}
	}
	return reflect.StructField{}, false
}

func keysOf[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// nearest finds the candidate that a misspelt name most likely meant: equal
// but for case, else within an edit distance of a third of its length.
func nearest(name string, candidates []string) string {
	best, bestDistance := "", len(name)/3+1
	for _, candidate := range candidates {
		if strings.EqualFold(name, candidate) {
			return candidate
		}
		if d := editDistance(strings.ToLower(name), strings.ToLower(candidate)); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// editDistance counts insertions, deletions, substitutions and swaps of
// neighbours (optimal string alignment).
func editDistance(a, b string) int {
	before := make([]int, len(b)+1)
	previous := make([]int, len(b)+1)
	current := make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
		before, previous, current = previous, current, before
	}
	return previous[len(b)]
}
