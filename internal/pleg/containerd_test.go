package pleg

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"crypto/sha256"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"kubelet/internal/cri"
	"kubelet/internal/cri/critest"
	"kubelet/internal/observed"
)

// needPrivileges skips the test, loudly, unless the run is one that promises
// privileges; then missing ones are a failure.
func needPrivileges(t *testing.T) {
	t.Helper()
	if os.Getenv("KUBELET_TEST_PRIVILEGED") != "1" {
		t.Skip("SKIPPED: needs root and containerd; set KUBELET_TEST_PRIVILEGED=1")
	}
	if os.Getuid() != 0 {
		t.Fatal("KUBELET_TEST_PRIVILEGED=1, but this is not root")
	}
}

const testImage = "test.invalid/pleg:1"

// imageArchive writes an image in docker's format: busybox and nothing else.
// Its entry point runs for ever, so that it serves as sandbox image too.
func imageArchive(t *testing.T, path string) {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("busybox-static is needed: %v", err)
	}
	pack := func(w io.Writer, files map[string][]byte, mode int64) {
		tw := tar.NewWriter(w)
		for name, body := range files {
			if err := tw.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
				t.Fatal(err)
			}
			if _, err := tw.Write(body); err != nil {
				t.Fatal(err)
			}
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var layer bytes.Buffer
	pack(&layer, map[string][]byte{"bin/busybox": busybox, "bin/sh": busybox}, 0o755)
	config, _ := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/bin/busybox", "sleep", "100000"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	manifest, _ := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{testImage}, "Layers": []string{"layer.tar"}}})
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pack(f, map[string][]byte{"manifest.json": manifest, "config.json": config, "layer.tar": layer.Bytes()}, 0o644)
}

// startContainerd runs a private containerd and returns a client of it.
func startContainerd(t *testing.T, version string) *cri.Client {
	t.Helper()
	bin := "/usr/bin"
	if version == "2.4" {
		cache := os.Getenv("KUBELET_CACHE")
		if cache == "" {
			base, _ := os.UserCacheDir()
			cache = filepath.Join(base, "kubelet-dev")
		}
		bin = filepath.Join(cache, "containerd-2.4.2/bin")
	}
	if _, err := os.Stat(filepath.Join(bin, "containerd")); err != nil {
		t.Fatalf("containerd %s is needed (test/setup/deps.sh installs it): %v", version, err)
	}
	dir, err := os.MkdirTemp("/tmp", "pleg-") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cri1, sandboxImage := `[plugins."io.containerd.grpc.v1.cri"]`, `  sandbox_image = "`+testImage+`"`
	format := "version = 2"
	if version == "2.4" {
		cri1, format = `[plugins.'io.containerd.cri.v1.runtime']`, "version = 3"
		sandboxImage = "[plugins.'io.containerd.cri.v1.images'.pinned_images]\n  sandbox = \"" + testImage + "\""
	}
	config := fmt.Sprintf("%s\nroot = %q\nstate = %q\n[grpc]\n  address = %q\n%s\n  restrict_oom_score_adj = true\n%s\n",
		format, dir+"/root", dir+"/state", dir+"/s", cri1, sandboxImage)
	if err := os.WriteFile(dir+"/config.toml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, "containerd"), "--config", dir+"/config.toml")
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(dir + "/log")
			t.Logf("containerd's log ends:\n%s", text[max(0, len(text)-4000):])
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		for _, m := range []string{"root", "state"} { // what a failed test left mounted
			_ = syscall.Unmount(filepath.Join(dir, m), syscall.MNT_DETACH)
		}
	})
	c, err := cri.New(cri.Config{Endpoint: "unix://" + dir + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	imageArchive(t, dir+"/image.tar")
	load := exec.Command(filepath.Join(bin, "ctr"), "-a", dir+"/s", "-n", "k8s.io", "images", "import", dir+"/image.tar")
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("import the image: %v\n%s", err, out)
	}
	return c
}

// noEvents is a runtime without a stream of events.
type noEvents struct{ Runtime }

func (noEvents) GetContainerEvents(context.Context, func(), func(*runtimeapi.ContainerEventResponse)) error {
	return status.Error(codes.Unimplemented, "no events")
}

// TestContainerd kills containers of a real containerd and measures from the
// kill to the table, with each way of learning of it by itself.
func TestContainerd(t *testing.T) {
	needPrivileges(t)
	for _, version := range []string{"2.4", "1.6"} {
		t.Run(version, func(t *testing.T) {
			c := startContainerd(t, version)
			for _, tc := range []struct {
				name           string
				events, pidfds bool
				within         time.Duration // of the runtime's knowing, in the middle case
			}{
				{"events and pidfds", true, true, 250 * time.Millisecond},
				{"pidfds", false, true, 250 * time.Millisecond},
				{"events", true, false, 250 * time.Millisecond},
				{"list", false, false, 2 * time.Second},
			} {
				if version == "1.6" && tc.events {
					continue
				}
				t.Run(tc.name, func(t *testing.T) {
					var rt Runtime = c
					if !tc.events {
						rt = noEvents{c}
					}
					cfg := Config{Runtime: rt, RelistPeriod: time.Hour}
					if tc.pidfds {
						cfg.RuntimePID = c.RuntimePID
					}
					if !tc.events && !tc.pidfds {
						cfg.RelistPeriod = 0
					}
					runAgainstContainerd(t, c, cfg, tc.within)
				})
			}
		})
	}
}

