package node

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/test/harness"
)

// What a pod's security context, namespaces and mounts ask for is what its
// processes have.
func TestSecurity(t *testing.T) {
	t.Parallel()
	fieldCases(t, "security.yaml")
}

// log waits until the container has printed that many lines.
func log(t *testing.T, pod *v1.Pod, container string, attempt, lines int) []string {
	t.Helper()
	var out []string
	until(t, pod.Name+"'s output", func(context.Context) error {
		text, err := node.Log(pod, container, attempt)
		if err != nil {
			return err
		}
		if out = slices.Collect(strings.Lines(text)); len(out) < lines {
			return fmt.Errorf("output: %q", text)
		}
		for i := range out {
			out[i] = strings.TrimSuffix(out[i], "\n")
		}
		return nil
	})
	return out
}

// Namespaces are the node's or the pod's, as the pod says.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	host := map[string]string{}
	for _, kind := range []string{"net", "pid", "ipc", "uts"} {
		out, err := node.Run(t.Context(), "/bin/readlink", "/proc/self/ns/"+kind)
		if err != nil {
			t.Fatal(err)
		}
		host[kind] = strings.TrimSpace(out)
	}
	cases := []struct {
		name, fields string
		shared       []string // with the node
		within       []string // between the containers of the pod
	}{
		{"ns-plain", "", nil, []string{"net", "ipc", "uts"}},
		{"ns-process", "shareProcessNamespace: true", nil, []string{"net", "ipc", "uts", "pid"}},
		{"ns-net", "hostNetwork: true", []string{"net", "uts"}, []string{"net", "ipc", "uts"}},
		{"ns-pid", "hostPID: true", []string{"pid"}, []string{"net", "ipc", "uts", "pid"}},
		{"ns-ipc", "hostIPC: true", []string{"ipc"}, []string{"net", "ipc", "uts"}},
	}
	for _, c := range cases {
		put(t, "namespaces.yaml", c.name, "FIELDS", c.fields)
	}
	for _, c := range cases {
		pod := status(t, c.name, "Ready", harness.Ready)
		main, other := log(t, pod, "main", 0, 5), log(t, pod, "other", 0, 5)
		for i, kind := range []string{"net", "pid", "ipc", "uts"} {
			if got, want := main[i] == host[kind], slices.Contains(c.shared, kind); got != want {
				t.Errorf("%s: shares %s with the node: %v, want %v", c.name, kind, got, want)
			}
			if got, want := main[i] == other[i], slices.Contains(c.within, kind); got != want {
				t.Errorf("%s: containers share %s: %v, want %v", c.name, kind, got, want)
			}
		}
		if c.name == "ns-process" && main[4] != "pause" {
			t.Errorf("%s: the first process is %q, want the sandbox's", c.name, main[4])
		}
	}
}

// Pods with users of their own share no id, and keep theirs when a container
// or the kubelet is killed.
func TestOwnUsers(t *testing.T) {
	if !node.OwnUsers() {
		t.Skip("the runtime has no user namespaces; what is said then is in security.yaml")
	}
	names := []string{"users-a", "users-b", "users-c"}
	for _, name := range names {
		put(t, "own-users.yaml", name)
	}
	seen := map[string]string{} // uid_map: pod
	before := map[string]string{}
	for _, name := range names {
		pod := status(t, name, "Ready", harness.Ready)
		m := log(t, pod, "main", 0, 1)[0]
		if seen[m] != "" {
			t.Errorf("%s and %s have the same users %q", name, seen[m], m)
		}
		seen[m] = name
		before[name] = m
		var file struct {
			UIDMappings []struct{ HostID, Length uint32 }
		}
		text, err := os.ReadFile(node.Path("/var/lib/kubelet/pods/" + string(pod.UID) + "/userns"))
		if err != nil || json.Unmarshal(text, &file) != nil || len(file.UIDMappings) != 1 ||
			fmt.Sprintf(" 0 %d %d", file.UIDMappings[0].HostID, file.UIDMappings[0].Length) != m {
			t.Errorf("%s: file %s, %v; its processes have %q", name, text, err, m)
		}
	}
	c := running(t, "users-a", "main")
	restart(t, kubelet.Kill, func() {
		// What is lost meanwhile is read back from the sandbox.
		pod := sandboxUID(t, "users-b")
		if err := os.Remove(node.Path("/var/lib/kubelet/pods/" + pod + "/userns")); err != nil {
			t.Error(err)
		}
	})
	put(t, "own-users.yaml", "users-d")
	for _, name := range []string{"users-a", "users-b"} {
		if err := node.KillContainer(t.Context(), running(t, name, "main").Id); err != nil {
			t.Fatal(err)
		}
		pod := status(t, name, "restarted", func(p *v1.Pod) bool { return harness.ContainerStatus(p, "main").RestartCount == 1 })
		if m := log(t, pod, "main", 1, 1)[0]; m != before[name] {
			t.Errorf("%s had the users %q and has %q after a restart", name, before[name], m)
		}
	}
	if after := running(t, "users-c", "main"); after.Id == c.Id {
		t.Error("containers are mixed up")
	}
	pod := status(t, "users-d", "Ready", harness.Ready)
	if m := log(t, pod, "main", 0, 1)[0]; seen[m] != "" {
		t.Errorf("users-d has the users of %s", seen[m])
	}
}

