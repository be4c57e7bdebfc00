package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

// serve runs a server in a root directory of its own until the test ends.
func serve(t *testing.T, config ServerConfig) (root string, table *Table) {
	t.Helper()
	root = t.TempDir()
	config.Path = filepath.Join(root, SocketName)
	if config.Table == nil {
		config.Table = NewTable()
	}
	start(t, config)
	return root, config.Table
}

func start(t *testing.T, config ServerConfig) (stop func()) {
	t.Helper()
	s, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for {
		conn, err := net.Dial("unix", config.Path)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case err := <-done:
			t.Fatalf("Run: %v", err)
		default:
		}
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func examples(t *testing.T) Report {
	t.Helper()
	data, err := os.ReadFile("testdata/pods.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var report Report
	if err := yaml.UnmarshalStrict(data, &report); err != nil {
		t.Fatal(err)
	}
	return report
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestPrintedForms(t *testing.T) {
	report := examples(t)
	for name, pod := range map[string]string{"list.txt": "", "detail.txt": "web-2", "one-of-namespace.txt": "kube-system/dns"} {
		var b bytes.Buffer
		q := question{pod: pod, stdout: &b}
		pods, err := q.choose(report)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.print(Report{Time: report.Time, Pods: pods}); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.Bytes())
	}
	q := question{pod: "default/web"}
	if _, err := q.choose(report); err == nil || !strings.Contains(err.Error(), "did you mean default/web-1 or default/web-2?") {
		t.Errorf("unknown pod: %v", err)
	}
}

func command(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = Command(args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestCommand(t *testing.T) {
	root, table := serve(t, ServerConfig{Events: func(uid types.UID) []Event {
		return []Event{{Reason: "Pulling", Message: "of " + string(uid)}}
	}})
	for _, p := range examples(t).Pods {
		table.Set(p.Entry)
	}
	if code, out, errs := command("--root-dir", root); code != 0 || strings.Count(out, "\n") != 4 || errs != "" {
		t.Errorf("list: %d %s%s", code, out, errs)
	}
	// Flags may stand behind the pod.
	code, out, errs := command("default/web-2", "--root-dir", root, "-o", "json")
	var pod Pod
	if err := json.Unmarshal([]byte(out), &pod); code != 0 || err != nil || pod.Attempts != 3 || len(pod.Events) != 1 {
		t.Errorf("json of one: %d %s%s%v", code, out, errs, err)
	}
	var report Report
	_, out, _ = command("--root-dir", root, "-o", "json")
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Pods) != 3 {
		t.Errorf("json of all: %s%v", out, err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--root-dir", root, "nosuch"}, 1, "no pod nosuch"},
		{[]string{"--root-dir", filepath.Join(root, "other")}, 1, "no kubelet is running here"},
		{[]string{"a", "b"}, 2, "one pod"},
		{[]string{"-o", "yaml"}, 2, "json"},
		{[]string{"--nonsense"}, 2, "nonsense"},
		{[]string{"--help"}, 0, "Usage"},
	} {
		if code, _, errs := command(c.args...); code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%v: %d %s", c.args, code, errs)
		}
	}
}

func TestSocketOfAKilledAgentIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := NewClient(path).Pods(t.Context()); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("nobody answers: %v", err)
	}
	config := ServerConfig{Path: path, Table: NewTable()}
	stop := start(t, config)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// A second agent does not take it away.
	second, _ := NewServer(config)
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another kubelet") {
		t.Errorf("second agent: %v", err)
	}
	stop()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after the end: %v", err)
	}
	// Something else in its place is left alone.
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("a file in the way: %v", err)
	}
}

func TestWatch(t *testing.T) {
	root, table := serve(t, ServerConfig{})
	reports := make(chan Report)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- NewClient(filepath.Join(root, SocketName)).Watch(ctx, func(r Report) error { reports <- r; return nil })
	}()
	if r := <-reports; len(r.Pods) != 0 {
		t.Errorf("first report: %+v", r)
	}
	table.Set(Entry{UID: "a", Stage: Image})
	if r := <-reports; len(r.Pods) != 1 || r.Pods[0].Stage != Image {
		t.Errorf("after a change: %+v", r)
	}
	table.Set(Entry{UID: "a", Stage: Running})
	if r := <-reports; r.Pods[0].Stage != Running {
		t.Errorf("after another change: %+v", r)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
}

// Clients beyond the bound wait until one of the others goes.
func TestClientsAreBounded(t *testing.T) {
	root, table := serve(t, ServerConfig{})
	table.Set(Entry{UID: "a"})
	client := NewClient(filepath.Join(root, SocketName))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watching := make(chan struct{})
	for range maxClients {
		go client.Watch(ctx, func(Report) error { watching <- struct{}{}; return nil })
		<-watching
	}
	short, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	if _, err := client.Pods(short); !errors.Is(err, context.DeadlineExceeded) && (err == nil || !strings.Contains(err.Error(), "too many")) {
		t.Errorf("one client too many: %v", err)
	}
	cancel()
	if report, err := client.Pods(t.Context()); err != nil || len(report.Pods) != 1 {
		t.Errorf("after the others went: %v", err)
	}
}

// TestOtherUsersAreRefused asks from a process of user nobody.
func TestOtherUsersAreRefused(t *testing.T) {
	if path := os.Getenv("KUBELET_TEST_EXPLAIN_SOCKET"); path != "" {
		_, err := NewClient(path).Pods(context.Background())
		if err == nil {
			t.Fatal("the agent answered")
		}
		t.Log(err)
		return
	}
	needPrivileges(t)
	dir, err := os.MkdirTemp("", "explain")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, SocketName)
	start(t, ServerConfig{Path: path, Table: NewTable()})
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "test")
	if err := os.WriteFile(binary, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for mode, says := range map[os.FileMode]string{0o600: "try sudo", 0o666: "only root may ask"} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(binary, "-test.run=TestOtherUsersAreRefused", "-test.v")
		cmd.Dir, cmd.Env = dir, []string{"KUBELET_TEST_EXPLAIN_SOCKET=" + path, "TMPDIR=/tmp"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), says) {
			t.Errorf("mode %o: %v\n%s", mode, err, out)
		}
	}
}

func needPrivileges(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("KUBELET_TEST_PRIVILEGED") == "1" {
		t.Fatal("this test needs root, and KUBELET_TEST_PRIVILEGED=1 says that it must run")
	}
	t.Skip("needs root: it asks as another user")
}

func TestClientThatNeverReadsHoldsNobodyUp(t *testing.T) {
	root, table := serve(t, ServerConfig{})
	for i := range 500 { // more than a socket takes
		table.Set(Entry{UID: types.UID(time.Duration(i).String()), LastError: strings.Repeat("x", 1000)})
	}
	conn, err := net.Dial("unix", filepath.Join(root, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /v1/pods?watch=true HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	// The client waits for the beginning of an answer no longer than the server
	// for somebody who does not read.
	if _, err := NewClient(filepath.Join(root, SocketName)).Pods(t.Context()); err != nil {
		t.Errorf("another client had to wait: %v", err)
	}
}
