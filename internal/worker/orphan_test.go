package worker

import (
	"testing"

	"kubelet/internal/cri"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// A pod that only the runtime knows is stopped as its annotations say.
func TestOrphan(t *testing.T) {
	annotations := map[string]string{
		cri.AnnotationPreStopHandler:            `{"httpGet":{"port":"web","path":"/bye"}}`,
		cri.AnnotationPorts:                     `[{"name":"web","containerPort":8080}]`,
		cri.AnnotationPodTerminationGracePeriod: "7",
	}
	pod := orphan("u1", observed.Pod{Name: "p", Namespace: "ns", Containers: []observed.Container{
		{ID: "2", Name: "web", Attempt: 1, Annotations: annotations},
		{ID: "1", Name: "web"},
		{ID: "3", Name: "odd", Annotations: map[string]string{cri.AnnotationPreStopHandler: "{", cri.AnnotationPorts: "no", cri.AnnotationPodTerminationGracePeriod: "-1"}},
	}})
	if len(pod.Spec.Containers) != 2 || podspec.Grace(pod).Seconds() != 7 {
		t.Fatalf("%+v", pod.Spec)
	}
	web := pod.Spec.Containers[0]
	if web.Lifecycle == nil || web.Lifecycle.PreStop.HTTPGet.Path != "/bye" || web.Ports[0].ContainerPort != 8080 {
		t.Errorf("web: %+v", web)
	}
	if odd := pod.Spec.Containers[1]; odd.Lifecycle != nil || odd.Ports != nil {
		t.Errorf("annotations that make no sense: %+v", odd)
	}
}