// sandboxUID is the UID of a pod while no kubelet runs.
func sandboxUID(t *testing.T, name string) string {
	t.Helper()
	sandboxes, err := node.Sandboxes(t.Context(), "default", name+suffix)
	if err != nil || len(sandboxes) != 1 {
		t.Fatalf("sandboxes of %s: %v, %v", name, sandboxes, err)
	}
	return sandboxes[0].Metadata.Uid
}

// Mounts that are made later are seen as the propagation says, and nothing
// below a recursively read-only mount can be written.
func TestMounts(t *testing.T) {
	t.Parallel()
	const dir = "/var/lib/kubelet/test-mounts"
	sh := func(command string) {
		t.Helper()
		if out, err := node.Run(t.Context(), "/bin/sh", "-c", command); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	sh("mkdir -p " + dir + "/before " + dir + "/later && mount -t tmpfs before " + dir + "/before")
	t.Cleanup(func() {
		_, _ = node.Run(context.Background(), "/bin/sh", "-c", "umount "+dir+"/before "+dir+"/later "+dir+"/both; rm -r "+dir)
	})
	put(t, "mounts.yaml", "mounts", "DIR", dir, "SCRIPT", "until test -e /v/go; do sleep 0.1; done; ls /v/later; ls /v/both; echo seen; exec sleep 100000")
	pod := status(t, "mounts", "Ready", harness.Ready)
	until(t, "the mount that a container makes", func(context.Context) error {
		_, err := os.Stat(node.Path(dir + "/both/file"))
		return err
	})
	sh("mount -t tmpfs later " + dir + "/later && touch " + dir + "/later/from-the-node && touch " + dir + "/go")
	if got := log(t, pod, "none", 0, 1); !slices.Equal(got, []string{"seen"}) {
		t.Errorf("without propagation: %q, want nothing", got)
	}
	if got := log(t, pod, "from", 0, 3); !slices.Equal(got, []string{"from-the-node", "file", "seen"}) {
		t.Errorf("from the host: %q", got)
	}
	_, err := os.Stat(node.Path(dir + "/before/x"))
	// Upstream knows no runtime handlers without an API server.
	if written := err == nil; written == node.RecursiveReadOnly() && !harness.Upstream() {
		t.Errorf("below a mount that is recursively read-only if possible: written %v on containerd %s", written, node.Containerd)
	}
}

// A profile that is not on the node keeps its container waiting, and lets it
// start once it is there.
func TestSeccompProfileThatComesLate(t *testing.T) {
	t.Parallel()
	put(t, "seccomp.yaml", "seccomp-late")
	pod := status(t, "seccomp-late", "waiting for its profile", func(p *v1.Pod) bool {
		w := harness.ContainerStatus(p, "main").State.Waiting
		return w != nil && w.Reason == "CreateContainerError"
	})
	if m := harness.ContainerStatus(pod, "main").State.Waiting.Message; !strings.Contains(m, "/var/lib/kubelet/seccomp/profiles/late.json") {
		t.Errorf("message %q", m)
	}
	if err := node.WriteFile("/var/lib/kubelet/seccomp/profiles/late.json", noMkdir, 0o644); err != nil {
		t.Fatal(err)
	}
	after := status(t, "seccomp-late", "Ready", harness.Ready)
	sandboxes, err := node.Sandboxes(t.Context(), "default", pod.Name)
	if err != nil || after.UID != pod.UID || len(sandboxes) != 1 || sandboxes[0].State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("the pod was restarted: %v, %v", sandboxes, err)
	}
}
