package worker

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/lifecycle"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/resources/allocation"
)

func asking(uid types.UID, cpu string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Generation: 2, Annotations: map[string]string{podspec.SourceAnnotation: "api"}}}
	pod.Spec.Containers = []v1.Container{{Name: "main", Resources: v1.ResourceRequirements{
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)},
	}}}
	return pod
}

func running(pod *v1.Pod) observed.Pod {
	return observed.Pod{UID: pod.UID, Sandboxes: []observed.Sandbox{{ID: "s", Ready: true}}, Containers: []observed.Container{{
		ID: "c", Name: "main", SandboxID: "s", State: observed.Running, Annotations: lifecycle.ResourceAnnotations(pod, &pod.Spec.Containers[0]),
	}}}
}

func restarted(t *testing.T) *Pool {
	t.Helper()
	table, err := allocation.New(allocation.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{Observed: observed.NewTable(nil), Allocations: table, Known: func(types.UID) bool { return false }})
}

// A kubelet that was killed before it wrote down what it had accepted does not
// take for allocated what the pod asks for when the next one starts.
func TestKilledBeforeAllocationIsWritten(t *testing.T) {
	p := restarted(t)
	cpu := func(pod *v1.Pod) string {
		return p.Allocations.Apply(pod).Spec.Containers[0].Resources.Requests.Cpu().String()
	}
	was, asks := asking("runs", "1"), asking("runs", "2")
	p.recallAllocation(asks, running(was))
	if got := cpu(asks); got != "1" {
		t.Errorf("allocated %s, the container was created with 1", got)
	}
	// What is written down counts.
	p.Allocations.Accept(asking("written", "3"))
	p.recallAllocation(asking("written", "2"), running(asking("written", "1")))
	if got := cpu(asking("written", "2")); got != "3" {
		t.Errorf("allocated %s, 3 is written down", got)
	}
	// Of a container that another kubelet made, the spec says it.
	foreign := running(asking("foreign", "1"))
	foreign.Containers[0].Annotations = nil
	p.recallAllocation(asking("foreign", "2"), foreign)
	if got := cpu(asking("foreign", "2")); got != "2" || p.Allocations.Knows("foreign") {
		t.Errorf("allocated %s, another kubelet made the container", got)
	}
	static := asking("static", "2")
	static.Annotations[podspec.SourceAnnotation] = podspec.SourceFile
	p.recallAllocation(static, running(asking("static", "1")))
	if p.Allocations.Knows("static") {
		t.Error("something is allocated to a static pod")
	}
}

// A pod that was accepted is not judged again, unless it may ask for more than
// it was accepted with and nothing says what that was.
func TestAcceptedBefore(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Pool, *v1.Pod)
		want   bool
	}{
		{"new", func(_ *Pool, pod *v1.Pod) { pod.Generation = 1 }, false},
		{"runs", func(p *Pool, pod *v1.Pod) { p.Observed.(*observed.Table).Set(running(pod)) }, true},
		{"written down, and told", func(p *Pool, pod *v1.Pod) { p.Allocations.Accept(pod); pod.Status.StartTime = &metav1.Time{} }, true},
		{"told", func(_ *Pool, pod *v1.Pod) { pod.Generation, pod.Status.StartTime = 1, &metav1.Time{} }, true},
		{"told, then changed", func(_ *Pool, pod *v1.Pod) { pod.Status.StartTime = &metav1.Time{} }, false},
		{"a sandbox, then changed", func(p *Pool, pod *v1.Pod) {
			have := running(pod)
			have.Containers = nil
			p.Observed.(*observed.Table).Set(have)
		}, false},
		{"a directory, then changed", func(p *Pool, _ *v1.Pod) { p.Known = func(types.UID) bool { return true } }, false},
		{"a directory, then deleted", func(p *Pool, pod *v1.Pod) {
			p.Known = func(types.UID) bool { return true }
			pod.DeletionTimestamp = &metav1.Time{}
		}, true},
		{"a static pod's directory", func(p *Pool, pod *v1.Pod) {
			p.Known = func(types.UID) bool { return true }
			pod.Annotations[podspec.SourceAnnotation] = podspec.SourceFile
		}, true},
		{"a directory, and nothing is allocated here", func(p *Pool, _ *v1.Pod) {
			p.Known = func(types.UID) bool { return true }
			p.Allocations = nil
		}, true},
	} {
		p, pod := restarted(t), asking("u", "1")
		tc.change(p, pod)
		if got := p.acceptedBefore(pod); got != tc.want {
			t.Errorf("%s: accepted %v", tc.name, got)
		}
	}
}
