package cri_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
	"kubelet/internal/cri/critest"
)

func TestEndpoints(t *testing.T) {
	for endpoint, wrong := range map[string]string{
		"unix:///run/containerd/containerd.sock": "",
		"unix:/run/containerd/containerd.sock":   "",
		"/run/containerd/containerd.sock":        "",
		"":                                       "empty",
		"run/containerd.sock":                    "want unix:///",
		"unix://run/containerd.sock":             "three slashes",
		"unix://":                                "three slashes",
		"tcp://127.0.0.1:1234":                   `scheme "tcp"`,
		"npipe:////./pipe/x":                     `scheme "npipe"`,
	} {
		c, err := cri.New(cri.Config{Endpoint: endpoint})
		switch {
		case wrong == "" && err != nil:
			t.Errorf("%q: %v", endpoint, err)
		case wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)):
			t.Errorf("%q: error %v, want %q", endpoint, err, wrong)
		}
		if c != nil {
			c.Close()
		}
	}
	if _, err := cri.New(cri.Config{Endpoint: "unix:///a", ImageEndpoint: "tcp://b"}); err == nil || !strings.Contains(err.Error(), "image service") {
		t.Errorf("a bad image endpoint: %v", err)
	}
}

// overSocket serves r on a unix socket and returns a client of it.
func overSocket(t *testing.T, r *critest.Runtime, cfg cri.Config) *cri.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cri.sock")
	stop, err := r.Serve(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); stop() })
	cfg.Endpoint = "unix://" + path
	c, err := cri.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestOverSocket takes a pod through its life with every call there is.
func TestOverSocket(t *testing.T) {
	r := critest.New(critest.Config{})
	c := overSocket(t, r, cri.Config{})
	ctx := t.Context()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	st, err := c.Status(ctx, true)
	must("Status", err)
	if len(st.RuntimeHandlers) != 1 {
		t.Errorf("handlers: %v", st.RuntimeHandlers)
	}
	driver, err := c.RuntimeConfig(ctx)
	must("RuntimeConfig", err)
	if driver != cri.Systemd {
		t.Errorf("cgroup driver %q", driver)
	}
	image := &runtimeapi.ImageSpec{Image: "registry.test/app:1"}
	if s, err := c.ImageStatus(ctx, image, false); err != nil || s.Image != nil {
		t.Errorf("image before the pull: %v, %v", s, err)
	}
	_, err = c.PullImage(ctx, image, &runtimeapi.AuthConfig{Username: "me"}, nil)
	must("PullImage", err)
	if p := r.Pulls(); len(p) != 1 || p[0] != (critest.Pulled{Image: "registry.test/app:1", Username: "me"}) {
		t.Errorf("pulls: %+v", p)
	}
	images, err := c.ListImages(ctx, nil)
	must("ListImages", err)
	if len(images) != 1 || images[0].RepoTags[0] != "registry.test/app:1" {
		t.Errorf("images: %v", images)
	}
	_, err = c.ImageFsInfo(ctx)
	must("ImageFsInfo", err)

	sandbox := critest.SandboxConfig("default", "web", "u1", 0)
	sid, err := c.RunPodSandbox(ctx, sandbox, "")
	must("RunPodSandbox", err)
	ss, err := c.PodSandboxStatus(ctx, sid, true)
	must("PodSandboxStatus", err)
	if cri.Pid(ss.Info) == 0 || ss.Status.Network.Ip == "" {
		t.Errorf("sandbox: %v", ss)
	}
	id, err := c.CreateContainer(ctx, sid, critest.ContainerConfig(sandbox, "app", image.Image, 0), sandbox)
	must("CreateContainer", err)
	must("StartContainer", c.StartContainer(ctx, id))
	cs, err := c.ContainerStatus(ctx, id, true)
	must("ContainerStatus", err)
	if cri.Pid(cs.Info) == 0 || cs.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("container: %v", cs)
	}
	must("UpdateContainerResources", c.UpdateContainerResources(ctx, id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 7}}))
	must("ReopenContainerLog", c.ReopenContainerLog(ctx, id))
	r.OnExec(func(e critest.ExecCall) critest.ExecResult {
		return critest.ExecResult{Stdout: strings.Join(e.Command, " "), Stderr: e.Container, Code: 3}
	})
	out, errOut, code, err := c.ExecSync(ctx, id, []string{"echo", "hi"}, time.Second)
	must("ExecSync", err)
	if string(out) != "echo hi" || string(errOut) != "app" || code != 3 {
		t.Errorf("exec: %q, %q, %d", out, errOut, code)
	}
	for what, f := range map[string]func() (string, error){
		"Exec":        func() (string, error) { return c.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id}) },
		"Attach":      func() (string, error) { return c.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id}) },
		"PortForward": func() (string, error) { return c.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: sid}) },
	} {
		url, err := f()
		must(what, err)
		if !strings.HasPrefix(url, "http://") {
			t.Errorf("%s: url %q", what, url)
		}
	}
	pods, err := c.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{cri.LabelPodUID: "u1"}})
	must("ListPodSandbox", err)
	none, err := c.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: map[string]string{cri.LabelPodUID: "u2"}})
	must("ListContainers", err)
	if len(pods) != 1 || len(none) != 0 {
		t.Errorf("lists: %v, %v", pods, none)
	}
	must("StopContainer", c.StopContainer(ctx, id, time.Second))
	must("RemoveContainer", c.RemoveContainer(ctx, id))
	must("StopPodSandbox", c.StopPodSandbox(ctx, sid))
	must("RemovePodSandbox", c.RemovePodSandbox(ctx, sid))
	must("RemoveImage", c.RemoveImage(ctx, image))
	if _, err := c.ContainerStatus(ctx, id, false); !cri.IsNotFound(err) || cri.IsUnknown(err) || !strings.Contains(err.Error(), "get status of container "+id) {
		t.Errorf("status of what is gone: %v", err)
	}
	if st, ok := status.FromError(fmt.Errorf("outer: %w", c.StartContainer(ctx, "nope"))); !ok || st.Code() != codes.NotFound {
		t.Errorf("the gRPC status is lost: %v", st)
	}
	pid, err := c.RuntimePID(ctx)
	must("RuntimePID", err)
	if pid != os.Getpid() {
		t.Errorf("the runtime's pid is %d, we are %d", pid, os.Getpid())
	}
}

func TestWaitReadyWaitsForTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "late.sock")
	c, err := cri.New(cri.Config{Endpoint: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ready := make(chan error, 1)
	go func() { ready <- c.WaitReady(t.Context()) }()
	r := critest.New(critest.Config{})
	defer r.Close()
	// A runtime listens before its CRI part is loaded.
	r.Inject(critest.Match{Method: "Version", Nth: 1}, critest.Fault{Code: codes.Unavailable, Message: "server is not initialized yet"})
	stop, err := r.Serve(path)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	if n := r.Calls("Version"); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

func TestWaitReadyGivesUp(t *testing.T) {
	c, err := cri.New(cri.Config{Endpoint: "unix:///nonexistent/x.sock", ConnectTimeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.WaitReady(t.Context()); err == nil || !strings.Contains(err.Error(), "/nonexistent/x.sock") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("error %v; want the path and the cause", err)
	}
}

func TestReconnects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cri.sock")
	r := critest.New(critest.Config{})
	defer r.Close()
	stop, err := r.Serve(path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cri.New(cri.Config{Endpoint: "unix://" + path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	hang := r.Inject(critest.Match{Method: "Status"}, critest.Fault{Hang: true})
	lost := make(chan error, 1)
	go func() { _, err := c.Status(t.Context(), false); lost <- err }()
	<-hang.Reached()
	r.Restart()
	stop()
	if err := <-lost; !cri.IsUnknown(err) {
		t.Errorf("a call lost with the runtime: %v", err)
	}
	hang.Release()
	if _, err := c.Version(t.Context()); !cri.IsUnknown(err) {
		t.Errorf("without a runtime: %v", err)
	}
	stop, err = r.Serve(path)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := c.WaitReady(t.Context()); err != nil {
		t.Errorf("after the restart: %v", err)
	}
}

// TestDeadlines hangs each call and measures how long the client waits.
func TestDeadlines(t *testing.T) {
	const timeout = 2 * time.Minute
	ctx := context.Background()
	sandbox := critest.SandboxConfig("default", "web", "u1", 0)
	cases := map[string]struct {
		want time.Duration
		call func(*cri.Client) error
	}{
		"Version":          {10 * time.Second, func(c *cri.Client) error { _, err := c.Version(ctx); return err }},
		"Status":           {10 * time.Second, func(c *cri.Client) error { _, err := c.Status(ctx, false); return err }},
		"ListContainers":   {20 * time.Second, func(c *cri.Client) error { _, err := c.ListContainers(ctx, nil); return err }},
		"ListPodSandbox":   {20 * time.Second, func(c *cri.Client) error { _, err := c.ListPodSandbox(ctx, nil); return err }},
		"ContainerStatus":  {20 * time.Second, func(c *cri.Client) error { _, err := c.ContainerStatus(ctx, "c", false); return err }},
		"PodSandboxStatus": {20 * time.Second, func(c *cri.Client) error { _, err := c.PodSandboxStatus(ctx, "s", false); return err }},
		"RunPodSandbox":    {2 * timeout, func(c *cri.Client) error { _, err := c.RunPodSandbox(ctx, sandbox, ""); return err }},
		"StopPodSandbox":   {timeout, func(c *cri.Client) error { return c.StopPodSandbox(ctx, "s") }},
		"RemovePodSandbox": {timeout, func(c *cri.Client) error { return c.RemovePodSandbox(ctx, "s") }},
		"CreateContainer": {timeout, func(c *cri.Client) error {
			_, err := c.CreateContainer(ctx, "s", &runtimeapi.ContainerConfig{}, sandbox)
			return err
		}},
		"StartContainer":           {timeout, func(c *cri.Client) error { return c.StartContainer(ctx, "c") }},
		"StopContainer":            {timeout + 30*time.Second, func(c *cri.Client) error { return c.StopContainer(ctx, "c", 29500*time.Millisecond) }},
		"RemoveContainer":          {timeout, func(c *cri.Client) error { return c.RemoveContainer(ctx, "c") }},
		"UpdateContainerResources": {timeout, func(c *cri.Client) error { return c.UpdateContainerResources(ctx, "c", nil) }},
		"ExecSync":                 {timeout + 5*time.Second, func(c *cri.Client) error { _, _, _, err := c.ExecSync(ctx, "c", nil, 5*time.Second); return err }},
		"RemoveImage":              {timeout, func(c *cri.Client) error { return c.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: "i"}) }},
	}
	for method, tc := range cases {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := critest.New(critest.Config{})
				defer r.Close()
				hang := r.Inject(critest.Match{Method: method}, critest.Fault{Hang: true})
				begin := time.Now()
				err := tc.call(r.Client(cri.Config{Timeout: timeout}))
				if !cri.IsUnknown(err) || hang.Hits() != 1 {
					t.Errorf("error %v, %d calls", err, hang.Hits())
				}
				if took := time.Since(begin); took != tc.want {
					t.Errorf("waited %v, want %v", took, tc.want)
				}
			})
		})
	}
}

