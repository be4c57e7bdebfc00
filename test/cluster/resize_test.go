package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubelet/test/harness"
)

// amounts are what a container requests and is limited to, as in
// "50m/100m 32Mi/64Mi".
type amounts string

func (a amounts) requirements() v1.ResourceRequirements {
	cpu, memory, _ := strings.Cut(string(a), " ")
	cpuRequest, cpuLimit, _ := strings.Cut(cpu, "/")
	memoryRequest, memoryLimit, _ := strings.Cut(memory, "/")
	list := func(cpu, memory string) v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	}
	return v1.ResourceRequirements{Requests: list(cpuRequest, memoryRequest), Limits: list(cpuLimit, memoryLimit)}
}

// resize asks for other resources of containers, by name.
func resize(t *testing.T, pod *v1.Pod, want map[string]amounts) *v1.Pod {
	t.Helper()
	pods := node.Cluster.Client.CoreV1().Pods(pod.Namespace)
	for {
		latest, err := pods.Get(t.Context(), pod.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range [][]v1.Container{latest.Spec.InitContainers, latest.Spec.Containers} {
			for i := range list {
				if a, ok := want[list[i].Name]; ok {
					list[i].Resources = a.requirements()
				}
			}
		}
		changed, err := pods.UpdateResize(t.Context(), pod.Name, latest, metav1.UpdateOptions{})
		if err == nil {
			return changed
		}
		if !strings.Contains(err.Error(), "modified") {
			t.Fatal(err)
		}
	}
}

func settled(pod *v1.Pod) bool {
	return harness.Ready(pod) && pod.Status.ObservedGeneration == pod.Generation &&
		harness.PodCondition(pod, v1.PodResizePending) == nil && harness.PodCondition(pod, v1.PodResizeInProgress) == nil
}

// waitResized waits until a pod has what it asks for and checks that the
// status and the cgroups say so.
func waitResized(t *testing.T, pod *v1.Pod) *v1.Pod {
	t.Helper()
	pod = waitPod(t, pod.Namespace, pod.Name, "resized", func(p *v1.Pod) bool {
		return p != nil && p.Generation >= pod.Generation && settled(p)
	})
	var cpu, memory int64
	for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		var want v1.ResourceRequirements
		for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
			if c.Name == s.Name {
				want = c.Resources
			}
		}
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			request, limit := want.Requests[name], want.Limits[name]
			if got := s.Resources.Requests[name]; !got.Equal(request) {
				t.Errorf("%s: status has request %s of %s, want %s", s.Name, &got, name, &request)
			}
			if got := s.Resources.Limits[name]; !got.Equal(limit) {
				t.Errorf("%s: status has limit %s of %s, want %s", s.Name, &got, name, &limit)
			}
			if got := s.AllocatedResources[name]; !got.Equal(request) {
				t.Errorf("%s: %s of %s are allocated, want %s", s.Name, &got, name, &request)
			}
		}
		_, id, _ := strings.Cut(s.ContainerID, "://")
		checkCgroup(t, pod, id, "memory", "memory.limit_in_bytes", want.Limits.Memory().Value())
		checkCgroup(t, pod, id, "cpu", "cpu.cfs_quota_us", want.Limits.Cpu().MilliValue()*100)
		checkCgroup(t, pod, id, "cpu", "cpu.shares", want.Requests.Cpu().MilliValue()*1024/1000)
		cpu += want.Limits.Cpu().MilliValue()
		memory += want.Limits.Memory().Value()
	}
	checkCgroup(t, pod, "", "memory", "memory.limit_in_bytes", memory)
	checkCgroup(t, pod, "", "cpu", "cpu.cfs_quota_us", cpu*100)
	return pod
}

func checkCgroup(t *testing.T, pod *v1.Pod, container, controller, file string, want int64) {
	t.Helper()
	dir, err := node.PodCgroup(controller, pod)
	if err != nil {
		t.Error(err)
		return
	}
	text, err := os.ReadFile(filepath.Join(dir, container, file))
	if got := strings.TrimSpace(string(text)); err != nil || got != fmt.Sprint(want) {
		t.Errorf("%s of %q: %q, %v; want %d", file, container, got, err, want)
	}
}

