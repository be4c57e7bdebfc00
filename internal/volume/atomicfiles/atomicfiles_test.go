package atomicfiles

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func noStep(string, string) error { return nil }

func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	payload := Payload{}
	for name, data := range files {
		payload[name] = File{Data: []byte(data), Mode: 0o644}
	}
	version, err := Write(context.Background(), dir, payload, nil, noStep)
	must(t, err)
	for name, data := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != data {
			t.Errorf("%s holds %q (%v), want %q", name, got, err, data)
		}
	}
	return version
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var all []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") {
			all = append(all, e.Name())
		}
	}
	return strings.Join(all, " ")
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	first := write(t, dir, map[string]string{"a": "1", "d/e/f": "2", "d/g": "3"})
	if !InForce(dir, first) {
		t.Errorf("%s is not in force", first)
	}
	if again := write(t, dir, map[string]string{"a": "1", "d/e/f": "2", "d/g": "3"}); again != first {
		t.Errorf("wrote %s although %s held the same", again, first)
	}
	// One file less, one more, a file in the place of a directory.
	second := write(t, dir, map[string]string{"a": "1", "d": "now a file", "z": "5"})
	if second == first || InForce(dir, first) {
		t.Error("not a new version")
	}
	if got := names(t, dir); got != "a d z" {
		t.Errorf("visible: %s", got)
	}
	write(t, dir, map[string]string{})
	if got := names(t, dir); got != "" {
		t.Errorf("visible in an empty volume: %s", got)
	}
	if all, _ := filepath.Glob(filepath.Join(dir, "..*")); len(all) != 2 {
		t.Errorf("left over: %v", all)
	}
}

// Whatever somebody did to the directory is set right, and nothing outside of
// it is touched.
func TestTamperedDirectory(t *testing.T) {
	files := map[string]string{"a": "1", "d/e": "2"}
	tamper := map[string]func(dir, outside string){
		"content changed":      func(dir, _ string) { must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("x"), 0o644)) },
		"file cut":             func(dir, _ string) { must(t, os.Truncate(filepath.Join(dir, "..data/d/e"), 0)) },
		"file removed":         func(dir, _ string) { must(t, os.Remove(filepath.Join(dir, "..data/d/e"))) },
		"file added":           func(dir, _ string) { must(t, os.WriteFile(filepath.Join(dir, "..data/new"), nil, 0o644)) },
		"visible link removed": func(dir, _ string) { must(t, os.Remove(filepath.Join(dir, "a"))) },
		"visible link diverted": func(dir, outside string) {
			must(t, os.Remove(filepath.Join(dir, "a")))
			must(t, os.Symlink(outside, filepath.Join(dir, "a")))
		},
		"file replaced by link": func(dir, outside string) {
			must(t, os.Remove(filepath.Join(dir, "..data/a")))
			must(t, os.Symlink(outside, filepath.Join(dir, "..data/a")))
		},
		"data link diverted": func(dir, outside string) {
			must(t, os.Remove(filepath.Join(dir, "..data")))
			must(t, os.Symlink(filepath.Dir(outside), filepath.Join(dir, "..data")))
		},
		"data link up": func(dir, _ string) {
			must(t, os.Remove(filepath.Join(dir, "..data")))
			must(t, os.Symlink("..", filepath.Join(dir, "..data")))
		},
		"version replaced by link": func(dir, outside string) {
			version, err := Current(dir)
			must(t, err)
			must(t, os.RemoveAll(filepath.Join(dir, version)))
			must(t, os.Symlink(filepath.Dir(outside), filepath.Join(dir, version)))
		},
		"half a version": func(dir, _ string) {
			must(t, os.MkdirAll(filepath.Join(dir, "..2026_01_01_00_00_00.1/d"), 0o755))
			must(t, os.Symlink("..2026_01_01_00_00_00.1", filepath.Join(dir, "..data_tmp")))
		},
	}
	for name, f := range tamper {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			dir, outside := filepath.Join(base, "volume"), filepath.Join(base, "out/a")
			must(t, os.Mkdir(dir, 0o755))
			must(t, os.Mkdir(filepath.Dir(outside), 0o755))
			must(t, os.WriteFile(outside, []byte("1"), 0o644))
			write(t, dir, files)
			f(dir, outside)
			write(t, dir, files)
			if got := names(t, dir); got != "a d" {
				t.Errorf("visible: %s", got)
			}
			if target, _ := os.Readlink(filepath.Join(dir, "a")); target != "..data/a" {
				t.Errorf("a leads to %s", target)
			}
			if all, _ := filepath.Glob(filepath.Join(dir, "..*")); len(all) != 2 {
				t.Errorf("left over: %v", all)
			}
			if got, err := os.ReadFile(outside); string(got) != "1" {
				t.Errorf("outside holds %q (%v)", got, err)
			}
		})
	}
}