func TestOldRuntime(t *testing.T) {
	r := critest.New(critest.Config{NoRuntimeConfig: true, NoEvents: true})
	c := overSocket(t, r, cri.Config{})
	if driver, err := c.RuntimeConfig(t.Context()); driver != cri.NoCgroupDriver || err != nil {
		t.Errorf("cgroup driver %q, %v", driver, err)
	}
	if err := c.GetContainerEvents(t.Context(), nil, nil); !cri.IsUnimplemented(err) {
		t.Errorf("events: %v", err)
	}
}

// TestHostileAnswers: an answer without what the API promises is an error,
// not a nil pointer later.
func TestHostileAnswers(t *testing.T) {
	r := critest.New(critest.Config{})
	r.AddImage("img")
	c := overSocket(t, r, cri.Config{})
	ctx := t.Context()
	empty := critest.Fault{Lie: proto.Reset}
	sandbox := critest.SandboxConfig("default", "web", "u1", 0)
	sid, err := c.RunPodSandbox(ctx, sandbox, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.CreateContainer(ctx, sid, critest.ContainerConfig(sandbox, "app", "img", 0), sandbox)
	if err != nil {
		t.Fatal(err)
	}
	r.Inject(critest.Match{}, empty)
	sandbox2 := critest.SandboxConfig("default", "web2", "u2", 0)
	for what, f := range map[string]func() error{
		"RunPodSandbox":    func() error { _, err := c.RunPodSandbox(ctx, sandbox2, ""); return err },
		"PodSandboxStatus": func() error { _, err := c.PodSandboxStatus(ctx, sid, false); return err },
		"ContainerStatus":  func() error { _, err := c.ContainerStatus(ctx, id, false); return err },
		"CreateContainer": func() error {
			_, err := c.CreateContainer(ctx, sid, critest.ContainerConfig(sandbox, "b", "img", 0), sandbox)
			return err
		},
		"PullImage": func() error { _, err := c.PullImage(ctx, &runtimeapi.ImageSpec{Image: "img"}, nil, nil); return err },
		"Status":    func() error { _, err := c.Status(ctx, false); return err },
		"Version":   func() error { _, err := c.Version(ctx); return err },
		"PortForward": func() error {
			_, err := c.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: sid})
			return err
		},
	} {
		if err := f(); !errors.Is(err, cri.ErrIncomplete) {
			t.Errorf("%s: %v, want that the answer is incomplete", what, err)
		}
	}
}