func restarts(pod *v1.Pod) (counts string) {
	for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		counts += fmt.Sprintf("%s %d ", s.Name, s.RestartCount)
	}
	return strings.TrimSpace(counts)
}

// Resources of a pod that runs are changed without a restart, but where its
// owner asks for one.
func TestResize(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pod := create(t, ns, "resize.yaml", "NAME", "resize")
	waitReady(t, ns, "resize")
	waitResized(t, pod)
	for _, step := range []struct {
		want     map[string]amounts
		restarts string
	}{
		{map[string]amounts{"main": "100m/300m 64Mi/128Mi"}, "side 0 main 0 strict 0"},
		{map[string]amounts{"main": "60m/100m 48Mi/96Mi", "side": "50m/200m 16Mi/48Mi"}, "side 0 main 0 strict 0"},
		{map[string]amounts{"strict": "40m/200m 16Mi/32Mi"}, "side 0 main 0 strict 0"},
		{map[string]amounts{"strict": "40m/200m 32Mi/64Mi"}, "side 0 main 0 strict 1"},
		{map[string]amounts{"main": "50m/100m 32Mi/64Mi", "side": "20m/100m 16Mi/32Mi", "strict": "20m/100m 16Mi/32Mi"}, "side 0 main 0 strict 2"},
	} {
		pod = waitResized(t, resize(t, pod, step.want))
		if got := restarts(pod); got != step.restarts {
			t.Errorf("after %v: restarts %s, want %s", step.want, got, step.restarts)
		}
	}
	for _, reason := range []string{"ResizeStarted", "ResizeCompleted"} {
		if e := waitEvent(t, ns, "resize", reason); !strings.Contains(e.Message, `"containers":[{"name":"main","resources":{"limits":{"cpu":`) {
			t.Errorf("%s: %s", reason, e.Message)
		}
	}
}

