package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/test/harness"
)

// kubectl runs kubectl on the node, as the cluster's administrator.
func kubectl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return node.Run(ctx, "/usr/bin/kubectl", append([]string{"--kubeconfig=/etc/kubernetes/admin.conf"}, args...)...)
}

// kubectlOK is kubectl that has to succeed.
func kubectlOK(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kubectl(t, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// shellPod is a pod with a shell that lasts.
func shellPod(name string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: docker.io/library/busybox:latest
    imagePullPolicy: Never
    stdin: true
    command: ["sh", "-c", "echo started; exec cat"]
`, name)
}

func TestKubectlVerbs(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, shellPod("box"))
	createText(t, ns, agentPod("web", []string{"serve", ":8080", "/"}))
	waitReady(t, ns, "box")
	waitReady(t, ns, "web")

	t.Run("exec", func(t *testing.T) {
		if out := kubectlOK(t, "exec", "-n", ns, "box", "--", "sh", "-c", "echo out; echo err >&2"); !strings.Contains(out, "out\n") || !strings.Contains(out, "err\n") {
			t.Errorf("output: %q", out)
		}
	})
	t.Run("exit code", func(t *testing.T) {
		out, err := kubectl(t, "exec", "-n", ns, "box", "--", "sh", "-c", "exit 42")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 42 {
			t.Errorf("exit 42 is told as %v: %s", err, out)
		}
	})
	t.Run("no such container", func(t *testing.T) {
		out, err := kubectl(t, "exec", "-n", ns, "box", "-c", "none", "--", "true")
		if err == nil || !strings.Contains(out, "none") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("attach", func(t *testing.T) {
		out, err := node.Run(t.Context(), "/bin/sh", "-c", "(printf 'hello\\n'; sleep 2) | timeout 20 kubectl --kubeconfig=/etc/kubernetes/admin.conf attach -i -n "+ns+" box")
		if !strings.Contains(out, "hello\n") {
			t.Errorf("attach: %v, %q", err, out)
		}
	})
	t.Run("cp", func(t *testing.T) {
		// Large enough to fill every buffer on the way.
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
		if err := node.WriteFile("/tmp/up", string(data), 0o644); err != nil {
			t.Fatal(err)
		}
		kubectlOK(t, "cp", "/tmp/up", ns+"/box:/tmp/file")
		kubectlOK(t, "cp", ns+"/box:/tmp/file", "/tmp/down")
		back, err := os.ReadFile(node.Path("/tmp/down"))
		if err != nil || sha256.Sum256(back) != sha256.Sum256(data) {
			t.Errorf("%d bytes came back of %d: %v", len(back), len(data), err)
		}
	})
	t.Run("port-forward", func(t *testing.T) {
		p, err := node.Start(harness.Command{Name: "port-forward", Path: "/usr/bin/kubectl", Args: []string{
			"--kubeconfig=/etc/kubernetes/admin.conf", "port-forward", "-n", ns, "web", "18080:8080"}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Kill()
		until(t, "the forwarded port", func(ctx context.Context) error {
			_, err := node.Get(ctx, "http://127.0.0.1:18080/hostname")
			return err
		})
		for range 20 {
			if _, err := node.Get(t.Context(), "http://127.0.0.1:18080/hostname"); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("debug", func(t *testing.T) {
		out := kubectlOK(t, "debug", "-n", ns, "box", "--image=docker.io/library/busybox:latest", "--image-pull-policy=Never", "--container=look", "--profile=general", "--", "sleep", "600")
		t.Log(out)
		waitPod(t, ns, "box", "the ephemeral container to run", func(p *v1.Pod) bool {
			return len(p.Status.EphemeralContainerStatuses) == 1 && p.Status.EphemeralContainerStatuses[0].State.Running != nil
		})
		if out := kubectlOK(t, "exec", "-n", ns, "box", "-c", "look", "--", "echo", "inside"); !strings.Contains(out, "inside") {
			t.Errorf("exec in an ephemeral container: %q", out)
		}
	})
	t.Run("run", func(t *testing.T) {
		out := kubectlOK(t, "run", "-n", ns, "once", "--image=docker.io/library/busybox:latest", "--image-pull-policy=Never", "--restart=Never", "-i", "--rm", "--quiet", "--command", "--", "sh", "-c", "sleep 1; echo ran")
		if !strings.Contains(out, "ran") {
			t.Errorf("kubectl run -i: %q", out)
		}
	})
	t.Run("raw", func(t *testing.T) {
		raw := func(path string) string {
			return kubectlOK(t, "get", "--raw", "/api/v1/nodes/"+node.Name+"/proxy/"+path)
		}
		for path, want := range map[string]string{
			"healthz": "ok", "pods": `"name":"box"`, "runningpods/": `"name":"box"`, "configz": `"kubeletconfig":{`,
			"metrics": "kubelet_http_requests_total{", "statusz": "kubelet statusz", "flagz": "kubelet flagz",
			"logs/": "<pre>", "debug/pprof/goroutine?debug=1": "goroutine profile:",
		} {
			if got := raw(path); !strings.Contains(got, want) {
				t.Errorf("%s: %.300s, want %q in it", path, got, want)
			}
		}
		out, err := kubectl(t, "get", "--raw", "/api/v1/nodes/"+node.Name+"/proxy/logs/..%2f..%2fetc%2fshadow")
		if err == nil || strings.Contains(out, "root:") {
			t.Errorf("a path that leads out of the log directory: %v %.100s", err, out)
		}
	})
}