func TestClassification(t *testing.T) {
	for _, tc := range []struct {
		err                         error
		notFound, unknown, reserved bool
	}{
		{nil, false, false, false},
		{errors.New("x"), false, false, false},
		{status.Error(codes.NotFound, "x"), true, false, false},
		{fmt.Errorf("a: %w", status.Error(codes.NotFound, "x")), true, false, false},
		{status.Error(codes.DeadlineExceeded, "x"), false, true, false},
		{status.Error(codes.Canceled, "x"), false, true, false},
		{status.Error(codes.Unavailable, "x"), false, true, false},
		{fmt.Errorf("a: %w", context.DeadlineExceeded), false, true, false},
		{status.Error(codes.Unknown, "failed to create containerd task: context deadline exceeded: unknown"), false, true, false},
		{status.Error(codes.Unknown, `failed to reserve container name "a": name "a" is reserved for "b"`), false, false, true},
		{status.Error(codes.AlreadyExists, "x"), false, false, true},
	} {
		if n, u, r := cri.IsNotFound(tc.err), cri.IsUnknown(tc.err), cri.IsNameReserved(tc.err); n != tc.notFound || u != tc.unknown || r != tc.reserved {
			t.Errorf("%v: not found %v, unknown %v, reserved %v", tc.err, n, u, r)
		}
	}
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := critest.New(critest.Config{})
		defer r.Close()
		reg := prometheus.NewRegistry()
		c := r.Client(cri.Config{Registerer: reg})
		ctx := t.Context()
		_ = c.StartContainer(ctx, "nope")
		_, _ = c.RunPodSandbox(ctx, critest.SandboxConfig("d", "p", "u", 0), "kata")
		r.Inject(critest.Match{Method: "ContainerStatus"}, critest.Fault{Hang: true})
		go c.ContainerStatus(context.Background(), "x", false)
		time.Sleep(7 * time.Second)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				key := f.GetName() + " " + m.Label[0].GetName() + "=" + m.Label[0].GetValue()
				switch {
				case m.Counter != nil:
					got[key] = m.Counter.GetValue()
				case m.Gauge != nil:
					got[key] = m.Gauge.GetValue()
				default:
					got[key] = float64(m.Histogram.GetSampleCount())
				}
			}
		}
		for key, want := range map[string]float64{
			"kubelet_runtime_operations_total operation_type=start_container":            1,
			"kubelet_runtime_operations_errors_total operation_type=start_container":     1,
			"kubelet_runtime_operations_duration_seconds operation_type=start_container": 1,
			"kubelet_runtime_operations_total operation_type=run_podsandbox":             1,
			"kubelet_run_podsandbox_duration_seconds runtime_handler=kata":               1,
			"kubelet_runtime_oldest_inflight_seconds operation_type=container_status":    7,
		} {
			if got[key] != want {
				t.Errorf("%s = %v, want %v", key, got[key], want)
			}
		}
		time.Sleep(time.Minute)
	})
}

func FuzzPid(f *testing.F) {
	f.Add(`{"pid":12}`)
	f.Add(`{"pid":-1}`)
	f.Add(`{"pid":"x"}`)
	f.Add(`{`)
	f.Fuzz(func(t *testing.T, body string) {
		if pid := cri.Pid(map[string]string{"info": body}); pid < 0 {
			t.Errorf("pid %d from %q", pid, body)
		}
	})
}

// TestExecTimeout: a command that the runtime killed has failed; when the
// runtime itself does not answer, nobody knows.
func TestExecTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := critest.New(critest.Config{})
		defer r.Close()
		r.AddImage("img")
		c := r.Client(cri.Config{Timeout: time.Minute})
		ctx := t.Context()
		sandbox := critest.SandboxConfig("default", "web", "u1", 0)
		sid, err := c.RunPodSandbox(ctx, sandbox, "")
		if err != nil {
			t.Fatal(err)
		}
		id, err := c.CreateContainer(ctx, sid, critest.ContainerConfig(sandbox, "app", "img", 0), sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.StartContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
		r.OnExec(func(critest.ExecCall) critest.ExecResult { return critest.ExecResult{Took: time.Hour} })
		exec := func(ctx context.Context) (time.Duration, error) {
			begin := time.Now()
			_, _, _, err := c.ExecSync(ctx, id, []string{"sleep", "1h"}, 1500*time.Millisecond)
			return time.Since(begin), err
		}
		took, err := exec(ctx)
		if want := `command timed out: "sleep 1h" timed out after 2s`; err == nil || err.Error() != want || took != 2*time.Second {
			t.Errorf("%v after %v, want %q", err, took, want)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := exec(short); errors.Is(err, cri.ErrExecTimeout) || !cri.IsUnknown(err) {
			t.Errorf("when the caller gave up: %v", err)
		}
		r.Inject(critest.Match{Method: "ExecSync"}, critest.Fault{Hang: true})
		if took, err := exec(ctx); errors.Is(err, cri.ErrExecTimeout) || !cri.IsUnknown(err) || took != time.Minute+2*time.Second {
			t.Errorf("when the runtime hung: %v after %v", err, took)
		}
	})
}
