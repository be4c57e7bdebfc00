package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/test/harness"
)

// patience is how long a test waits for what takes a second or two on a quiet
// machine. Nothing is measured with it.
const patience = 90 * time.Second

// suffix is what a static pod's name gets.
const suffix = "-standalone-node"

// put puts a manifest of testdata in place for the time of the test. The pod
// has the name of the file, NAME in the manifest.
func put(t *testing.T, file, name string, vars ...string) {
	t.Helper()
	putText(t, name+".yaml", manifest(t, file, append(vars, "NAME", name)...))
}

func manifest(t *testing.T, file string, vars ...string) string {
	t.Helper()
	text, err := harness.Manifest(file, vars...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func putText(t *testing.T, file, text string) {
	t.Helper()
	if err := node.PutManifest(file, text); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, file) })
}

// write writes a file into the manifest folder as a careless person would:
// in place, and perhaps only half of it.
func write(t *testing.T, file, text string) {
	t.Helper()
	if err := node.WriteFile(filepath.Join(harness.ManifestDir, file), text, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, file) })
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := node.RemoveManifest(file); err != nil {
		t.Error(err)
	}
}

func until(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	if err := harness.Until(t.Context(), patience, what, check); err != nil {
		t.Fatal(err)
	}
}

// running waits until the pod's container of that name runs.
func running(t *testing.T, name, container string) *runtimeapi.Container {
	t.Helper()
	c, err := node.WaitContainer(t.Context(), "default", name+suffix, container)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// gone waits until the pod has no sandbox any more.
func gone(t *testing.T, name string) {
	t.Helper()
	timeout := patience
	if harness.Upstream() {
		timeout = 3 * time.Minute // dead sandboxes are collected once a minute
	}
	err := harness.Until(t.Context(), timeout, "the end of "+name, func(ctx context.Context) error {
		sandboxes, err := node.Sandboxes(ctx, "default", name+suffix)
		if err == nil && len(sandboxes) > 0 {
			err = fmt.Errorf("%d sandboxes", len(sandboxes))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// stopped waits until no container of the pod runs any more.
func stopped(t *testing.T, name string) {
	t.Helper()
	until(t, name+" to stop", func(ctx context.Context) error {
		all, err := node.Containers(ctx, "default", name+suffix, "")
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
				return fmt.Errorf("%s runs", c.Metadata.Name)
			}
		}
		return nil
	})
}

// status waits until the pod as the read-only port shows it fulfils the
// condition.
func status(t *testing.T, name, what string, holds func(*v1.Pod) bool) *v1.Pod {
	t.Helper()
	var found *v1.Pod
	err := harness.Until(t.Context(), patience, name+" to be "+what, func(ctx context.Context) error {
		pods, err := kubelet.Pods(ctx)
		if err != nil {
			return err
		}
		for i := range pods {
			if pods[i].Name == name+suffix {
				found = &pods[i]
				if holds(found) {
					return nil
				}
			}
		}
		return fmt.Errorf("pod: %s", harness.PodSummary(found))
	})
	if err != nil {
		if !harness.Upstream() {
			out, _, explainErr := node.RunKubelet(context.Background(), "explain")
			t.Logf("kubelet explain (%v):\n%s", explainErr, out)
		}
		t.Fatal(err)
	}
	return found
}

// records is the folder on the node to which recording pods write.
const records = "/var/lib/test-records"

// record returns what a recording pod wrote.
func record(name string) []string {
	text, err := os.ReadFile(node.Path(filepath.Join(records, name)))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// starts counts how often a recording pod's container really started.
func starts(name string) int {
	n := 0
	for _, line := range record(name) {
		if strings.HasPrefix(line, "start") {
			n++
		}
	}
	return n
}

// startedOnce waits until a recording pod has started, which is a moment after
// the runtime calls it running, and fails if it did so more than once.
func startedOnce(t *testing.T, name string) {
	t.Helper()
	until(t, name+" to record its start", func(context.Context) error {
		if starts(name) == 0 {
			return fmt.Errorf("record: %q", record(name))
		}
		return nil
	})
	if n := starts(name); n != 1 {
		t.Errorf("%s was started %d times", name, n)
	}
}

// restart ends the kubelet, does what is to be done meanwhile, and starts it.
func restart(t *testing.T, end func(), meanwhile func()) {
	t.Helper()
	end()
	meanwhile()
	if err := kubelet.StartAndWait(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func upstreamFails(t *testing.T, why string) {
	t.Helper()
	if harness.Upstream() {
		t.Skip("the upstream kubelet fails this: " + why)
	}
}
