package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestContainerLogs(t *testing.T) {
	for _, c := range []struct {
		path  string
		logs  fakeLogs
		split bool
		code  int
		want  string
		asked string // the options, in short
	}{
		{path: "ns/web/main", code: 200, want: "out of web/main \nerr of web/main\n", asked: "{}"},
		{path: "ns/web/setup?follow=true&previous=1&timestamps=false&tail=7&limitBytes=9&sinceSeconds=3", code: 200, want: "out of web/setup", asked: "{follow previous since=3 tail=7 limit=9}"},
		{path: "ns/web/debug?tail=all&tailLines=3&sinceTime=2026-01-02T03:04:05Z", code: 200, want: "out of web/debug", asked: "{at=1767323045}"},
		{path: "ns/web/main?tailLines=0", code: 200, want: "out of", asked: "{tail=0}"},
		{path: "ns/web/main?stream=All", code: 200, want: "out of web/main \nerr of", asked: "{All}"},
		{path: "ns/web/main?stream=Stdout", split: true, code: 200, want: "out of web/main \n", asked: "{Stdout}"},
		{path: "ns/web/main?stream=Stderr", split: true, code: 200, want: "err of web/main\n", asked: "{Stderr}"},
		{path: "ns/web/main?stream=Stderr", code: 400, want: "PodLogsQuerySplitStreams"},
		{path: "ns/web/main?stream=Stdin", code: 422, want: "stream"},
		{path: "ns/web/main?tailLines=x", code: 400, want: "tailLines"},
		{path: "ns/web/main?tailLines=-1", code: 422, want: "tailLines"},
		{path: "ns/web/main?limitBytes=0", code: 422, want: "limitBytes"},
		{path: "ns/web/main?sinceSeconds=0", code: 422, want: "sinceSeconds"},
		{path: "ns/web/main?sinceSeconds=1&sinceTime=2026-01-02T03:04:05Z", code: 422, want: "sinceTime"},
		{path: "ns/web/main?sinceTime=yesterday", code: 400, want: "sinceTime"},
		{path: "ns/none/main", code: 404, want: `pod "none" does not exist`},
		{path: "ns/web/none", code: 404, want: `container "none" not found in pod "web"`},
		{path: "ns/web/main", logs: fakeLogs{err: errors.New("container is waiting to start")}, code: 400, want: "container is waiting to start", asked: "{}"},
	} {
		logs := c.logs
		n := newNode(t, func(cfg *Config) { cfg.Logs, cfg.SplitLogStreams = &logs, c.split })
		code, body, header := n.do(t, "admin", "GET", "/containerLogs/"+c.path, "")
		if code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %q, want %d %q", c.path, code, body, c.code, c.want)
		}
		if code == 200 && header.Get("Content-Type") != "text/plain" {
			t.Errorf("%s: content type %q", c.path, header.Get("Content-Type"))
		}
		if got := describe(&logs); got != c.asked {
			t.Errorf("%s: asked for %s, want %s", c.path, got, c.asked)
		}
	}
}

func describe(l *fakeLogs) string {
	o := l.asked
	if o == nil {
		return ""
	}
	var words []string
	for word, on := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if on {
			words = append(words, word)
		}
	}
	slices.Sort(words)
	number := func(name string, n *int64) {
		if n != nil {
			words = append(words, fmt.Sprintf("%s=%d", name, *n))
		}
	}
	number("since", o.SinceSeconds)
	if o.SinceTime != nil {
		words = append(words, fmt.Sprintf("at=%d", o.SinceTime.Unix()))
	}
	number("tail", o.TailLines)
	number("limit", o.LimitBytes)
	if o.Stream != nil {
		words = append(words, *o.Stream)
	}
	return "{" + strings.Join(words, " ") + "}"
}

// TestBrokenLogIsNoWholeLog: what was sent is not to look complete.
func TestBrokenLogIsNoWholeLog(t *testing.T) {
	n := newNode(t, func(cfg *Config) { cfg.Logs = &fakeLogs{after: errors.New("disk is gone")} })
	req, _ := newRequest(n, "/containerLogs/ns/web/main")
	resp, err := n.client.Do(req)
	if err != nil {
		return // broken off before the head had left
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the answer looks complete")
	}
}

