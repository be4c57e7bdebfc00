package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// example fills the wildcards of a pattern.
func example(pattern string) string {
	return strings.NewReplacer("{$}", "", "{namespace}", "ns", "{pod}", "web", "{uid}", "uid-1", "{container}", "main",
		"{path...}", "syslog", "{profile...}", "goroutine").Replace(pattern)
}

var allMethods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, "BREW"}

// TestNothingWithoutCredentials walks every route with every method, in every
// configuration, and what is near it.
func TestNothingWithoutCredentials(t *testing.T) {
	for name, configure := range map[string]func(*Config){
		"all on":       func(*Config) {},
		"no debugging": func(c *Config) { c.Debugging = false },
		"all off": func(c *Config) {
			c.SystemLogs, c.Profiling, c.SetVerbosity, c.AllocatedPods, c.Flagz, c.Statusz, c.CheckpointDir, c.Logs = false, false, nil, nil, nil, nil, "", nil
		},
	} {
		n := newNode(t, configure)
		routes, err := n.routes()
		if err != nil {
			t.Fatal(err)
		}
		paths := []string{"/nothing", "//pods", "/pods/../exec/ns/web/main", "/.", "/logs/../../etc/passwd", "/metrics%2f..%2fexec", "/EXEC/ns/web/main", "/exec", "/exec/", "/*"}
		for _, r := range routes {
			path := example(r.pattern)
			paths = append(paths, path, strings.TrimSuffix(path, "/")+"/", path+"/x", "/"+path)
		}
		for _, path := range paths {
			for _, method := range allMethods {
				code, body := n.ask("", method, path)
				if code != http.StatusUnauthorized || body != "Unauthorized\n" {
					t.Errorf("%s: %s %s: %d %.80q", name, method, path, code, body)
				}
			}
		}
		if len(n.access.asked) > 0 {
			t.Errorf("%s: access was reviewed for nobody: %v", name, n.access.asked)
		}
	}
}

// TestNothingWithoutPermission walks every route as somebody who may do
// nothing.
func TestNothingWithoutPermission(t *testing.T) {
	n := newNode(t)
	routes, err := n.routes()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		for _, method := range allMethods {
			if code, _ := n.ask("nobody", method, example(r.pattern)); code != http.StatusForbidden {
				t.Errorf("%s %s: %d, want 403", method, example(r.pattern), code)
			}
		}
	}
}

// TestAccess says which subresource opens what (KEP-2862 and upstream's
// documentation).
func TestAccess(t *testing.T) {
	n := newNode(t)
	for _, c := range []struct {
		method, path, asked string
	}{
		{"GET", "/stats/summary", "get stats"},
		{"POST", "/stats/summary", "create stats"},
		{"GET", "/metrics", "get metrics"},
		{"GET", "/metrics/cadvisor", "get metrics"},
		{"GET", "/metrics/resource", "get metrics"},
		{"GET", "/metrics/probes", "get metrics"},
		{"GET", "/logs/", "get log"},
		{"GET", "/logs/pods/x", "get log"},
		{"POST", "/logs/", "create log"},
		{"POST", "/checkpoint/ns/web/main", "create checkpoint"},
		{"GET", "/statusz", "get statusz"},
		{"GET", "/flagz", "get configz"},
		{"GET", "/configz", "get configz, get proxy"},
		{"GET", "/pods", "get pods, get proxy"},
		{"GET", "/pods/", "get pods, get proxy"},
		{"GET", "/runningpods/", "get pods, get proxy"},
		{"GET", "/runningpods", "get pods, get proxy"},
		{"GET", "/allocatedPods", "get pods, get proxy"},
		{"GET", "/allocatedPods/ns/web/uid-1", "get pods, get proxy"},
		{"GET", "/healthz", "get healthz, get proxy"},
		{"GET", "/healthz/syncloop", "get healthz, get proxy"},
		{"GET", "/exec/ns/web/main", "get proxy"},
		{"POST", "/exec/ns/web/uid-1/main", "create proxy"},
		{"POST", "/attach/ns/web/main", "create proxy"},
		{"POST", "/portForward/ns/web", "create proxy"},
		{"POST", "/run/ns/web/main", "create proxy"},
		{"GET", "/containerLogs/ns/web/main", "get proxy"},
		{"GET", "/debug/pprof/heap", "get proxy"},
		{"PUT", "/debug/flags/v", "update proxy"},
		{"DELETE", "/pods", "delete pods, delete proxy"},
		{"PATCH", "/pods", "patch pods, patch proxy"},
		{"HEAD", "/metrics", " metrics"},
		{"GET", "/nothing", "get proxy"},
		// No spelling of a path is judged as another than is served.
		{"GET", "/metrics/..%2fexec/ns/web/main", "get proxy"},
		{"GET", "/%65xec/ns/web/main", "get proxy"},
		{"GET", "/logs/..%2f..%2fexec/ns/web/main", "get log"},
	} {
		n.access.asked = nil
		n.do(t, "nobody", c.method, c.path, "")
		if got := strings.Join(n.access.asked, ", "); got != c.asked {
			t.Errorf("%s %s: asked for %q, want %q", c.method, c.path, got, c.asked)
		}
	}
	// Either of two is enough.
	n.access.allow = []string{"fine get pods", "coarse get proxy"}
	for _, user := range []string{"fine", "coarse"} {
		if code, _, _ := n.do(t, user, "GET", "/pods", ""); code != 200 {
			t.Errorf("%s: %d", user, code)
		}
	}
	if code, body, _ := n.do(t, "fine", "GET", "/configz", ""); code != 403 || body != "Forbidden (user=fine, verb=get, resource=nodes, subresource(s)=[configz proxy])\n" {
		t.Errorf("%d %q", code, body)
	}
}