// allocatableCPU of the node, in thousandths.
func allocatableCPU(t *testing.T) int64 {
	t.Helper()
	n, err := node.Cluster.Client.CoreV1().Nodes().Get(t.Context(), node.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n.Status.Allocatable.Cpu().MilliValue()
}

// A pod that asks for more than the node has left goes on with what it has,
// and gets it when another one leaves.
func TestResizeWaitsForRoom(t *testing.T) {
	ns := namespace(t)
	most := allocatableCPU(t)
	createText(t, ns, agentPod("tenant", []string{"pause"}, "  resources: {requests: {cpu: 800m}}"))
	pod := create(t, ns, "resize.yaml", "NAME", "resize")
	waitReady(t, ns, "tenant")
	waitReady(t, ns, "resize")
	pod = resize(t, pod, map[string]amounts{"main": amounts(fmt.Sprintf("%dm/%dm 32Mi/64Mi", most-500, most))})
	deferred := func(p *v1.Pod) bool {
		c := harness.PodCondition(p, v1.PodResizePending)
		return c != nil && c.Reason == v1.PodReasonDeferred && strings.Contains(c.Message, "Node didn't have enough resource: cpu, requested:") && c.ObservedGeneration == pod.Generation
	}
	waitPod(t, ns, "resize", "deferred", func(p *v1.Pod) bool { return p != nil && deferred(p) })
	if e := waitEvent(t, ns, "resize", "ResizeDeferred"); !strings.Contains(e.Message, "Pod resize OutOfcpu: {") {
		t.Error(e.Message)
	}
	// The kubelet is killed: the pod is still in the same state, and nobody
	// was told otherwise.
	recorder := node.Cluster.Record(t.Context(), ns)
	kubelet.Kill()
	if err := kubelet.StartAndWait(context.Background()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // for what must not be
	recorder.Stop()
	for _, versions := range recorder.Pods() {
		for _, p := range versions {
			if p.Name == "resize" && !deferred(p) {
				t.Errorf("status says after the kill: %v", p.Status.Conditions)
			}
			if p.Name == "resize" && p.Status.ContainerStatuses[0].AllocatedResources.Cpu().MilliValue() != 50 {
				t.Errorf("allocated after the kill: %v", p.Status.ContainerStatuses[0].AllocatedResources)
			}
		}
	}
	deletePod(t, ns, "tenant", 0)
	pod = waitResized(t, pod)
	if got := restarts(pod); got != "side 0 main 0 strict 0" {
		t.Errorf("restarts: %s", got)
	}
}

// A kubelet that was killed before it wrote down what it had accepted judges
// what pods ask for meanwhile: it is not theirs because the file says nothing.
func TestResizeAfterAllocationsAreLost(t *testing.T) {
	ns := namespace(t)
	most := allocatableCPU(t)
	createText(t, ns, agentPod("tenant", []string{"pause"}, "  resources: {requests: {cpu: 800m}}"))
	pod := create(t, ns, "resize.yaml", "NAME", "resize")
	waitReady(t, ns, "tenant")
	waitReady(t, ns, "resize")
	kubelet.Kill()
	err := os.Remove(node.Path("/var/lib/kubelet/allocated_pods_state"))
	pod = resize(t, pod, map[string]amounts{"main": amounts(fmt.Sprintf("%dm/%dm 32Mi/64Mi", most-500, most))})
	if err := errors.Join(err, kubelet.StartAndWait(context.Background())); err != nil {
		t.Fatal(err)
	}
	waitPod(t, ns, "resize", "without what it asks for", func(p *v1.Pod) bool {
		c := harness.PodCondition(p, v1.PodResizePending)
		return c != nil && c.Reason == v1.PodReasonDeferred && p.Status.ContainerStatuses[0].AllocatedResources.Cpu().MilliValue() == 50
	})
	pod = waitResized(t, resize(t, pod, map[string]amounts{"main": "100m/200m 64Mi/128Mi"}))
	if got := restarts(pod); got != "side 0 main 0 strict 0" {
		t.Errorf("restarts: %s", got)
	}
}

// A memory limit below what is used is not set. The pod says so, and can be
// asked to go back.
func TestResizeBelowUsage(t *testing.T) {
	ns := namespace(t)
	pod := create(t, ns, "resize.yaml", "NAME", "resize")
	waitReady(t, ns, "resize")
	pod = resize(t, pod, map[string]amounts{"main": "50m/100m 10Ki/10Ki"})
	waitPod(t, ns, "resize", "in progress with an error", func(p *v1.Pod) bool {
		c := harness.PodCondition(p, v1.PodResizeInProgress)
		return c != nil && c.Reason == v1.PodReasonError && strings.Contains(c.Message, "memory limit (10240) below current usage")
	})
	waitEvent(t, ns, "resize", "ResizeError")
	kubelet.Kill()
	if err := kubelet.StartAndWait(context.Background()); err != nil {
		t.Fatal(err)
	}
	pod = waitResized(t, resize(t, pod, map[string]amounts{"main": "50m/100m 32Mi/64Mi"}))
	if got := restarts(pod); got != "side 0 main 0 strict 0" {
		t.Errorf("restarts: %s", got)
	}
}

// The kubelet is killed while it resizes, at any moment. In the end each pod
// has what it asks for, and no container was restarted but where it is asked
// for, once for each time.
func TestKilledWhileResizing(t *testing.T) {
	ns := namespace(t)
	pod := create(t, ns, "resize.yaml", "NAME", "resize")
	waitReady(t, ns, "resize")
	strict := 0
	for round := range 8 {
		want := map[string]amounts{"main": "100m/300m 64Mi/128Mi", "side": "40m/200m 16Mi/48Mi", "strict": "20m/100m 32Mi/64Mi"}
		if round%2 == 1 {
			want = map[string]amounts{"main": "50m/100m 32Mi/64Mi", "side": "20m/100m 16Mi/32Mi", "strict": "20m/100m 16Mi/32Mi"}
		}
		strict++
		pod = resize(t, pod, want)
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		kubelet.Kill()
		if err := kubelet.StartAndWait(context.Background()); err != nil {
			t.Fatal(err)
		}
		pod = waitResized(t, pod)
		if got, want := restarts(pod), fmt.Sprintf("side 0 main 0 strict %d", strict); got != want {
			t.Fatalf("round %d: restarts %s, want %s", round, got, want)
		}
	}
}