// logTree is a log directory with traps.
func logTree(t *testing.T) (dir, outside string) {
	t.Helper()
	base := t.TempDir()
	dir, outside = filepath.Join(base, "log"), filepath.Join(base, "secret")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "pods/ns_web_uid/main"), 0o755))
	must(os.MkdirAll(filepath.Join(dir, "containers"), 0o755))
	must(os.MkdirAll(filepath.Join(dir, "nginx"), 0o755))
	must(os.WriteFile(outside, []byte("for no eyes"), 0o600))
	must(os.WriteFile(filepath.Join(dir, "pods/ns_web_uid/main/0.log"), []byte("of main"), 0o644))
	must(os.WriteFile(filepath.Join(dir, "syslog"), []byte("of system"), 0o644))
	must(os.WriteFile(filepath.Join(dir, "kern.log"), []byte("of kernel"), 0o644))
	must(os.WriteFile(filepath.Join(dir, "nginx/nginx.log"), []byte("of nginx"), 0o644))
	must(os.Symlink(filepath.Join(dir, "pods/ns_web_uid/main/0.log"), filepath.Join(dir, "containers/web.log")))
	must(os.Symlink(filepath.Join(dir, "pods"), filepath.Join(dir, "absolute")))
	must(os.Symlink("pods", filepath.Join(dir, "relative")))
	must(os.Symlink(outside, filepath.Join(dir, "out-absolute")))
	must(os.Symlink("../secret", filepath.Join(dir, "out-relative")))
	must(os.Symlink("/", filepath.Join(dir, "root")))
	must(os.Symlink(dir+"/../secret", filepath.Join(dir, "out-dots")))
	must(os.Symlink(filepath.Join(dir, "loop"), filepath.Join(dir, "loop")))
	must(syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	return dir, outside
}

func TestSystemLogsStayInTheirDirectory(t *testing.T) {
	dir, outside := logTree(t)
	n := newNode(t, func(c *Config) { c.SystemLogDir = dir })
	for path, want := range map[string]string{
		"syslog": "200 of system", "pods/ns_web_uid/main/0.log": "200 of main",
		"containers/web.log": "200 of main", "absolute/ns_web_uid/main/0.log": "200 of main", "relative/ns_web_uid/main/0.log": "200 of main",
		"none": "404", "out-absolute": "403", "out-relative": "403", "out-dots": "403", "root/etc/passwd": "403", "root" + outside: "403",
		"loop": "403", "pipe": "403", "syslog/x": "404",
		"..%2fsecret": "40", "%2e%2e/secret": "40", "..%2f..%2f..%2f..%2fetc%2fpasswd": "40", "pods/..%2f..%2fsecret": "40", "%00": "4", "//syslog": "307", "../secret": "307",
	} {
		code, body, _ := n.do(t, "admin", "GET", "/logs/"+path, "")
		if got := fmt.Sprintf("%d %s", code, body); !strings.HasPrefix(got, want) || strings.Contains(body, "for no eyes") || strings.Contains(body, "root:") {
			t.Errorf("%s: %.200q, want %s", path, got, want)
		}
	}
	if code, body, _ := n.do(t, "admin", "GET", "/logs/pods/", ""); code != 200 || !strings.Contains(body, `<a href="ns_web_uid/">`) {
		t.Errorf("a directory: %d %s", code, body)
	}
	if code, _, header := n.do(t, "admin", "GET", "/logs/pods", ""); code != 301 || header.Get("Location") != "pods/" {
		t.Errorf("a directory without a slash: %d %q", code, header.Get("Location"))
	}
}

func FuzzLogPath(f *testing.F) {
	base := f.TempDir()
	dir := filepath.Join(base, "log")
	secret := filepath.Join(base, "secret")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o755), os.WriteFile(secret, []byte("secret"), 0o600), os.WriteFile(filepath.Join(dir, "a/b/c"), []byte("c"), 0o600),
		os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "l")), os.Symlink("/", filepath.Join(dir, "root")), os.Symlink("..", filepath.Join(dir, "up"))); err != nil {
		f.Fatal(err)
	}
	d, err := openLogDir(dir)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"a/b/c", "l/b/c", "../secret", "root" + secret, "up/secret", "l/../../secret", "root/../secret", "up/log/up/secret"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		file, err := d.Open(name)
		if err != nil {
			return
		}
		defer file.Close()
		real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.(*os.File).Fd()))
		if err != nil {
			t.Fatal(err)
		}
		if real != dir && !strings.HasPrefix(real, dir+"/") {
			t.Errorf("%q opens %s, outside of %s", name, real, dir)
		}
	})
}

