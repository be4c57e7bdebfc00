package podspec

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var update = flag.Bool("update", false, "write the section of docs/compatibility.md anew")

// fieldState is a line of fields.txt.
type fieldState struct {
	path, state, test, note string
}

// covers says whether the line is about the path: an exact one, or one that
// ends in .* and then is about all that is below.
func (f fieldState) covers(path string) bool {
	above, all := strings.CutSuffix(f.path, ".*")
	return f.path == path || all && (path == above || strings.HasPrefix(path, above+"."))
}

var states = map[string]string{
	"acted":     "it does what the API reference says",
	"refused":   "a pod with it does not start, and says why",
	"planned":   "it takes no effect yet, and the pod does without harm",
	"warned":    "the pod runs without, with a warning event FieldsNotActedOn",
	"elsewhere": "another component reads it; no kubelet does",
	"other-os":  "it is for nodes with Windows; a Linux node leaves it alone, upstream too",
}

func readFieldStates(t *testing.T) []fieldState {
	t.Helper()
	f, err := os.Open("fields.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []fieldState
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		parts := strings.Fields(line)
		if len(parts) < 3 {
			t.Fatalf("fields.txt: %q: want path, state, test or -, note", line)
		}
		if states[parts[1]] == "" {
			t.Errorf("fields.txt: %s: unknown state %q", parts[0], parts[1])
		}
		if (parts[1] == "acted" || parts[1] == "refused") && parts[2] == "-" {
			t.Errorf("fields.txt: %s: no test holds it", parts[0])
		}
		list = append(list, fieldState{parts[0], parts[1], parts[2], strings.Join(parts[3:], " ")})
	}
	return list
}

// alike are fields of one type that is written down once.
var alike = []struct{ from, to string }{
	{"initContainers[]", "containers[]"},
	{"ephemeralContainers[]", "containers[]"},
	{"livenessProbe", "{liveness,readiness,startup}Probe"},
	{"readinessProbe", "{liveness,readiness,startup}Probe"},
	{"startupProbe", "{liveness,readiness,startup}Probe"},
	{"postStart", "{postStart,preStop}"},
	{"preStop", "{postStart,preStop}"},
}

// apiFields lists the paths of all leaves of a PodSpec, with one value each
// that sets just that leaf.
func apiFields() (paths []string, set map[string][]func(*v1.PodSpec)) {
	set = map[string][]func(*v1.PodSpec){}
	var walk func(t reflect.Type, path []string, reach func(root reflect.Value) reflect.Value, depth int)
	leaf := func(path []string, reach func(root reflect.Value) reflect.Value) {
		name := strings.Join(path, ".")
		if set[name] == nil {
			paths = append(paths, name)
		}
		set[name] = append(set[name], func(spec *v1.PodSpec) { fill(reach(reflect.ValueOf(spec).Elem())) })
	}
	walk = func(t reflect.Type, path []string, reach func(reflect.Value) reflect.Value, depth int) {
		for t.Kind() == reflect.Pointer {
			inner := reach
			reach = func(root reflect.Value) reflect.Value {
				v := inner(root)
				if v.IsNil() {
					v.Set(reflect.New(v.Type().Elem()))
				}
				return v.Elem()
			}
			t = t.Elem()
		}
		switch {
		case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct && !isLeaf(t.Elem()):
			inner := reach
			list := slices.Clone(path)
			list[len(list)-1] += "[]"
			for _, a := range alike {
				if list[len(list)-1] == a.from {
					list[len(list)-1] = a.to
				}
			}
			walk(t.Elem(), list, func(root reflect.Value) reflect.Value {
				v := inner(root)
				if v.Len() == 0 {
					v.Set(reflect.MakeSlice(v.Type(), 1, 1))
				}
				return v.Index(0)
			}, depth+1)
		case t.Kind() == reflect.Struct && !isLeaf(t) && t.NumField() > 0:
			for i := range t.NumField() {
				f := t.Field(i)
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				for _, a := range alike {
					if name == a.from {
						name = a.to
					}
				}
				inner := reach
				below := func(root reflect.Value) reflect.Value { return inner(root).Field(i) }
				if name == "" { // embedded
					walk(f.Type, path, below, depth+1)
				} else {
					walk(f.Type, append(slices.Clone(path), name), below, depth+1)
				}
			}
		default:
			leaf(path, reach)
		}
	}
	walk(reflect.TypeFor[v1.PodSpec](), nil, func(root reflect.Value) reflect.Value { return root }, 0)
	return paths, set
}

