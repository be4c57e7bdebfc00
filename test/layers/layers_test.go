// Package layers holds the shape of the project: which package may import
// which, what the program may link in, and the habits that no compiler
// enforces. Each failure says what to do about it.
package layers

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// layers from the bottom up. A package imports only packages of its own layer
// and of those below; subpackages belong to their parent's layer. A loop may
// use the vocabulary of another loop, never run it: that is agent's part.
var layers = [][]string{
	{"podspec", "tracing"}, // vocabulary
	{"checkpoint", "cri", "cgroup", "apiclient", "certificate", "volume", "criconfig", "preflight", "plugin", "security"}, // drivers
	{"desired", "observed", "explain"}, // tables
	{"source", "admission", "image", "lifecycle", "worker", "pleg", "probe", "hook", "status", "node", "logs", "eviction", "resources", "stats"}, // loops
	{"server", "standalone"}, // what is seen from outside
	{"config", "agent"},      // composition
}

// onlyAgent may be imported by agent and by the command alone.
var onlyAgent = []string{"config", "agent"}

// forbidden are the packages that the program must not link in, directly or
// indirectly, and why.
var forbidden = map[string]string{
	"k8s.io/kubernetes":           "this kubelet is its own; upstream's is for tooling modules only",
	"k8s.io/client-go/kubernetes": "apiclient needs no clientset; all API groups would be linked in",
	"k8s.io/client-go/informers":  "apiclient has its own caches",
	"k8s.io/client-go/listers":    "apiclient has its own caches",
	"testing":                     "a test helper got into the product",
}

// vague names say nothing about what a package holds.
var vague = []string{"util", "utils", "common", "helper", "helpers", "manager", "misc", "base", "types", "shared"}

type pkg struct {
	ImportPath, Name, Dir string
	GoFiles, Imports      []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-e", "-json=ImportPath,Name,Dir,GoFiles,Imports"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// room is the first path element below internal.
func room(importPath string) (string, bool) {
	rest, ok := strings.CutPrefix(importPath, "kubelet/internal/")
	first, _, _ := strings.Cut(rest, "/")
	return first, ok
}

func layer(room string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, room) })
}

func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	for _, p := range list(t, "./internal/...") {
		from, _ := room(p.ImportPath)
		if layer(from) < 0 {
			t.Errorf("%s is in no layer: add %q to layers", p.ImportPath, from)
			continue
		}
		for _, i := range p.Imports {
			to, ok := room(i)
			switch {
			case !ok && strings.HasPrefix(i, "kubelet/"):
				t.Errorf("%s imports %s, which is no part of the product", p.ImportPath, i)
			case !ok || to == from:
			case layer(to) > layer(from):
				t.Errorf("%s imports %s of a higher layer: declare an interface here, or move the shared word down", p.ImportPath, i)
			case slices.Contains(onlyAgent, to) && from != "agent":
				t.Errorf("%s imports %s: give it typed options; only agent reads the configuration", p.ImportPath, i)
			}
		}
	}
}

func TestProgramLinksNothingForbidden(t *testing.T) {
	t.Parallel()
	for _, p := range list(t, "-deps", "./cmd/kubelet") {
		for prefix, why := range forbidden {
			if p.ImportPath == prefix || strings.HasPrefix(p.ImportPath, prefix+"/") {
				t.Errorf("cmd/kubelet links %s: %s", p.ImportPath, why)
			}
		}
	}
}

func TestPackageNamesAndDocs(t *testing.T) {
	t.Parallel()
	for _, p := range list(t, "./internal/...", "./cmd/...") {
		if slices.Contains(vague, p.Name) || slices.Contains(vague, path.Base(p.ImportPath)) {
			t.Errorf("%s: the name says nothing about what it holds", p.ImportPath)
		}
		docs := 0
		for _, f := range parse(t, p) {
			if f.Doc != nil {
				docs++
			}
		}
		if docs != 1 && len(p.GoFiles) > 0 {
			t.Errorf("%s has %d package docs, want one that says what it owns, reads and writes", p.ImportPath, docs)
		}
	}
}

