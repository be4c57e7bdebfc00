package simulation

import (
	"fmt"
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/cri/critest"
	"kubelet/internal/podspec"
)

// newPod is a pod with one container per name, each of image "app".
func newPod(name string, containers ...string) *v1.Pod {
	if len(containers) == 0 {
		containers = []string{"main"}
	}
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       v1.PodSpec{NodeName: nodeName, RestartPolicy: v1.RestartPolicyAlways},
	}
	for _, c := range containers {
		pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: c, Image: "app", ImagePullPolicy: v1.PullIfNotPresent})
	}
	return pod
}

// static makes a pod one that came from a manifest.
func static(pod *v1.Pod, uid string) *v1.Pod {
	pod.UID = types.UID(uid)
	pod.Annotations = map[string]string{podspec.HashAnnotation: uid, podspec.SourceAnnotation: podspec.SourceFile}
	return pod
}

func hostNetwork(pod *v1.Pod) *v1.Pod {
	pod.Spec.HostNetwork = true
	return pod
}

// randomPod draws a pod and what its containers do. They may crash, hang at
// their stop and end early at first, and come to rest with the fourth attempt.
func (w *world) randomPod(r *rand.Rand, name string) *v1.Pod {
	pod := newPod(name, "a", "b", "c")
	pod.Spec.Containers = pod.Spec.Containers[:1+r.IntN(3)]
	pod.Spec.RestartPolicy = []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}[r.IntN(4)]
	for i := range r.IntN(3) {
		c := v1.Container{Name: fmt.Sprintf("init%d", i), Image: "app", ImagePullPolicy: v1.PullIfNotPresent}
		end := critest.ExitAfter(time.Duration(r.IntN(3000))*time.Millisecond, 0)
		script := []critest.Behavior{end}
		switch r.IntN(6) {
		case 0:
			always := v1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
			script = []critest.Behavior{critest.ExitAfter(time.Second, 1), critest.Forever()}
		case 1:
			script = []critest.Behavior{critest.ExitAfter(time.Second, 3), end}
		}
		w.runtime.Script(name+"/"+c.Name, script...)
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if r.IntN(5) == 0 {
			c.Image = fmt.Sprintf("registry.example/app:%d", r.IntN(3))
		}
		if r.IntN(4) == 0 {
			c.Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse([]string{"100m", "1", "3"}[r.IntN(3)])}
		}
		var script []critest.Behavior
		for range r.IntN(4) {
			script = append(script, randomBehavior(r, int32(r.IntN(3))))
		}
		last := critest.Forever()
		if pod.Spec.RestartPolicy != v1.RestartPolicyAlways && r.IntN(2) == 0 {
			last = critest.ExitAfter(time.Duration(r.IntN(20))*time.Second, 0)
		}
		if r.IntN(4) == 0 {
			last.IgnoreTerm = true
		} else {
			last.TermAfter = time.Duration(r.IntN(4000)) * time.Millisecond
			last.TermCode = int32(r.IntN(2) * 143)
		}
		w.runtime.Script(name+"/"+c.Name, append(script, last)...)
	}
	if r.IntN(3) == 0 {
		grace := int64(r.IntN(40))
		pod.Spec.TerminationGracePeriodSeconds = &grace
	}
	if r.IntN(8) == 0 {
		deadline := int64(1 + r.IntN(100))
		pod.Spec.ActiveDeadlineSeconds = &deadline
	}
	if r.IntN(3) == 0 {
		pod.Annotations = map[string]string{slowVolumes: "true"}
	}
	pod.Spec.HostNetwork = r.IntN(6) == 0
	if r.IntN(6) == 0 {
		priority := int32(r.IntN(1000))
		pod.Spec.Priority = &priority
	}
	return pod
}

func randomBehavior(r *rand.Rand, code int32) critest.Behavior {
	if r.IntN(6) == 0 {
		return critest.Behavior{StartError: "exec: no such file or directory"}
	}
	return critest.ExitAfter(time.Duration(r.IntN(15000))*time.Millisecond, code)
}