func isLeaf(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[resource.Quantity](), reflect.TypeFor[metav1.Time](), reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[metav1.LabelSelector]():
		return true
	}
	return false
}

// fill makes a value that is not its type's zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(7)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.SetMapIndex(key, value)
	case reflect.Struct:
		switch p := v.Addr().Interface().(type) {
		case *resource.Quantity:
			*p = resource.MustParse("1")
		case *intstr.IntOrString:
			*p = intstr.FromInt32(1)
		default:
			if v.NumField() > 0 && v.Field(0).CanSet() {
				fill(v.Field(0))
			}
		}
	}
}

// Every field of the API has its state in fields.txt, and NotActedOn warns of
// those, and only those, that are said to be warned of. A field that is new in
// the API fails here.
func TestEveryFieldHasAState(t *testing.T) {
	list := readFieldStates(t)
	used := map[string]bool{}
	paths, set := apiFields()
	for _, path := range paths {
		var found *fieldState
		for i := range list {
			if list[i].covers(path) && (found == nil || len(list[i].path) > len(found.path)) {
				found = &list[i]
			}
		}
		if found == nil {
			t.Errorf("fields.txt has no line for %s: add one, with what the kubelet does with it", path)
			continue
		}
		used[found.path] = true
		for _, setter := range set[path] {
			pod := &v1.Pod{}
			setter(&pod.Spec)
			warned := NotActedOn(pod)
			if found.state == "warned" && len(warned) == 0 {
				t.Errorf("%s is %s in fields.txt, and NotActedOn does not tell of it", path, found.state)
			}
			if found.state != "warned" && len(warned) > 0 {
				t.Errorf("%s is %s in fields.txt, and NotActedOn tells of %q", path, found.state, warned)
			}
		}
	}
	for _, f := range list {
		if !used[f.path] {
			t.Errorf("fields.txt: the API has no field %s, or a longer line is about it", f.path)
		}
	}
}

var testName = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// The tests that fields.txt names exist.
func TestFieldsNameTests(t *testing.T) {
	exists := map[string]bool{}
	for _, dir := range []string{"../../internal", "../../test"} {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, "_test.go") {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				for _, m := range testName.FindAllSubmatch(text, -1) {
					exists[string(m[1])] = true
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range readFieldStates(t) {
		for name := range strings.SplitSeq(f.test, ",") {
			if name, _, _ := strings.Cut(name, "/"); name != "-" && !exists[name] {
				t.Errorf("fields.txt: %s: there is no test %s", f.path, name)
			}
		}
	}
}

// docs/compatibility.md shows the table.
func TestFieldsDoc(t *testing.T) {
	const doc, begin, end = "../../docs/compatibility.md", "<!-- begin: made from internal/podspec/fields.txt, do not edit -->\n", "<!-- end of fields.txt -->\n"
	var out bytes.Buffer
	out.WriteString(begin + "\n## PodSpec and Container fields\n\n" +
		"Every field of core/v1 PodSpec, what becomes of it, and the test that holds\nit: in test/node on real containerd, in test/cluster on a real control plane,\nor beside the code. What is said of `containers[]` holds for init and ephemeral\ncontainers. A pod that sets a field that is not acted on is told so. The rows\nare held against the API's types by a test, so that no field can be forgotten.\n\n")
	for _, s := range []string{"acted", "refused", "warned", "planned", "elsewhere", "other-os"} {
		fmt.Fprintf(&out, "- **%s**: %s.\n", s, states[s])
	}
	out.WriteString("\n| Field | State | Test | Note |\n|---|---|---|---|\n")
	for _, f := range readFieldStates(t) {
		test := strings.ReplaceAll(strings.TrimPrefix(f.test, "-"), ",", ", ")
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", f.path, f.state, test, strings.ReplaceAll(f.note, "|", "\\|"))
	}
	out.WriteString("\n" + end)
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	want := strings.TrimRight(before, "\n") + "\n\n" + out.String()
	if ok {
		_, after, _ := strings.Cut(rest, end)
		want += after
	}
	if want == string(text) {
		return
	}
	if !*update {
		t.Fatal("docs/compatibility.md is out of date; run go test ./internal/podspec -run TestFieldsDoc -update")
	}
	if err := os.WriteFile(doc, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
