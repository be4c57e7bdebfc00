package admission

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"kubelet/internal/podspec"
)

// ask has an accepted pod ask for that much CPU.
func (b *bench) ask(has *v1.Pod, cpu string, change func(*ResizeRequest)) {
	wanted := has.DeepCopy()
	wanted.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse(cpu)
	r := ResizeRequest{Pod: wanted, Allocated: has, Answer: func(v ResizeVerdict) {
		decision := []string{"", "granted", "deferred", "infeasible"}[v.Decision]
		b.answers = append(b.answers, strings.TrimSpace(has.Name+" "+cpu+" "+decision+" "+v.Reason))
	}}
	if change != nil {
		change(&r)
	}
	b.queue.Resize(r)
}

func (b *bench) accept(pods ...*v1.Pod) {
	b.t.Helper()
	var want []string
	for _, p := range pods {
		b.queue.Submit(b.request(p))
		want = append(want, p.Name+" accept")
		synctest.Wait()
	}
	b.expect(want...)
}

func TestResizesWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		one, two, three := pod("one", "500m", 3), pod("two", "500m", 2), pod("three", "900m", 1)
		b.accept(one, two, three)
		// 100m are left of the node's 2.
		b.ask(one, "600m", nil)
		b.expect("one 600m granted")
		b.ask(two, "700m", nil)
		b.expect("two 700m deferred OutOfcpu")
		// What was granted counts, so a pod that comes does not fit.
		b.queue.Submit(b.request(pod("late", "100m", 0)))
		b.expect("late reject OutOfcpu")
		// The same question again gets no second answer until it changes.
		b.queue.Recheck()
		b.expect()
		// A pod that shrinks makes room at once.
		b.ask(three, "700m", nil)
		b.expect("three 700m granted", "two 700m granted")
		// One that takes its question back gives room back, as does one that goes.
		b.ask(two, "900m", nil)
		b.expect("two 900m deferred OutOfcpu")
		b.queue.Unresize(one)
		b.expect("two 900m deferred OutOfcpu") // less is used, and still too much
		b.queue.Forget("three")
		b.expect("two 900m granted")
	})
}

func TestResizesByImportance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		full := pod("full", "1600m", 9)
		var pods []*v1.Pod
		for _, name := range []string{"young", "old", "guaranteed", "important", "shrinks"} {
			pods = append(pods, pod(name, "80m", 1))
		}
		young, old, guaranteed, important, shrinks := pods[0], pods[1], pods[2], pods[3], pods[4]
		priority := int32(1000)
		important.Spec.Priority = &priority
		guaranteed.Status.QOSClass = v1.PodQOSGuaranteed
		b.accept(append(pods, full)...)
		now := time.Now()
		b.ask(young, "300m", func(r *ResizeRequest) { r.Since = now })
		b.ask(old, "300m", func(r *ResizeRequest) { r.Since = now.Add(-time.Hour) })
		b.ask(guaranteed, "300m", nil)
		b.ask(important, "300m", nil)
		b.ask(shrinks, "70m", nil)
		synctest.Wait()
		b.answers = nil
		b.queue.Forget("full")
		b.expect("important 300m granted", "guaranteed 300m granted", "old 300m granted", "young 300m granted")
	})
}

// A node that becomes larger is noticed by time alone.
func TestDeferredResizesAreAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		one := pod("one", "1", 1)
		b.accept(one)
		b.ask(one, "3", nil)
		b.expect("one 3 deferred OutOfcpu")
		larger := b.node.Load().DeepCopy()
		larger.Status.Allocatable[v1.ResourceCPU] = resource.MustParse("4")
		b.node.Store(larger)
		time.Sleep(resizeRetry)
		b.expect("one 3 granted")
	})
}

// Before all sources have reported nobody knows what is taken.
func TestResizesWaitForTheSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ready := make(chan struct{})
		b := start(t, func(c *Config) { c.Ready = ready })
		one := pod("one", "1", 1)
		r := b.request(one)
		r.Accepted = true
		b.queue.Submit(r)
		b.expect("one accept")
		b.ask(one, "1500m", nil)
		b.expect()
		close(ready)
		b.expect("one 1500m granted")
	})
}

func TestResizeRules(t *testing.T) {
	whole := v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}}
	memory := func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Requests[v1.ResourceMemory] = resource.MustParse("1Gi")
	}
	cases := []struct {
		name   string
		rules  ResizeRules
		change func(has, wants *v1.Pod)
		want   string
	}{
		{"room", ResizeRules{}, func(_, wants *v1.Pod) { memory(wants) }, ""},
		{"static pod", ResizeRules{}, func(_, wants *v1.Pod) { static(wants) }, "static_pod"},
		{"resources of the pod", ResizeRules{OwnResources: true}, func(_, wants *v1.Pod) { wants.Spec.Resources = &whole }, ""},
		{"resources of the pod, off", ResizeRules{}, func(_, wants *v1.Pod) { wants.Spec.Resources = &whole }, "plr_feature_gate_off"},
		{"swap", ResizeRules{Swap: true}, func(_, wants *v1.Pod) { memory(wants) }, "swap_limitation"},
		{"swap, restarted", ResizeRules{Swap: true}, func(has, wants *v1.Pod) {
			memory(wants)
			wants.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}}
		}, ""},
		{"own CPUs", ResizeRules{StaticCPU: true}, func(_, wants *v1.Pod) {
			wants.Status.QOSClass = v1.PodQOSGuaranteed
			wants.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("2")
		}, "guaranteed_pod_cpu_manager_static_policy"},
		{"own CPUs, other memory", ResizeRules{StaticCPU: true}, func(_, wants *v1.Pod) {
			wants.Status.QOSClass = v1.PodQOSGuaranteed
			memory(wants)
		}, ""},
		{"own memory", ResizeRules{StaticMemory: true}, func(_, wants *v1.Pod) {
			wants.Status.QOSClass = v1.PodQOSGuaranteed
			memory(wants)
		}, "guaranteed_pod_memory_manager_static_policy"},
	}
	for _, c := range cases {
		has := pod("a", "1", 1)
		wants := has.DeepCopy()
		c.change(has, wants)
		v := JudgeResize(c.rules, Input{Pod: wants, Node: defaultNode()}, has)
		if v.Detail != c.want || (v.Decision == Granted) != (c.want == "") || (v.Message == "") != (c.want == "") {
			t.Errorf("%s: %+v, want %q", c.name, v, c.want)
		}
	}
	if podspec.IsStatic(pod("a", "1", 1)) {
		t.Error("the pods of the cases are static")
	}
}