func TestExecMayNeedCreate(t *testing.T) {
	for _, strict := range []bool{false, true} {
		n := newNode(t, func(c *Config) { c.ExecNeedsCreate = strict })
		n.access.allow = []string{"reader get proxy", "operator get proxy", "operator create proxy"}
		for _, path := range []string{"/exec/ns/web/main?output=1", "/attach/ns/web/main?output=1", "/portForward/ns/web"} {
			want := http.StatusBadRequest // let in, and then no upgrade
			if strict {
				want = http.StatusForbidden
			}
			if code, _, _ := n.do(t, "reader", "GET", path, ""); code != want {
				t.Errorf("strict %t: GET %s by who may get: %d, want %d", strict, path, code, want)
			}
			if code, _, _ := n.do(t, "operator", "GET", path, ""); code != http.StatusBadRequest {
				t.Errorf("strict %t: GET %s by who may create: %d", strict, path, code)
			}
		}
		if code, _, _ := n.do(t, "reader", "GET", "/containerLogs/ns/web/main", ""); code != 200 {
			t.Errorf("strict %t: logs: %d", strict, code)
		}
	}
}

func TestMethods(t *testing.T) {
	n := newNode(t)
	n.runtime.execSync = func([]string) (string, string, int32) { return "", "", 0 }
	for path, allowed := range map[string][]string{
		"/pods": {"GET"}, "/runningpods/": {"GET"}, "/allocatedPods": {"GET"}, "/metrics": {"GET"}, "/stats/summary": {"GET", "POST"},
		"/run/ns/web/main": {"POST"}, "/exec/ns/web/main": {"GET", "POST"}, "/attach/ns/web/main": {"GET", "POST"},
		"/portForward/ns/web": {"GET", "POST"}, "/containerLogs/ns/web/main": {"GET"}, "/checkpoint/ns/web/main": {"POST"},
		"/configz": {"GET"}, "/flagz": {"GET"}, "/statusz": {"GET"}, "/debug/pprof/": {"GET"}, "/debug/flags/v": {"PUT"},
		"/logs/": {"GET", "POST"}, "/healthz": {"GET", "HEAD"},
	} {
		for _, method := range allMethods {
			if slices.Contains(allowed, method) {
				continue
			}
			code, _, header := n.do(t, "admin", method, path, "")
			if code != http.StatusMethodNotAllowed || header.Get("Allow") != strings.Join(allowed, ", ") {
				t.Errorf("%s %s: %d, Allow %q, want 405 and %v", method, path, code, header.Get("Allow"), allowed)
			}
		}
	}
}