func TestLogQuery(t *testing.T) {
	dir, _ := logTree(t)
	d, err := openLogDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"":                "none",
		"unknown=1":       "none",
		"query=":          "400 query: may not be empty",
		"query=+&query=+": "400 query: may not be empty",
		"query=kubelet":   "journalctl --utc --no-pager --output=short-precise --unit=kubelet",
		"query=kubelet&query=containerd&tailLines=10&boot=-1&pattern=err":              "journalctl --utc --no-pager --output=short-precise --pager-end --lines=10 --unit=kubelet --unit=containerd --grep=err --boot=-1",
		"query=k&sinceTime=2026-01-02T03:04:05%2B02:00&untilTime=2026-01-03T00:00:00Z": "journalctl --utc --no-pager --output=short-precise --since=2026-01-02 01:04:05 UTC --until=2026-01-03 00:00:00 UTC --unit=k",
		"query=k&sinceTime=2026-01-03T00:00:00Z&untilTime=2026-01-02T00:00:00Z":        "406 untilTime: must be after `sinceTime`",
		"query=k&sinceTime=now":                   "400 sinceTime: invalid time format \"now\", want 2006-01-02T15:04:05Z",
		"query=k&boot=1":                          "406 boot: must be less than 1",
		"query=k&boot=x":                          "400 boot: \"x\" is not a number",
		"query=k&tailLines=100001":                "406 tailLines: must be between 0 and 100000, inclusive",
		"query=k&tailLines=-1":                    "406 tailLines: must be between 0 and 100000, inclusive",
		"query=k&pattern=(":                       "406 pattern: error parsing regexp: missing closing ): `(`",
		"tailLines=1":                             "406 query: cannot be empty with options",
		"query=a&query=b&query=c&query=d&query=e": "406 query: at most 4 services",
		"query=-f":                                "406 query: \"-f\" is not the name of a service",
		"query=a%0ab":                             "406 query: \"a\\nb\" is not the name of a service",
		"query=$(x)":                              "406 query: \"$(x)\" is not the name of a service",
		"query=..":                                "406 query: \"..\" is not the name of a service",
		"query=k&pattern=--output%3Dexport":       "journalctl --utc --no-pager --output=short-precise --unit=k --grep=--output=export",
		"query=/syslog":                           "file /syslog",
		"query=%5Csyslog":                         "file \\syslog",
		"query=/syslog&query=/kern.log":           "406 query: cannot specify more than one file",
		"query=/syslog&query=kubelet":             "406 query: cannot specify a file and service",
		"query=/syslog&tailLines=1":               "406 query: cannot specify file with options",
		"query=/out-relative":                     "406 query: open out-relative: permission denied",
		"query=/none":                             "406 query: statat none: no such file or directory",
		"query=/../secret":                        "406 query: open ../secret: invalid argument",
		"query=" + strings.Repeat("a", 257):       "406 query: \"" + strings.Repeat("a", 257) + "\" is not the name of a service",
		"query=k&pattern=" + strings.Repeat("a", maxPattern+1): "406 pattern: longer than 1024",
	} {
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got := "none"
		if q, err := parseLogQuery(values); err != nil {
			got = "400 " + err.Error()
		} else if q != nil {
			switch err := q.check(d); {
			case err != nil:
				got = "406 " + err.Error()
			case len(q.files) > 0:
				got = "file " + q.files[0]
			default:
				got = "journalctl " + strings.Join(q.arguments(q.services), " ")
			}
		}
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", query, got, want)
		}
	}
}

func TestLogsOfServices(t *testing.T) {
	dir, _ := logTree(t)
	d, err := openLogDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := &systemLogs{dir: d, query: true, run: func(_ context.Context, out io.Writer, args ...string) error {
		if args[0] == "--field" {
			fmt.Fprintln(out, "kubelet.service\ncontainerd.service")
			return nil
		}
		fmt.Fprintf(out, "journal of %s\n", args[len(args)-1])
		return nil
	}}
	for query, want := range map[string]string{
		"query=kubelet":            "200 journal of --unit=kubelet\n",
		"query=syslog":             "200 of system",
		"query=kern":               "200 of kernel",
		"query=nginx":              "200 of nginx",
		"query=let":                "200 \nlog not found for let\n",
		"query=nginx&tailLines=1":  "200 \noptions present and query resolved to log files for [nginx]\ntry without specifying options\n",
		"query=out-relative":       "200 \nerror getting log for out-relative: open out-relative: permission denied\n",
		"query=kubelet&query=kern": "200 journal of --unit=kubelet\nof kernel",
	} {
		if got := ask(l, "GET", "/logs/?"+query, ""); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	if got := ask(l, "GET", "/logs/syslog?query=kubelet", "syslog"); got != "406 path not allowed in query mode\n" {
		t.Errorf("path and query: %q", got)
	}
}

func FuzzLogQuery(f *testing.F) {
	for _, seed := range []string{"query=kubelet&boot=-1&tailLines=3", "query=/x&pattern=(", "sinceTime=2026-01-02T03:04:05Z", "query=%00"} {
		f.Add(seed)
	}
	d, err := openLogDir(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		values, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		q, err := parseLogQuery(values)
		if err != nil || q == nil || q.check(d) != nil {
			return
		}
		for _, a := range q.arguments(q.services) {
			name, _, _ := strings.Cut(a, "=")
			if !slices.Contains([]string{"--utc", "--no-pager", "--output", "--since", "--until", "--pager-end", "--lines", "--unit", "--grep", "--boot"}, name) {
				t.Errorf("%q runs journalctl with %q", text, a)
			}
			if strings.HasPrefix(a, "--unit=") && strings.ContainsAny(a, "/\x00\n *?[") {
				t.Errorf("%q runs journalctl with %q", text, a)
			}
		}
	})
}

func FuzzContainerLogQuery(f *testing.F) {
	for _, seed := range []string{"follow=true&tail=all&limitBytes=1", "sinceTime=2026-01-02T03:04:05Z&stream=All"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		values, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		o, err := parseLogOptions(values)
		if err != nil || checkLogOptions(o) != nil {
			return
		}
		if o.TailLines != nil && *o.TailLines < 0 || o.LimitBytes != nil && *o.LimitBytes < 1 || o.SinceSeconds != nil && *o.SinceSeconds < 1 {
			t.Errorf("%q: %+v", text, o)
		}
	})
}
