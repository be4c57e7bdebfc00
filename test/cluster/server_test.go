package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

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
	t.Run("logs", func(t *testing.T) {
		if out := kubectlOK(t, "logs", "-n", ns, "box"); out != "started\n" {
			t.Errorf("logs: %q", out)
		}
		if out := kubectlOK(t, "logs", "-n", ns, "box", "--tail=1", "--timestamps"); !strings.HasSuffix(out, "Z started\n") && !strings.Contains(out, "started") {
			t.Errorf("logs with a time: %q", out)
		}
		out, err := kubectl(t, "logs", "-n", ns, "box", "--previous")
		if err == nil || !strings.Contains(out, "previous terminated container") {
			t.Errorf("logs of what there never was: %v %q", err, out)
		}
		createText(t, ns, `apiVersion: v1
kind: Pod
metadata: {name: talks}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: "docker.io/library/busybox:latest", imagePullPolicy: Never, command: [sh, -c, "for i in 1 2 3; do echo line $i; sleep 1; done"]}
`)
		waitPod(t, ns, "talks", "its container to have started", func(p *v1.Pod) bool {
			return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting == nil
		})
		if out := kubectlOK(t, "logs", "-f", "-n", ns, "talks"); out != "line 1\nline 2\nline 3\n" {
			t.Errorf("logs -f: %q", out)
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
		out, err := node.Run(t.Context(), "/bin/sh", "-c", attachScript(ns, "attached", "--kubeconfig=/etc/kubernetes/admin.conf"))
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
			"metrics": "kubelet_http_requests_total{", "metrics/cadvisor": "container_memory_working_set_bytes{",
			"metrics/resource": "node_cpu_usage_seconds_total ", "stats/summary": `"nodeName"`, "statusz": "kubelet statusz", "flagz": "kubelet flagz",
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

// attachScript says hello to the pod box and holds its input open until the
// answer is there, in a file of /tmp.
func attachScript(ns, file string, flags ...string) string {
	return fmt.Sprintf("cd /tmp; : >%[1]s; (printf 'hello\\n'; for i in $(seq 700); do grep -q hello %[1]s && break; sleep 0.1; done) | timeout 80 kubectl %[2]s attach -i -n %[3]s box | tee %[1]s",
		file, strings.Join(flags, " "), ns)
}

// apiSocket opens a WebSocket by the API server, as kubectl does.
func apiSocket(ctx context.Context, path, protocol string) (*websocket.Conn, error) {
	c, err := rest.TLSConfigFor(node.Cluster.Config)
	if err != nil {
		return nil, err
	}
	return openSocket(ctx, strings.TrimPrefix(node.Cluster.Config.Host, "https://"), c, path, protocol, "")
}

// kubeletSocket opens a WebSocket at the kubelet itself.
func kubeletSocket(ctx context.Context, path, protocol, token string) (*websocket.Conn, error) {
	return openSocket(ctx, harness.NodeIP+":10250", &tls.Config{InsecureSkipVerify: true}, path, protocol, token)
}

func openSocket(ctx context.Context, address string, c *tls.Config, path, protocol, token string) (*websocket.Conn, error) {
	raw, err := node.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(address)
	c = c.Clone()
	c.ServerName, c.NextProtos = host, []string{"http/1.1"}
	conn := tls.Client(raw, c)
	config, err := websocket.NewConfig("wss://"+address+path, "https://"+address)
	if err != nil {
		return nil, err
	}
	config.Protocol = []string{protocol}
	if token != "" {
		config.Header.Set("Authorization", "Bearer "+token)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ws, nil
}

const socketProtocol = "v5.channel.k8s.io"

func execPath(ns, pod string, command ...string) string {
	q := url.Values{"command": command, "stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"}, "container": {"main"}}
	return "/api/v1/namespaces/" + ns + "/pods/" + pod + "/exec?" + q.Encode()
}

// channels reads a session to its end and returns what came on each channel.
func channels(ws *websocket.Conn) (map[byte]string, error) {
	got := map[byte]string{}
	for {
		var message []byte
		if err := websocket.Message.Receive(ws, &message); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return got, err
		}
		if len(message) > 0 {
			got[message[0]] += string(message[1:])
		}
	}
}

// kubeletGoroutines counts what serves sessions in the kubelet.
func kubeletGoroutines(t *testing.T) int {
	t.Helper()
	stacks := kubectlOK(t, "get", "--raw", "/api/v1/nodes/"+node.Name+"/proxy/debug/pprof/goroutine?debug=2")
	count := 0
	for stack := range strings.SplitSeq(stacks, "\n\n") {
		if strings.Contains(stack, "spdystream") || strings.Contains(stack, "server.(*translation)") || strings.Contains(stack, "server.(*Server).stream(") || strings.Contains(stack, "server.(*Server).join") {
			count++
		}
	}
	return count
}

// TestHundredExecs has a hundred sessions at once, by the API server; half of
// their clients leave in the middle. Nothing of them is left in the kubelet.
func TestHundredExecs(t *testing.T) {
	upstreamFails(t, "it has no such goroutines to count")
	ns := namespace(t)
	createText(t, ns, shellPod("box"))
	waitReady(t, ns, "box")
	const many = 100
	open := make(chan error, many)
	done := make(chan error, many)
	hold := make(chan struct{})
	for i := range many {
		go func() {
			opened := false
			err := func() error {
				ws, err := apiSocket(t.Context(), execPath(ns, "box", "cat"), socketProtocol)
				if err != nil {
					return err
				}
				defer ws.Close()
				text := fmt.Sprintf("hello %d", i)
				if err := websocket.Message.Send(ws, append([]byte{0}, text...)); err != nil {
					return err
				}
				for got := ""; got != text; {
					var message []byte
					if err := websocket.Message.Receive(ws, &message); err != nil {
						return fmt.Errorf("after %q: %w", got, err)
					}
					if len(message) > 1 && message[0] == 1 {
						got += string(message[1:])
					}
				}
				opened = true
				open <- nil
				<-hold
				if i%2 == 1 {
					return nil // leaves
				}
				if err := websocket.Message.Send(ws, []byte{255, 0}); err != nil {
					return err
				}
				got, err := channels(ws)
				if err == nil && !strings.Contains(got[3], `"Success"`) {
					err = fmt.Errorf("ended with %q", got[3])
				}
				return err
			}()
			if !opened {
				open <- err
			}
			done <- err
		}()
	}
	for range many {
		if err := <-open; err != nil {
			t.Error(err)
		}
	}
	if n := kubeletGoroutines(t); n == 0 && !t.Failed() {
		t.Error("no goroutine serves a hundred sessions: the count is wrong")
	}
	close(hold)
	for range many {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	until(t, "the sessions' goroutines to end", func(context.Context) error {
		if n := kubeletGoroutines(t); n > 0 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
}

// TestKubeletAccess asks the kubelet itself, with tokens of service accounts
// that have rights of their own, and without.
func TestKubeletAccess(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, shellPod("box"))
	waitReady(t, ns, "box")
	token := func(name string, rules ...string) string {
		t.Helper()
		text := fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %[1]s, namespace: %[2]s}\n---\n"+
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: %[2]s-%[1]s}\nrules: [{apiGroups: [\"\"], resources: [%[3]s], verbs: [get]}]\n---\n"+
			"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: %[2]s-%[1]s}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[2]s-%[1]s}\nsubjects: [{kind: ServiceAccount, name: %[1]s, namespace: %[2]s}]\n",
			name, ns, strings.Join(rules, ", "))
		if err := node.WriteFile("/tmp/"+ns+"-"+name+".yaml", text, 0o644); err != nil {
			t.Fatal(err)
		}
		kubectlOK(t, "apply", "-f", "/tmp/"+ns+"-"+name+".yaml")
		return strings.TrimSpace(kubectlOK(t, "create", "token", "-n", ns, name))
	}
	metrics, pods, proxy := token("metrics", "nodes/metrics", "nodes/stats"), token("pods", "nodes/pods", "nodes/healthz", "nodes/configz"), token("proxy", "nodes/proxy")
	get := func(bearer, path string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+harness.NodeIP+":10250"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if bearer != "" {
			req.Header.Set("Authorization", "Bearer "+bearer)
		}
		client := node.HTTPClient()
		client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		who, token string
		path       string
		want       int
	}{
		{"nobody", "", "/pods", 401}, {"nobody", "", "/metrics", 401}, {"nobody", "", "/nothing", 401}, {"nobody", "", "/healthz", 401},
		{"a wrong token", "x.y.z", "/pods", 401},
		{"metrics", metrics, "/metrics", 200}, {"metrics", metrics, "/metrics/resource", 200}, {"metrics", metrics, "/stats/summary", 200},
		{"metrics", metrics, "/pods", 403}, {"metrics", metrics, "/exec/" + ns + "/box/main?output=1&command=id", 403}, {"metrics", metrics, "/nothing", 403},
		{"pods", pods, "/pods", 200}, {"pods", pods, "/runningpods/", 200}, {"pods", pods, "/healthz", 200}, {"pods", pods, "/configz", 200},
		{"pods", pods, "/metrics", 403}, {"pods", pods, "/containerLogs/" + ns + "/box/main", 403},
		{"proxy", proxy, "/pods", 200}, {"proxy", proxy, "/metrics", 403}, {"proxy", proxy, "/logs/", 403}, {"proxy", proxy, "/nothing", 404},
	} {
		// Rights reach the authorizer a moment after they were granted.
		until(t, fmt.Sprintf("%s as %s to answer %d", c.path, c.who, c.want), func(context.Context) error {
			if got := get(c.token, c.path); got != c.want {
				return fmt.Errorf("answers %d", got)
			}
			return nil
		})
	}
	// Upstream's rule: the request is a GET, so who may get nodes/proxy may
	// run commands.
	ws, err := kubeletSocket(t.Context(), "/exec/"+ns+"/box/main?output=1&command=echo&command=hi", socketProtocol, proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if got, err := channels(ws); got[1] != "hi\n" {
		t.Errorf("%q, %v", got, err)
	}
	if ws, err := kubeletSocket(t.Context(), "/exec/"+ns+"/box/main?output=1&command=id", socketProtocol, metrics); err == nil {
		ws.Close()
		t.Error("who may read metrics runs commands")
	}
}

// TestExecRoundTrip measures: RUNS=100 go test -run TestExecRoundTrip -v.
func TestExecRoundTrip(t *testing.T) {
	runs, _ := strconv.Atoi(os.Getenv("RUNS"))
	if runs == 0 {
		t.Skip("RUNS is not set")
	}
	ns := namespace(t)
	createText(t, ns, shellPod("box"))
	pod := waitReady(t, ns, "box")
	id := strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://")
	sockets := func(open func() (*websocket.Conn, error)) func() error {
		return func() error {
			ws, err := open()
			if err != nil {
				return err
			}
			defer ws.Close()
			got, err := channels(ws)
			if got[1] != "hi\n" {
				return fmt.Errorf("%q, %w", got, err)
			}
			return nil
		}
	}
	admin, err := rest.TLSConfigFor(node.Cluster.Config)
	if err != nil {
		t.Fatal(err)
	}
	admin.InsecureSkipVerify = true
	q := url.Values{"command": {"echo", "hi"}, "stdout": {"true"}, "container": {"main"}}
	ways := map[string]func() error{
		"ExecSync": func() error {
			_, err := node.Runtime.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"echo", "hi"}})
			return err
		},
		"runtime": sockets(func() (*websocket.Conn, error) {
			resp, err := node.Runtime.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"echo", "hi"}, Stdout: true})
			if err != nil {
				return nil, err
			}
			u, err := url.Parse(resp.Url)
			if err != nil {
				return nil, err
			}
			conn, err := node.Dial(t.Context(), "tcp", u.Host)
			if err != nil {
				return nil, err
			}
			config, _ := websocket.NewConfig("ws://"+u.Host+u.Path, "http://"+u.Host)
			config.Protocol = []string{"v4.channel.k8s.io"}
			return websocket.NewClient(config, conn)
		}),
		"kubelet, v5": sockets(func() (*websocket.Conn, error) {
			return openSocket(t.Context(), harness.NodeIP+":10250", admin, "/exec/"+ns+"/box/main?output=1&command=echo&command=hi", socketProtocol, "")
		}),
		"kubelet, v4": sockets(func() (*websocket.Conn, error) {
			return openSocket(t.Context(), harness.NodeIP+":10250", admin, "/exec/"+ns+"/box/main?output=1&command=echo&command=hi", "v4.channel.k8s.io", "")
		}),
		"API server, v5": sockets(func() (*websocket.Conn, error) {
			return apiSocket(t.Context(), "/api/v1/namespaces/"+ns+"/pods/box/exec?"+q.Encode(), socketProtocol)
		}),
	}
	times := map[string][]time.Duration{}
	for range runs {
		for name, way := range ways { // in turns, in no order
			begin := time.Now()
			if err := way(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			times[name] = append(times[name], time.Since(begin))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(times)) {
		slices.Sort(times[name])
		t.Logf("%-16s p50 %v, p90 %v, least %v", name, times[name][runs/2], times[name][runs*9/10], times[name][0])
	}
}

// Both ways by which kubectl streams, through the API server to a real
// container: a terminal with its size, the end of input, exit codes, files and
// ports.
func TestKubectlStreamsBothWays(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, shellPod("box"))
	createText(t, ns, agentPod("web", []string{"serve", ":8080", "/"}))
	waitReady(t, ns, "box")
	waitReady(t, ns, "web")
	for by, sockets := range map[string]string{"WebSocket": "true", "SPDY": "false"} {
		environment := "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=" + sockets + " KUBECTL_PORT_FORWARD_WEBSOCKETS=" + sockets + " KUBECONFIG=/etc/kubernetes/admin.conf"
		shell := func(t *testing.T, script string) (string, error) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return node.Run(ctx, "/bin/sh", "-c", "export "+environment+"; cd /tmp; "+script)
		}
		t.Run(by, func(t *testing.T) {
			// The terminal of script(1) is the one whose size the container's has.
			if out, err := shell(t, "script -qec 'stty rows 31 cols 101; kubectl exec -it -n "+ns+" box -- sh -c \"sleep 1; stty size\"' /dev/null </dev/null"); err != nil || !strings.Contains(out, "31 101") {
				t.Errorf("size of the terminal: %q, %v", out, err)
			}
			if out, err := shell(t, "printf 'in' | kubectl exec -i -n "+ns+" box -- sh -c 'cat; echo , end of input; echo problem >&2; exit 7' 2>err; echo code $?; cat err"); err != nil ||
				!strings.HasPrefix(out, "in, end of input\ncode 7\n") || !strings.Contains(out, "problem") {
				t.Errorf("input, output and code: %q, %v", out, err)
			}
			if out, err := shell(t, "head -c 3000000 /dev/urandom >"+by+"; kubectl cp "+by+" "+ns+"/box:/tmp/"+by+" && kubectl cp "+ns+"/box:/tmp/"+by+" "+by+"-back && cmp "+by+" "+by+"-back && echo same"); err != nil || !strings.Contains(out, "same") {
				t.Errorf("a file there and back: %q, %v", out, err)
			}
			if out, err := shell(t, attachScript(ns, "attached-"+by)); !strings.Contains(out, "hello\n") {
				t.Errorf("attach: %q, %v", out, err)
			}
			p, err := node.Start(harness.Command{Name: "port-forward-" + by, Path: "/usr/bin/env", Args: append(strings.Fields(environment), "kubectl", "port-forward", "-n", ns, "web", ":8080")})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Kill()
			until(t, "the forwarded port", func(ctx context.Context) error {
				said, _ := os.ReadFile(p.Log)
				_, rest, ok := strings.Cut(string(said), "Forwarding from 127.0.0.1:")
				if !ok {
					return fmt.Errorf("kubectl says %q", said)
				}
				port, _, _ := strings.Cut(rest, " ")
				out, err := node.Get(ctx, "http://127.0.0.1:"+port+"/hostname")
				if err == nil && !strings.Contains(out, "web") {
					err = fmt.Errorf("got %q", out)
				}
				return err
			})
		})
	}
}
