package backing

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestTmpfsBytes(t *testing.T) {
	limited := func(limits ...string) *v1.Pod {
		p := &v1.Pod{}
		for _, l := range limits {
			c := v1.Container{}
			if l != "" {
				c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse(l)}
			}
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
		return p
	}
	podLevel := limited("", "")
	podLevel.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("7Mi")}}
	overhead := limited("1Mi")
	overhead.Spec.Overhead = v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Mi")}

	cases := []struct {
		name        string
		pod         *v1.Pod
		limit, node string
		want        int64 // MiB
	}{
		{"nothing known", limited(""), "", "", 0},
		{"the node's", limited(""), "", "100Mi", 100},
		{"the pod's", limited("10Mi", "20Mi"), "", "100Mi", 30},
		{"a container without a limit", limited("10Mi", ""), "", "100Mi", 100},
		{"pod-level", podLevel, "", "100Mi", 7},
		{"with overhead", overhead, "", "100Mi", 2},
		{"the volume's", limited("10Mi"), "5Mi", "100Mi", 5},
		{"a volume's above the pod's", limited("10Mi"), "50Mi", "100Mi", 10},
		{"a pod's above the node's", limited("10Gi"), "", "100Mi", 100},
		{"a volume's of zero", limited("10Mi"), "0", "100Mi", 10},
		{"the volume's alone", limited(""), "5Mi", "", 5},
	}
	for _, c := range cases {
		var limit *resource.Quantity
		if c.limit != "" {
			q := resource.MustParse(c.limit)
			limit = &q
		}
		node := v1.ResourceList{}
		if c.node != "" {
			node[v1.ResourceMemory] = resource.MustParse(c.node)
		}
		if got := tmpfsBytes(c.pod, limit, node); got != c.want<<20 {
			t.Errorf("%s: %d bytes, want %d MiB", c.name, got, c.want)
		}
	}
}