func parse(t *testing.T, p pkg) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	for _, name := range p.GoFiles {
		full := filepath.Join(p.Dir, name)
		f, err := parser.ParseFile(token.NewFileSet(), full, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files[path.Join(strings.TrimPrefix(p.ImportPath, "kubelet/"), name)] = f
	}
	return files
}

// pure are the calls that may stand in a package-level declaration: what they
// return is never changed.
var pure = []string{
	"errors.New", "fmt.Errorf", "regexp.MustCompile", "resource.MustParse", "sets.New", "strings.NewReplacer",
	"template.New", "template.Must", "maphash.MakeSeed", "len", "make", "new", "min", "max",
}

// TestNoPackageState wants every package-level variable to be a constant in
// all but name: made by a literal or a pure call, and never written to.
func TestNoPackageState(t *testing.T) {
	t.Parallel()
	for _, p := range list(t, "./internal/...", "./cmd/...") {
		files := parse(t, p)
		vars := map[string]bool{}
		for name, f := range files {
			for _, d := range f.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					if d.Recv == nil && d.Name.Name == "init" {
						t.Errorf("%s: func init runs behind the reader's back; call it from where it is needed", name)
					}
				case *ast.GenDecl:
					if d.Tok == token.VAR {
						for _, s := range d.Specs {
							declared(t, name, s.(*ast.ValueSpec), vars)
						}
					}
				}
			}
		}
		for name, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				for _, target := range written(n) {
					if id := root(target); id != nil && vars[id.Name] && packageLevel(id, f) {
						t.Errorf("%s: package-level variable %s is written to; keep state in a type", name, id.Name)
					}
				}
				return true
			})
		}
	}
}

// declared notes the names of a package-level declaration and judges its
// values.
func declared(t *testing.T, file string, s *ast.ValueSpec, vars map[string]bool) {
	t.Helper()
	for _, n := range s.Names {
		if n.Name == "_" {
			return // an assertion about types
		}
		vars[n.Name] = true
	}
	if star, ok := s.Type.(*ast.SelectorExpr); ok {
		if x, ok := star.X.(*ast.Ident); ok && (x.Name == "sync" || x.Name == "atomic") {
			t.Errorf("%s: package-level %s.%s %s", file, x.Name, star.Sel.Name, s.Names[0].Name)
		}
	}
	for _, v := range s.Values {
		ast.Inspect(v, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncLit:
				return false // runs later
			case *ast.CallExpr:
				if name := callee(n.Fun); name != "" && !slices.Contains(pure, name) && !conversion(n.Fun) {
					t.Errorf("%s: package-level variable %s is made by %s; make it in New", file, s.Names[0].Name, name)
				}
			}
			return true
		})
	}
}

// conversion guesses by the spelling: a type of this package or of another one
// whose name does not begin like a constructor's.
func conversion(fun ast.Expr) bool {
	name := callee(fun)
	_, last, ok := strings.Cut(name, ".")
	if !ok {
		last = name
	}
	for _, verb := range []string{"New", "Must", "Make", "Build", "Register", "Get", "Load", "Open", "Start"} {
		if strings.HasPrefix(last, verb) {
			return false
		}
	}
	return true
}

func callee(fun ast.Expr) string {
	switch f := fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		if x, ok := f.X.(*ast.Ident); ok {
			return x.Name + "." + f.Sel.Name
		}
	case *ast.IndexExpr:
		return callee(f.X)
	}
	return ""
}

// written are the expressions that a statement changes.
func written(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.CallExpr:
		if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "delete" || id.Name == "clear") && len(n.Args) > 0 {
			return n.Args[:1]
		}
	}
	return nil
}

// root is the variable that an expression is a part of.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

// packageLevel says whether an identifier means the package's variable and not
// a local one of the same name. The parser resolves names within a file; what
// it leaves open is declared in another file of the package.
func packageLevel(id *ast.Ident, f *ast.File) bool {
	if id.Obj == nil {
		return true
	}
	return f.Scope != nil && f.Scope.Lookup(id.Name) == id.Obj
}
