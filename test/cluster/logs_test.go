package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/test/harness"
)

// Every line of a container that writes 50 MB/s arrives once and in order, in
// kubectl logs -f, which ends with the container; and its log is rotated all
// the while.
func TestLogsFollowAFastWriterAcrossRotations(t *testing.T) {
	t.Parallel()
	if harness.Upstream() {
		t.Skip("upstream follows the newest file only")
	}
	const total, speed, length = 100_000_000, 50_000_000, 100
	ns := namespace(t)
	createText(t, ns, agentPod("writer", []string{"lines", fmt.Sprint(total), fmt.Sprint(speed)}, "restartPolicy: Never"))
	pod := waitPod(t, ns, "writer", "start", func(p *v1.Pod) bool {
		return p != nil && (p.Status.Phase == v1.PodRunning || p.Status.Phase == v1.PodSucceeded)
	})
	begin := time.Now()
	p, err := node.Start(harness.Command{Name: "follow-writer", Path: "/usr/bin/kubectl",
		Args: []string{"--kubeconfig=/etc/kubernetes/admin.conf", "logs", "-f", "-n", ns, "writer"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	defer os.Remove(p.Log)
	select {
	case <-p.Done():
	case <-time.After(2 * patience):
		t.Fatal("kubectl logs -f does not end with the container")
	}
	t.Logf("followed in %s", time.Since(begin).Round(100*time.Millisecond))
	checkLines(t, "logs -f", p.Log, total/length, length)

	// What is kept can be read as one log afterwards.
	rest, err := node.Start(harness.Command{Name: "read-writer", Path: "/usr/bin/kubectl",
		Args: []string{"--kubeconfig=/etc/kubernetes/admin.conf", "logs", "-n", ns, "writer"}})
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Kill()
	defer os.Remove(rest.Log)
	begin = time.Now()
	<-rest.Done()
	t.Logf("read in %s", time.Since(begin).Round(100*time.Millisecond))
	checkLines(t, "logs", rest.Log, total/length, length)
	if out := kubectlOK(t, "logs", "-n", ns, "writer", "--tail=2"); out != fmt.Sprintf("%0*d\n%0*d\n", length-1, total/length-2, length-1, total/length-1) {
		t.Errorf("--tail=2: %q", out)
	}
	// Across the newest file, which holds 10 MiB and some at most.
	if out := kubectlOK(t, "logs", "-n", ns, "writer", "--tail=200000"); strings.Count(out, "\n") != 200000 || !strings.HasPrefix(out, fmt.Sprintf("%0*d\n", length-1, total/length-200000)) {
		t.Errorf("--tail=200000: %d lines, beginning with %.100s", strings.Count(out, "\n"), out)
	}

	files, err := filepath.Glob(node.Path(fmt.Sprintf("/var/log/pods/%s_writer_%s/main/0.log*", ns, pod.UID)))
	if err != nil || len(files) < 8 {
		t.Errorf("%d log files, %v; want one for each 10 MiB or so", len(files), err)
	}
	var largest int64
	for _, f := range files {
		largest = max(largest, unzippedSize(t, f))
	}
	t.Logf("%d files, the largest has %.2f of the size at which logs are rotated", len(files), float64(largest)/(10<<20))
}

// unzippedSize is what the last four bytes of a gzip file say (RFC 1952).
func unzippedSize(t *testing.T, name string) int64 {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(name, ".gz") {
		return info.Size()
	}
	var size [4]byte
	if _, err := f.ReadAt(size[:], info.Size()-4); err != nil {
		t.Fatal(err)
	}
	return int64(binary.LittleEndian.Uint32(size[:]))
}

// checkLines wants lines 0 to n-1 in a file, each once.
func checkLines(t *testing.T, what, path string, n, length int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	i := 0
	for ; s.Scan(); i++ {
		if want := fmt.Sprintf("%0*d", length-1, i); s.Text() != want {
			t.Errorf("%s: line %d is %q", what, i, s.Text())
			return
		}
	}
	if i != n || s.Err() != nil {
		t.Errorf("%s: %d lines of %d, %v", what, i, n, s.Err())
	}
}

func TestKubectlLogs(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, `apiVersion: v1
kind: Pod
metadata:
  name: talker
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - name: first
    image: docker.io/library/busybox:latest
    imagePullPolicy: Never
    command: ["sh", "-c", "echo init was here"]
  volumes: [{name: shared, emptyDir: {}}]
  containers:
  - name: main
    image: docker.io/library/busybox:latest
    imagePullPolicy: Never
    volumeMounts: [{name: shared, mountPath: /shared}]
    command: ["sh", "-c", "n=$(cat /shared/n 2>/dev/null); echo run $n; printf 'no end of line'; if [ -z \"$n\" ]; then echo to stderr >&2; echo 2 > /shared/n; exit 1; fi; echo; head -c 40000 /dev/zero | tr '\\0' x; echo; echo last; exec sleep 3600"]
`)
	waitPod(t, ns, "talker", "the second run", func(p *v1.Pod) bool {
		if p == nil {
			return false
		}
		c := harness.ContainerStatus(p, "main")
		return c.RestartCount == 1 && c.State.Running != nil
	})
	long := strings.Repeat("x", 40000)
	logs := func(args ...string) string {
		return kubectlOK(t, append([]string{"logs", "-n", ns, "talker", "-c", "main"}, args...)...)
	}
	hold(t, "the last line", func() bool { return strings.HasSuffix(logs(), "last\n") })

	whole := logs()
	if whole != "run 2\nno end of line\n"+long+"\nlast\n" {
		t.Errorf("log: %.200q", whole)
	}
	if out := logs("--tail=2"); out != long+"\nlast\n" {
		t.Errorf("--tail=2 of a line in pieces: %d bytes, %.50q", len(out), out)
	}
	if out := logs("--limit-bytes=7"); out != whole[:7] {
		t.Errorf("--limit-bytes=7: %q", out)
	}
	if out := logs("--since-time=2100-01-01T00:00:00Z"); out != "" {
		t.Errorf("--since-time in the future: %.100q", out)
	}
	if out := logs("--since=1h"); out != whole {
		t.Errorf("--since=1h: %d bytes of %d", len(out), len(whole))
	}
	stamped := strings.Split(logs("--timestamps", "--tail=1"), " ")
	if at, err := time.Parse("2006-01-02T15:04:05.000000000Z07:00", stamped[0]); err != nil || time.Since(at).Abs() > time.Hour || stamped[1] != "last\n" {
		t.Errorf("--timestamps: %q", stamped)
	}
	if out := logs("--previous"); !strings.Contains(out, "run\n") || !strings.Contains(out, "to stderr\n") || !strings.Contains(out, "no end of line") {
		t.Errorf("--previous: %q", out)
	}
	if out := kubectlOK(t, "logs", "-n", ns, "talker", "-c", "first"); out != "init was here\n" {
		t.Errorf("init container: %q", out)
	}
	if out, err := kubectl(t, "logs", "-n", ns, "talker", "-c", "first", "--previous"); err == nil || !strings.Contains(out, "previous terminated container") {
		t.Errorf("--previous of a container without one: %v, %q", err, out)
	}

	// Following ends when the container does, though it is started again.
	p, err := node.Start(harness.Command{Name: "follow-talker", Path: "/usr/bin/kubectl",
		Args: []string{"--kubeconfig=/etc/kubernetes/admin.conf", "logs", "-f", "-n", ns, "talker", "-c", "main"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	followed := func() string {
		text, _ := os.ReadFile(p.Log)
		return string(text)
	}
	hold(t, "what there is", func() bool { return followed() == whole })
	kubectlOK(t, "exec", "-n", ns, "talker", "-c", "main", "--", "sh", "-c", "echo said later > /proc/1/fd/1")
	hold(t, "a line more", func() bool { return followed() == whole+"said later\n" })
	deletePod(t, ns, "talker", 0)
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Error("kubectl logs -f does not end with the container")
	}
	if got := followed(); got != whole+"said later\n" {
		t.Errorf("followed: %.300q", got)
	}
}

// hold waits until it holds.
func hold(t *testing.T, what string, holds func() bool) {
	t.Helper()
	until(t, what, func(context.Context) error {
		if !holds() {
			return errors.New("not yet")
		}
		return nil
	})
}
