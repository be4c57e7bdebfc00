package emptydir

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"kubelet/internal/volume"
	"kubelet/internal/volume/backing"
)

func TestHugePages(t *testing.T) {
	pod := func(requests ...v1.ResourceName) *v1.Pod {
		p := &v1.Pod{}
		for _, name := range requests {
			c := v1.Container{}
			c.Resources.Requests = v1.ResourceList{name: resource.MustParse("2Mi"), v1.ResourceCPU: resource.MustParse("1")}
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		}
		return p
	}
	whole := func(requests ...v1.ResourceName) *v1.Pod {
		p := pod()
		p.Spec.Resources = &v1.ResourceRequirements{Requests: v1.ResourceList{}}
		for _, name := range requests {
			p.Spec.Resources.Requests[name] = resource.MustParse("2Mi")
		}
		return p
	}
	cases := []struct {
		medium v1.StorageMedium
		pod    *v1.Pod
		want   int64
		error  string
	}{
		{"HugePages", pod("hugepages-2Mi"), 2 << 20, ""},
		{"HugePages", pod("hugepages-2Mi", "hugepages-2048Ki"), 2 << 20, ""},
		{"HugePages", pod("hugepages-2Mi", "hugepages-1Gi"), 0, "several sizes"},
		{"HugePages", pod(), 0, "no container requests huge pages"},
		{"HugePages", whole("hugepages-2Mi"), 2 << 20, ""},
		{"HugePages-1Gi", whole("hugepages-2Mi"), 0, "no container requests huge pages of this size"},
		{"HugePages-1Gi", pod("hugepages-2Mi", "hugepages-1Gi"), 1 << 30, ""},
		{"HugePages-1Gi", pod("hugepages-2Mi"), 0, "no container requests huge pages of this size"},
		{"HugePages-x", pod("hugepages-2Mi"), 0, "HugePages-x"},
		{"HugePages", pod("hugepages-x"), 0, "hugepages-x"},
	}
	for _, c := range cases {
		spec := volume.Spec{Pod: c.pod, Volume: &v1.Volume{}}
		spec.Volume.EmptyDir = &v1.EmptyDirVolumeSource{Medium: c.medium}
		got, err := wantedOf(spec)
		switch {
		case c.error == "" && (err != nil || got.Medium != backing.HugePages || got.PageSize != c.want):
			t.Errorf("%s: %+v, %v; want pages of %d", c.medium, got, err, c.want)
		case c.error != "" && (err == nil || !strings.Contains(err.Error(), c.error)):
			t.Errorf("%s: error %v, want %q", c.medium, err, c.error)
		}
	}
}
