package lifecycle

import (
	"fmt"
	"maps"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// asking is a pod whose containers and itself ask for these: cpu request and
// limit, memory request and limit, "" for none.
func asking(own []string, containers map[string][]string) *v1.Pod {
	list := func(cpu, memory string) v1.ResourceList {
		l := v1.ResourceList{}
		for name, text := range map[v1.ResourceName]string{v1.ResourceCPU: cpu, v1.ResourceMemory: memory} {
			if text != "" {
				l[name] = resource.MustParse(text)
			}
		}
		return l
	}
	requirements := func(r []string) v1.ResourceRequirements {
		return v1.ResourceRequirements{Requests: list(r[0], r[2]), Limits: list(r[1], r[3])}
	}
	pod := &v1.Pod{}
	for _, name := range []string{"a", "b"} {
		if r := containers[name]; r != nil {
			pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: name, Resources: requirements(r)})
		}
	}
	if own != nil {
		r := requirements(own)
		pod.Spec.Resources = &r
	}
	return pod
}

// started is what the runtime has of a pod's containers.
func started(pod *v1.Pod, names ...string) (have observed.Pod) {
	for i, name := range names {
		c, _ := podspec.FindContainer(pod, name)
		have.Containers = append(have.Containers, observed.Container{ID: name + "-0", Name: name, State: observed.Running,
			CreatedAt: time.Unix(int64(i), 0), Annotations: ResourceAnnotations(pod, c)})
	}
	return have
}

// A kubelet that was killed before it wrote down what is allocated finds it
// with the containers.
func TestGiven(t *testing.T) {
	type spec = map[string][]string
	for _, tc := range []struct {
		name      string
		was, asks *v1.Pod
		created   []string
		want      *v1.Pod // nil for was
	}{
		{"asks for more", asking(nil, spec{"a": {"100m", "200m", "8Mi", "16Mi"}, "b": {"1", "", "", ""}}),
			asking(nil, spec{"a": {"300m", "400m", "32Mi", "64Mi"}, "b": {"2", "3", "1Gi", "2Gi"}}), []string{"a", "b"}, nil},
		{"asks for the same", asking(nil, spec{"a": {"0.1", "200m", "8Mi", "16Mi"}}), asking(nil, spec{"a": {"100m", "0.2", "8Mi", "16Mi"}}), []string{"a"}, nil},
		{"asks for nothing", asking(nil, spec{"a": {"100m", "200m", "8Mi", "16Mi"}}), asking(nil, spec{"a": {"", "", "", ""}}), []string{"a"}, nil},
		{"asked for nothing", asking(nil, spec{"a": {"", "", "", ""}}), asking(nil, spec{"a": {"1", "1", "1Gi", "1Gi"}}), []string{"a"}, nil},
		{"one was not created", asking(nil, spec{"a": {"1", "", "", ""}, "b": {"1", "", "", ""}}),
			asking(nil, spec{"a": {"2", "", "", ""}, "b": {"2", "", "", ""}}), []string{"a"},
			asking(nil, spec{"a": {"1", "", "", ""}, "b": {"2", "", "", ""}})},
		{"resources of the pod", asking([]string{"1", "2", "1Gi", "2Gi"}, spec{"a": {"500m", "", "", ""}, "b": {"500m", "1", "", "1Gi"}}),
			asking([]string{"3", "4", "3Gi", "4Gi"}, spec{"a": {"700m", "", "", ""}, "b": {"500m", "2", "", "1Gi"}}), []string{"a", "b"}, nil},
		{"resources of the pod are new", asking(nil, spec{"a": {"1", "", "", ""}}), asking([]string{"1", "2", "1Gi", "2Gi"}, spec{"a": {"1", "", "", ""}}), []string{"a"}, nil},
	} {
		before := tc.asks.DeepCopy()
		got, want := History{}.Given(tc.asks, started(tc.was, tc.created...)), tc.want
		if want == nil {
			want = tc.was
		}
		if !equality.Semantic.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", tc.name, got.Spec, want.Spec)
		}
		if !equality.Semantic.DeepEqual(tc.asks, before) {
			t.Errorf("%s: the spec was changed", tc.name)
		}
	}
}

// What else a container asks for is not a matter of resizes.
func TestGivenKeepsOtherResources(t *testing.T) {
	was := asking(nil, map[string][]string{"a": {"1", "1", "", ""}})
	asks := asking(nil, map[string][]string{"a": {"2", "2", "", ""}})
	asks.Spec.Containers[0].Resources.Limits["hugepages-2Mi"] = resource.MustParse("4Mi")
	got := History{}.Given(asks, started(was, "a")).Spec.Containers[0].Resources.Limits
	if huge := got["hugepages-2Mi"]; huge.String() != "4Mi" || got.Cpu().String() != "1" {
		t.Errorf("limits %v", got)
	}
}

// The newest container of a name counts, and what it was resized to. Of those
// of another kubelet, or with annotations that make no sense, nothing is known.
func TestGivenTheNewest(t *testing.T) {
	asks := asking(nil, map[string][]string{"a": {"9", "", "", ""}})
	have := observed.Pod{}
	for i := 3; i > 0; i-- {
		c := started(asking(nil, map[string][]string{"a": {fmt.Sprint(i), "", "", ""}}), "a").Containers[0]
		c.ID, c.Attempt = fmt.Sprint(i), uint32(i)
		have.Containers = append(have.Containers, c)
	}
	cpu := func(pod *v1.Pod) string { return pod.Spec.Containers[0].Resources.Requests.Cpu().String() }
	if got := cpu(History{}.Given(asks, have)); got != "3" {
		t.Errorf("given %s", got)
	}
	resized := History{Lives: map[string]Life{"3": {Sized: true, Has: podspec.Amounts{CPURequest: 7000}}}}
	if got := cpu(resized.Given(asks, have)); got != "7" {
		t.Errorf("resized to %s", got)
	}
	for _, annotations := range []map[string]string{nil, {"io.kubernetes.container.resources": "{"}} {
		foreign := observed.Pod{Containers: []observed.Container{have.Containers[0]}}
		foreign.Containers[0].Annotations = maps.Clone(annotations)
		if got := (History{}).Given(asks, foreign); got != nil {
			t.Errorf("%v tell %v", annotations, got.Spec)
		}
	}
	if got := (History{}).Given(asks, observed.Pod{}); got != nil {
		t.Errorf("no container tells %v", got.Spec)
	}
}