func runAgainstContainerd(t *testing.T, c *cri.Client, cfg Config, within time.Duration) {
	const uid = types.UID("3a7cbb52-6d1e-4a57-9a9f-0a1c5f2f2f11")
	changed := make(chan struct{}, 1)
	cfg.Table = observed.NewTable(func(types.UID) { notify(changed) })
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), klog.Logger{}))
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	defer func() {
		cancel()
		if err := wait(t, "the end of Run", done); err != nil {
			t.Error(err)
		}
	}()
	until := func(what string, ok func(observed.Pod) bool) observed.Pod {
		t.Helper()
		late := time.After(20 * time.Second)
		for {
			if p := cfg.Table.Get(uid); ok(p) {
				return p
			}
			select {
			case <-changed:
			case <-late:
				t.Fatalf("timed out waiting for %s; the pod is %s", what, describe(cfg.Table.Get(uid)))
			}
		}
	}
	latest := func(state observed.ContainerState) func(observed.Pod) bool {
		return func(p observed.Pod) bool { return p.Latest("app") != nil && p.Latest("app").State == state }
	}

	dir := t.TempDir()
	sandbox := critest.SandboxConfig("default", "web", string(uid), 0)
	sandbox.LogDirectory = dir
	sandbox.Hostname = "" // the host's network comes with the host's name
	sandbox.Linux = &runtimeapi.LinuxPodSandboxConfig{
		CgroupParent: "/kubelet-pleg-test",
		SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{
			Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER,
		}},
	}
	sid, err := c.RunPodSandbox(ctx, sandbox, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.StopPodSandbox(context.Background(), sid); err != nil {
			t.Error(err)
		}
		if err := c.RemovePodSandbox(context.Background(), sid); err != nil {
			t.Error(err)
		}
		removeCgroups(t, "kubelet-pleg-test")
	}()
	if err := g.Refresh(ctx, uid); err != nil {
		t.Fatal(err)
	}

	var took, behind []time.Duration
	const kills = 10
	for attempt := range uint32(kills) {
		config := critest.ContainerConfig(sandbox, "app", testImage, attempt)
		config.LogPath = fmt.Sprintf("%d.log", attempt)
		config.Annotations[cri.AnnotationTerminationMessagePath] = "/dev/termination-log"
		config.Annotations[cri.AnnotationTerminationMessagePolicy] = "FallbackToLogsOnError"
		config.Command = []string{"/bin/busybox", "sleep", "1000"}
		id, err := c.CreateContainer(ctx, sid, config, sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.StartContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
		if err := g.Refresh(ctx, uid); err != nil {
			t.Fatal(err)
		}
		if got := cfg.Table.Get(uid).Latest("app"); got.State != observed.Running || got.Attempt != attempt {
			t.Fatalf("after the start: %+v", got)
		}
		resp, err := c.ContainerStatus(ctx, id, true)
		if err != nil {
			t.Fatal(err)
		}
		for cfg.RuntimePID != nil && !watches(g, uid, id) {
			if err := g.Refresh(ctx, uid); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		if err := syscall.Kill(cri.Pid(resp.Info), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		knows := make(chan time.Time, 1)
		go func() {
			for {
				if s, err := c.ContainerStatus(ctx, id, false); err != nil || s.Status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
					knows <- time.Now()
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		p := until("the exit", latest(observed.Exited))
		seen := time.Now()
		took = append(took, seen.Sub(begin))
		behind = append(behind, seen.Sub(<-knows))
		if got := p.Latest("app"); got.ExitCode != 137 || got.FinishedAt.IsZero() {
			t.Errorf("after the kill: %+v", got)
		}
	}
	slices.Sort(took)
	slices.Sort(behind)
	t.Logf("kill to table: p50 %v, max %v; after the runtime knew: p50 %v, max %v",
		took[kills/2], took[kills-1], behind[kills/2], behind[kills-1])
	if behind[kills/2] > within {
		t.Errorf("seen %v after the runtime knew, want %v at most", behind[kills/2], within)
	}

	// A container that ends by itself, with a message.
	message := filepath.Join(dir, "message")
	if err := os.WriteFile(message, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for i, tc := range []struct{ script, want string }{
		{"echo -n fatal >/dev/termination-log; exit 3", "fatal"},
		{"echo -n >/dev/termination-log; echo one; echo two >&2; exit 3", "two"},
	} {
		config := critest.ContainerConfig(sandbox, "app", testImage, uint32(kills+i))
		config.LogPath = fmt.Sprintf("message-%d.log", i)
		config.Annotations[cri.AnnotationTerminationMessagePath] = "/dev/termination-log"
		config.Annotations[cri.AnnotationTerminationMessagePolicy] = "FallbackToLogsOnError"
		config.Command = []string{"/bin/sh", "-c", tc.script}
		config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/dev/termination-log", HostPath: message}}
		id, err := c.CreateContainer(ctx, sid, config, sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.StartContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
		if err := g.Refresh(ctx, uid); err != nil {
			t.Fatal(err)
		}
		p := until("the end with a message", func(p observed.Pod) bool {
			got := p.Latest("app")
			return got != nil && got.ID == id && got.State == observed.Exited
		})
		if got := p.Latest("app"); got.ExitCode != 3 || !strings.Contains(got.Message, tc.want) {
			t.Errorf("message %q, code %d; want %q, 3", got.Message, got.ExitCode, tc.want)
		}
	}

	// The sandbox's own process.
	resp, err := c.PodSandboxStatus(ctx, sid, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(cri.Pid(resp.Info), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until("the loss of the sandbox", func(p observed.Pod) bool { return len(p.Sandboxes) == 1 && !p.Sandboxes[0].Ready })
}

// removeCgroups removes the cgroups that the test made, deepest first.
func removeCgroups(t *testing.T, name string) {
	t.Helper()
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	roots = append(roots, "/sys/fs/cgroup/"+name)
	for _, root := range roots {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			if err := syscall.Rmdir(d); err != nil {
				t.Errorf("remove cgroup %s: %v", d, err)
			}
		}
	}
}
