package worker

import (
	"encoding/json"
	"strconv"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/cri"
	"kubelet/internal/observed"
)

// orphan is what can be known of a pod of which only its remains are left: its
// name, and what the annotations of its containers say about how they are to
// be stopped.
func orphan(uid types.UID, have observed.Pod) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: uid, Name: have.Name, Namespace: have.Namespace},
		Spec:       v1.PodSpec{RestartPolicy: v1.RestartPolicyNever},
	}
	for i := range have.Containers {
		c := &have.Containers[i]
		if have.Latest(c.Name) != c {
			continue
		}
		spec := v1.Container{Name: c.Name, Image: c.Image}
		var hook v1.LifecycleHandler
		if text := c.Annotations[cri.AnnotationPreStopHandler]; text != "" && json.Unmarshal([]byte(text), &hook) == nil {
			spec.Lifecycle = &v1.Lifecycle{PreStop: &hook}
		}
		// What cannot be read is left out: ports without a name still work.
		_ = json.Unmarshal([]byte(c.Annotations[cri.AnnotationPorts]), &spec.Ports)
		pod.Spec.Containers = append(pod.Spec.Containers, spec)
		if grace, err := strconv.ParseInt(c.Annotations[cri.AnnotationPodTerminationGracePeriod], 10, 64); err == nil && grace >= 0 {
			pod.Spec.TerminationGracePeriodSeconds = &grace
		}
	}
	return pod
}
