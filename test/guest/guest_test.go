// Package guest has the tests that run in the virtual machine of setup.sh,
// with both cgroup drivers on cgroup v2, and with systemd on v1: a static pod
// with limits must have them in its cgroup, survive its kubelet's death, and
// leave nothing behind. test.sh builds this package and runs it there.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/preflight"
	"kubelet/test/harness"
)

// patience is long: the machine is emulated, and ten times slower.
const patience = 4 * time.Minute

func TestMain(m *testing.M) {
	harness.RunIfInit()
	if os.Getenv("KUBELET_TEST_GUEST") != "1" {
		fmt.Println("SKIP: these tests run in a virtual machine; run them with `make test-v2`")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// layout says where the cgroup of the pod is and what it must hold.
type layout struct {
	driver string
	// dir of the pod's cgroup for a controller.
	dir func(controller string, pod *v1.Pod) string
	// values are controller, file and content.
	values [][3]string
	// container has the same of its container.
	container [][3]string
}

func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

func systemdDir(pod *v1.Pod) string {
	return "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + strings.ReplaceAll(string(pod.UID), "-", "_") + ".slice"
}

// The pod asks for 100m of cpu, at most 250m, and at most 64Mi of memory.
func layouts() []layout {
	// 100m are 102 shares of version 1, of 2..262144; mapped in a straight line
	// to the weights 1..10000 of version 2, as the upstream kubelet does, 4.
	const weight = "4"
	v2 := [][3]string{
		{"", "memory.max", "67108864"}, {"", "cpu.max", "25000 100000"}, {"", "cpu.weight", weight}, {"", "pids.max", "4096"},
	}
	v2container := [][3]string{{"", "memory.max", "67108864"}, {"", "cpu.max", "25000 100000"}, {"", "memory.oom.group", "1"}, {"", "memory.swap.max", "0"}}
	if unified() {
		return []layout{
			{"cgroupfs", func(_ string, pod *v1.Pod) string {
				return filepath.Join("/sys/fs/cgroup/kubepods/burstable", "pod"+string(pod.UID))
			}, v2, v2container},
			{"systemd", func(_ string, pod *v1.Pod) string { return filepath.Join("/sys/fs/cgroup", systemdDir(pod)) }, v2, v2container},
		}
	}
	return []layout{{"systemd", func(controller string, pod *v1.Pod) string {
		return filepath.Join("/sys/fs/cgroup", controller, systemdDir(pod))
	}, [][3]string{
		{"memory", "memory.limit_in_bytes", "67108864"}, {"cpu", "cpu.cfs_quota_us", "25000"}, {"cpu", "cpu.shares", "102"}, {"pids", "pids.max", "4096"},
	}, [][3]string{{"memory", "memory.limit_in_bytes", "67108864"}, {"cpu", "cpu.cfs_quota_us", "25000"}}}}
}

func TestStaticPodWithLimits(t *testing.T) {
	for _, l := range layouts() {
		t.Run(l.driver, func(t *testing.T) { testDriver(t, l) })
	}
}

func testDriver(t *testing.T, l layout) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	node, err := harness.NewNode(ctx, harness.Config{Name: "guest", Bare: true, SystemdCgroups: l.driver == "systemd"})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	kubelet := node.NewKubelet(harness.KubeletOptions{})
	defer func() {
		if t.Failed() {
			showLog(t, kubelet)
		}
	}()
	if err := kubelet.StartAndWait(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() { kubelet.Stop() }()

	text, err := harness.Manifest("limits.yaml", "NAME", "limits")
	if err == nil {
		err = node.PutManifest("limits.yaml", text)
	}
	if err != nil {
		t.Fatal(err)
	}
	var pod *v1.Pod
	until(ctx, t, "the pod to be Ready", func(ctx context.Context) error {
		pods, err := kubelet.Pods(ctx)
		if err != nil {
			return err
		}
		if len(pods) != 1 || !harness.Ready(&pods[0]) {
			return fmt.Errorf("%d pods", len(pods))
		}
		pod = &pods[0]
		return nil
	})
	before, err := node.RunningContainer(ctx, pod.Namespace, pod.Name, "main")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range l.values {
		expect(t, filepath.Join(l.dir(v[0], pod), v[1]), v[2])
	}
	for _, v := range l.container {
		found, err := filepath.Glob(filepath.Join(l.dir(v[0], pod), "*"+before.Id+"*", v[1]))
		if err != nil || len(found) != 1 {
			t.Errorf("cgroup of the container below %s: %q, %v", l.dir(v[0], pod), found, err)
			continue
		}
		expect(t, found[0], v[2])
	}

	kubelet.Kill()
	if err := kubelet.StartAndWait(ctx); err != nil {
		t.Fatal(err)
	}
	until(ctx, t, "the pod to be Ready after the restart", func(ctx context.Context) error {
		pods, err := kubelet.Pods(ctx)
		if err == nil && (len(pods) != 1 || !harness.Ready(&pods[0])) {
			err = fmt.Errorf("%d pods", len(pods))
		}
		return err
	})
	if after, err := node.RunningContainer(ctx, pod.Namespace, pod.Name, "main"); err != nil || after.Id != before.Id {
		t.Errorf("the restart of the kubelet restarted the container: %v", err)
	}

	if err := node.RemoveManifest("limits.yaml"); err != nil {
		t.Fatal(err)
	}
	controller := ""
	if !unified() {
		controller = "memory"
	}
	until(ctx, t, "the pod's cgroup to go", func(context.Context) error {
		_, err := os.Stat(l.dir(controller, pod))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("it is there: %v", err)
	})
	if !harness.Upstream() {
		if err := node.NoTrace(ctx); err != nil {
			t.Error(err)
		}
	}
}

func expect(t *testing.T, file, want string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if got := strings.TrimSpace(string(text)); err != nil || got != want {
		t.Errorf("%s: got %q, %v, want %q", file, got, err, want)
	}
}

func until(ctx context.Context, t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	if err := harness.Until(ctx, patience, what, check); err != nil {
		t.Fatal(err)
	}
}

// showLog prints the end of the kubelet's log: the machine is gone afterwards.
func showLog(t *testing.T, k *harness.Kubelet) {
	if k.Process() == nil {
		return
	}
	text, err := os.ReadFile(k.Process().Log)
	if err != nil {
		t.Log(err)
		return
	}
	t.Logf("%s:\n%s", k.Process().Log, text[max(0, len(text)-8000):])
}

// A service's cgroup is emptied when its main process dies; what holds the
// runtime's connection must stay.
func TestChildLeavesUnit(t *testing.T) {
	if file := os.Getenv("KUBELET_TEST_CHILD"); file != "" {
		child := exec.Command("/bin/sleep", "1000")
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if err := preflight.LeaveUnit(t.Context(), child.Process.Pid); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file+".new", []byte(strconv.Itoa(child.Process.Pid)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // until it is killed; with nothing to wait for Go ends a program as deadlocked
		return
	}
	const unit = "leaves.service"
	file := filepath.Join(t.TempDir(), "pid")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		command := exec.Command(args[0], args[1:]...)
		// systemd answers slowly here; its clients give up after 25 s.
		command.Env = append(os.Environ(), fmt.Sprintf("SYSTEMD_BUS_TIMEOUT=%d", patience/time.Second))
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	run("systemd-run", "--unit="+unit, "--setenv=KUBELET_TEST_GUEST=1", "--setenv=KUBELET_TEST_CHILD="+file, self, "-test.run=^TestChildLeavesUnit$")
	var pid int
	until(t.Context(), t, "the child", func(context.Context) error {
		text, err := os.ReadFile(file)
		if err == nil {
			pid, err = strconv.Atoi(string(text))
		}
		return err
	})
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	run("systemctl", "kill", "--kill-who=main", "--signal=KILL", unit)
	until(t.Context(), t, "the unit to end", func(context.Context) error {
		out, _ := exec.Command("systemctl", "is-active", unit).Output()
		if state := strings.TrimSpace(string(out)); state != "failed" && state != "inactive" {
			return errors.New("it is " + state)
		}
		return nil
	})
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("the child ended with its unit: %v", err)
	}
}