func TestWhatIsOffSaysSo(t *testing.T) {
	off := newNode(t, func(c *Config) { c.Debugging = false })
	for _, path := range []string{"/run/ns/web/main", "/exec/ns/web/main", "/attach/ns/web/main", "/portForward/ns/web", "/containerLogs/ns/web/main", "/runningpods/", "/debug/pprof/heap", "/logs/syslog"} {
		for _, method := range []string{"GET", "POST"} {
			if code, body, _ := off.do(t, "admin", method, path, ""); code != 405 || body != "Debug endpoints are disabled.\n" {
				t.Errorf("%s %s: %d %q", method, path, code, body)
			}
		}
	}
	for _, path := range []string{"/configz", "/flagz", "/statusz", "/allocatedPods", "/debug/flags/v", "/checkpoint/ns/web/main"} {
		if code, _, _ := off.do(t, "admin", "GET", path, ""); code != 404 {
			t.Errorf("%s: %d, want 404", path, code)
		}
	}
	for _, path := range []string{"/pods", "/metrics", "/stats/summary", "/healthz"} {
		if code, _, _ := off.do(t, "admin", "GET", path, ""); code != 200 {
			t.Errorf("%s: %d, want 200", path, code)
		}
	}
	some := newNode(t, func(c *Config) { c.SystemLogs, c.Profiling, c.SetVerbosity = false, false, nil })
	for path, text := range map[string]string{
		"/logs/syslog": "logs endpoint is disabled.", "/debug/pprof/heap": "profiling endpoint is disabled.", "/debug/flags/v": "flags endpoint is disabled.",
	} {
		if code, body, _ := some.do(t, "admin", "GET", path, ""); code != 405 || body != text+"\n" {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	if code, _, _ := some.do(t, "admin", "GET", "/runningpods/", ""); code != 200 {
		t.Errorf("runningpods: %d", code)
	}
}

func TestEndpoints(t *testing.T) {
	n := newNode(t)
	if err := os.WriteFile(filepath.Join(n.cfg.SystemLogDir, "syslog"), []byte("lines\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.runtime.execSync = func(cmd []string) (string, string, int32) {
		if cmd[0] == "false" {
			return "", "broken", 3
		}
		return fmt.Sprintf("%q", cmd), "!", 0
	}
	n.runtime.archive = func(path string) error { return os.WriteFile(path, nil, 0o600) }
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string // in the body
		contentType        string
	}{
		{"GET", "/healthz", "", 200, "ok", "text/plain; charset=utf-8"},
		{"GET", "/healthz/ping", "", 200, "ok", ""},
		{"GET", "/pods", "", 200, `{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[{"metadata":{"name":"web","namespace":"ns","uid":"uid-1"}`, "application/json"},
		{"GET", "/runningpods/", "", 200, `"spec":{"containers":[{"name":"main","image":"image-main","resources":{}},{"name":"terminal"`, "application/json"},
		{"GET", "/allocatedPods", "", 200, `{"kind":"PodList"`, "application/json"},
		{"GET", "/allocatedPods/ns/web", "", 200, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web"`, "application/json"},
		{"GET", "/allocatedPods/ns/web/uid-1", "", 200, `"uid":"uid-1"`, "application/json"},
		{"GET", "/allocatedPods/ns/web/other", "", 404, "pod not found", ""},
		{"GET", "/metrics/probes", "", 200, "probes", ""},
		{"GET", "/stats/summary?only_cpu_and_memory=true", "", 200, "summary", ""},
		{"POST", "/run/ns/web/main?cmd=ls+-l", "", 200, `["ls" "-l"]!`, "application/json"},
		{"POST", "/run/ns/web/uid-1/main?cmd=ls", "", 200, `["ls"]!`, ""},
		{"POST", "/run/ns/web/main?cmd=false+x", "", 500, "command 'false x' exited with 3: broken", ""},
		{"POST", "/run/ns/web/dead?cmd=ls", "", 500, `container not found ("dead")`, ""},
		{"POST", "/run/ns/none/main?cmd=ls", "", 404, "pod does not exist", ""},
		{"POST", "/run/ns/web/other-uid/main?cmd=ls", "", 404, "pod does not exist", ""},
		{"POST", "/exec/ns/web/main?output=1", "", 400, "Upgrade request required", ""},
		{"POST", "/exec/ns/web/main", "", 400, "you must specify at least 1 of stdin, stdout, stderr", ""},
		{"POST", "/checkpoint/ns/web/main", "", 200, `{"items":["` + n.cfg.CheckpointDir + `/checkpoint-web_ns-main-`, "application/json"},
		{"POST", "/checkpoint/ns/web/main?timeout=x", "", 404, "cannot parse value of timeout parameter", ""},
		{"POST", "/checkpoint/ns/web/none", "", 404, "container none does not exist", ""},
		{"POST", "/checkpoint/ns/web/dead", "", 500, "checkpointing of ns/web/dead failed (container dead not found)", ""},
		{"GET", "/configz", "", 200, `{"kubeletconfig":{"kind":"KubeletConfiguration"}}`, "application/json"},
		{"GET", "/flagz", "", 200, "v=2\n", "text/plain; charset=utf-8"},
		{"GET", "/statusz", "", 200, "Binary version: 1.37.2\n", "text/plain; charset=utf-8"},
		{"GET", "/statusz", "", 200, "Paths: /allocatedPods /attach /checkpoint /configz /containerLogs /debug /exec /flagz /healthz /logs /metrics /pods /portForward /run /runningpods /stats /statusz\n", ""},
		{"PUT", "/debug/flags/v", "4", 200, "set to 4", ""},
		{"GET", "/debug/pprof/", "", 200, "goroutine", ""},
		{"GET", "/debug/pprof/goroutine?debug=1", "", 200, "goroutine profile: total", ""},
		{"GET", "/debug/pprof/cmdline", "", 200, "server.test", ""},
		{"GET", "/logs/", "", 200, "syslog", ""},
		{"GET", "/logs/syslog", "", 200, "lines\n", ""},
		{"GET", "/logs/none", "", 404, "", ""},
		{"GET", "/nothing", "", 404, "", ""},
	} {
		code, body, header := n.do(t, "admin", c.method, c.path, c.body)
		if code != c.code || !strings.Contains(body, c.want) || c.contentType != "" && header.Get("Content-Type") != c.contentType {
			t.Errorf("%s %s: %d %q %.400q, want %d %q", c.method, c.path, code, header.Get("Content-Type"), body, c.code, c.want)
		}
	}
}

func TestZPagesForPrograms(t *testing.T) {
	p := zpage{kind: "Flagz"}
	for accept, want := range map[string]string{
		"": "text", "text/plain": "text", "*/*": "text", "text/html, */*;q=0.8": "text",
		"application/json;g=config.k8s.io;v=v1beta1;as=Flagz":  "application/json v1beta1",
		"application/yaml;v=v1alpha1;g=config.k8s.io;as=Flagz": "application/yaml v1alpha1",
		"application/json": "none", "application/json;g=config.k8s.io;v=v1;as=Flagz": "none", "application/json;g=config.k8s.io;v=v1beta1;as=Statusz": "none",
		"application/json, text/plain": "text", ";;": "none",
	} {
		form, version, ok := p.negotiate(accept)
		got := strings.TrimSpace(form + " " + version)
		if !ok {
			got = "none"
		} else if got == "" {
			got = "text"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", accept, got, want)
		}
	}
}

func TestMetricsOfRequests(t *testing.T) {
	n := newNode(t)
	for path, want := range map[string]string{
		"/exec/ns/web/main": "exec", "/metrics/cadvisor": "metrics/cadvisor", "/metrics": "metrics", "/metrics/none": "other",
		"/made/up": "other", "/pods": "pods", "/debug/pprof/heap": "debug", "/portForward/a/b": "portForward", "/": "other",
	} {
		if got := n.table.bucket(path); got != want {
			t.Errorf("%s counts as %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]bool{"exec": true, "attach": true, "portForward": true, "debug": true, "pods": false, "logs": false} {
		if n.table.long[path] != want {
			t.Errorf("%s long running: %t", path, n.table.long[path])
		}
	}
	if methodBucket("BREW") != "other" || methodBucket("GET") != "GET" {
		t.Error("methods")
	}
}

// FuzzRoutes asks for any path with any method, as nobody, as somebody without
// rights and as the administrator: nobody sees anything, and what a route does
// was allowed for that route.
func FuzzRoutes(f *testing.F) {
	n := newNode(f)
	n.runtime.execSync = func([]string) (string, string, int32) { return "", "", 0 }
	n.runtime.archive = func(string) error { return nil }
	routes, err := n.routes()
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range routes {
		f.Add("GET", example(r.pattern))
		f.Add("POST", example(r.pattern)+"/..//%2e%2e/pods?input=1&query=x&port=1&timeout=1")
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		to, err := url.Parse(path)
		if err != nil || !strings.HasPrefix(path, "/") || method == "" || strings.ContainsFunc(method, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return
		}
		if strings.HasPrefix(to.Path, "/debug/pprof") {
			return // a profile of the processors lasts half a minute
		}
		ask := func(user string) (int, string) {
			r := httptest.NewRequest("GET", "/", nil)
			r.Method, r.URL = method, to
			r.Header.Set("User", user)
			w := httptest.NewRecorder()
			n.port.server.Handler.ServeHTTP(w, r)
			return w.Code, w.Body.String()
		}
		if code, body := ask(""); code != http.StatusUnauthorized || body != "Unauthorized\n" {
			t.Errorf("nobody: %s %q: %d %.80q", method, path, code, body)
		}
		// A path that is not clean is sent on to the one that it stands for.
		if code, body := ask("nobody"); code != http.StatusForbidden && (code < 300 || code > 399) {
			t.Errorf("somebody: %s %q: %d %.80q", method, path, code, body)
		}
		if code, _ := ask("admin"); code == http.StatusForbidden || code == http.StatusUnauthorized || code < 200 {
			t.Errorf("administrator: %s %q: %d", method, path, code)
		}
	})
}

func FuzzZPageAccept(f *testing.F) {
	for _, accept := range []string{"", "*/*;q=0", "application/json;g=config.k8s.io;v=v1beta1;as=Flagz", ",;=\"", "text/plain;as=Flagz"} {
		f.Add(accept)
	}
	p := zpage{kind: "Flagz"}
	f.Fuzz(func(t *testing.T, accept string) {
		form, version, ok := p.negotiate(accept)
		if !ok && form+version != "" || (form == "") != (version == "") || form != "" && !strings.Contains(accept, "Flagz") {
			t.Errorf("%q: %q %q %t", accept, form, version, ok)
		}
	})
}
