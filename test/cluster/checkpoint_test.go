package cluster

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The state of a container that runs is written to a file of the node, if the
// runtime finds a CRIU that knows the kernel (docs/operations.md). If not, who
// asks is told so. The container goes on in any case.
func TestCheckpoint(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, shellPod("box"))
	before := waitReady(t, ns, "box")
	body, err := node.Cluster.Client.CoreV1().RESTClient().Post().Resource("nodes").Name(node.Name).
		SubResource("proxy").Suffix("checkpoint", ns, "box", "main").DoRaw(t.Context())
	criu, criuErr := node.Run(t.Context(), "/bin/sh", "-c", "criu check")
	switch {
	case node.Containerd == "1.6":
		checkpointRefused(t, ns, err, "method CheckpointContainer not implemented")
	case criuErr == nil:
		if err != nil {
			t.Fatal(err)
		}
		checkpointWritten(t, ns, body)
	case strings.Contains(criu, "not found"):
		checkpointRefused(t, ns, err, "criu binary not found")
	default:
		checkpointRefused(t, ns, err, "")
	}
	if out := kubectlOK(t, "exec", "-n", ns, "box", "--", "echo", "alive"); out != "alive\n" {
		t.Errorf("after the checkpoint: %q", out)
	}
	after := waitPod(t, ns, "box", "there", func(p *v1.Pod) bool { return p != nil })
	if a, b := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; a.ContainerID != b.ContainerID || b.RestartCount != 0 || b.State.Running == nil {
		t.Errorf("the container was %v and is %v", a, b)
	}
}

// checkpointRefused holds that the answer says why, and that nothing is left.
func checkpointRefused(t *testing.T, ns string, err error, why string) {
	t.Helper()
	var refusal apierrors.APIStatus
	if !errors.As(err, &refusal) || refusal.Status().Code != 500 ||
		!strings.Contains(err.Error(), "checkpointing of "+ns+"/box/main failed (") || !strings.Contains(err.Error(), why) {
		t.Errorf("%v, want 500 and %q", err, why)
	}
	if left, err := filepath.Glob(node.Path("/var/lib/kubelet/checkpoints/checkpoint-box_" + ns + "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// checkpointWritten holds that the answer names an archive with the container's
// memory, which nobody but root may read.
func checkpointWritten(t *testing.T, ns string, body []byte) {
	t.Helper()
	var answer struct{ Items []string }
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.Items) != 1 || !strings.HasPrefix(answer.Items[0], "/var/lib/kubelet/checkpoints/checkpoint-box_"+ns+"-main-") {
		t.Fatalf("%s, %v", body, err)
	}
	path := node.Path(answer.Items[0])
	defer os.Remove(path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		t.Errorf("others may read it: %s", info.Mode())
	}
	names := tarNames(t, path)
	for _, want := range []string{"checkpoint/", "config.dump", "spec.dump"} {
		if !slices.Contains(names, want) {
			t.Errorf("the archive has no %s: %q", want, names)
		}
	}
}

func tarNames(t *testing.T, path string) (names []string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	archive := tar.NewReader(file)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		names = append(names, header.Name)
	}
}