// A preparation that fails leaves the old version in force.
func TestPrepareFails(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a": "1"})
	cause := errors.New("no")
	_, err := Write(context.Background(), dir, Payload{"a": {Data: []byte("2"), Mode: 0o644}}, func() error { return cause }, noStep)
	if !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "a")); string(got) != "1" {
		t.Errorf("a holds %q", got)
	}
	write(t, dir, map[string]string{"a": "2"})
}

func TestPaths(t *testing.T) {
	long := strings.Repeat("n", 256)
	bad := map[string][]string{
		"must not begin":   {"..", "...", "../a", "..data", "..2026", "a/../..b"},
		"must be relative": {"/a", "//"},
		"names no file":    {"", ".", "./", "a/.."},
		"must not contain": {"a/../b", "a/b/.."},
		"longer than":      {long, "a/" + long, strings.Repeat("a/", 2100) + "b"},
		"NUL":              {"a\x00b"},
	}
	for want, paths := range bad {
		for _, p := range paths {
			_, err := Payload{p: {}}.clean()
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("path %.20q: error %v, want %q", p, err, want)
			}
		}
	}
	for _, p := range []string{"a", ".a", "a/..b", "a/.b", "a//b", "a b", "ü\n"} {
		if _, err := (Payload{p: {}}).clean(); err != nil {
			t.Errorf("path %q: %v", p, err)
		}
	}
	for _, pair := range [][2]string{{"a", "a/b"}, {"a/b/c", "a"}, {"a", "./a"}, {"a/b", "a//b"}} {
		if _, err := (Payload{pair[0]: {}, pair[1]: {}}).clean(); err == nil {
			t.Errorf("paths %q and %q together are accepted", pair[0], pair[1])
		}
	}
}

func TestSum(t *testing.T) {
	user := int64(7)
	base := func() Payload {
		return Payload{"a": {Data: []byte("1"), Mode: 0o644}, "b": {Data: []byte("2"), Mode: 0o644}}
	}
	changed := []func(p Payload){
		func(p Payload) { delete(p, "b") },
		func(p Payload) { p["c"] = File{} },
		func(p Payload) { p["a"], p["b"] = p["b"], p["a"] },
		func(p Payload) { p["a"] = File{Data: []byte("1"), Mode: 0o600} },
		func(p Payload) { p["a"] = File{Data: []byte("1"), Mode: 0o644, User: &user} },
	}
	if base().Sum() != base().Sum() {
		t.Error("the same payload has two sums")
	}
	for i, f := range changed {
		p := base()
		if f(p); p.Sum() == base().Sum() {
			t.Errorf("change %d is not seen", i)
		}
	}
}

// FuzzWrite writes files with names and data from outside: each is either
// refused or readable where it belongs, and nothing appears anywhere else.
func FuzzWrite(f *testing.F) {
	f.Add("a", []byte("1"), "b/c", []byte("2"))
	f.Add("../x", []byte(""), "..data", []byte(""))
	f.Add("a", []byte(""), "a/b", []byte(""))
	f.Fuzz(func(t *testing.T, name1 string, data1 []byte, name2 string, data2 []byte) {
		base := t.TempDir()
		dir := filepath.Join(base, "volume")
		must(t, os.Mkdir(dir, 0o755))
		payload := Payload{name1: {Data: data1, Mode: 0o644}, name2: {Data: data2, Mode: 0o644}}
		_, err := Write(context.Background(), dir, payload, nil, noStep)
		if err == nil {
			for name, file := range payload {
				got, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil || string(got) != string(file.Data) {
					t.Errorf("%q: read %q, %v; wrote %q", name, got, err, file.Data)
				}
			}
		}
		if entries, _ := os.ReadDir(base); len(entries) != 1 {
			t.Errorf("%q and %q: outside appeared %v", name1, name2, entries)
		}
	})
}
