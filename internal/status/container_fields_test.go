package status

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

func amounts(cpu, memory string) v1.ResourceList {
	list := v1.ResourceList{}
	if cpu != "" {
		list[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		list[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return list
}

// The resources of a status are those in force.
func TestResourcesInForce(t *testing.T) {
	for _, c := range []struct {
		name             string
		requests, limits v1.ResourceList // of the spec
		state            observed.ContainerState
		is               observed.Resources
		was              *v1.ResourceRequirements // reported of the same container
		want             v1.ResourceRequirements
		has              *podspec.Amounts // what it was given, if that is known
	}{
		{"as the spec says", amounts("100m", "32Mi"), amounts("0.25", "64Mi"), observed.Running,
			observed.Resources{CPUShares: 102, CPUQuota: 25000, CPUPeriod: 100000, MemoryLimit: 64 << 20}, nil,
			v1.ResourceRequirements{Requests: amounts("100m", "32Mi"), Limits: amounts("0.25", "64Mi")}, nil},
		{"the spec is ahead", amounts("300m", "64Mi"), amounts("600m", "128Mi"), observed.Running,
			observed.Resources{CPUShares: 102, CPUQuota: 25000, CPUPeriod: 100000, MemoryLimit: 64 << 20},
			&v1.ResourceRequirements{Requests: amounts("100m", "32Mi"), Limits: amounts("250m", "64Mi")},
			v1.ResourceRequirements{Requests: amounts("100m", "32Mi"), Limits: amounts("250m", "64Mi")}, nil},
		{"the runtime does not tell", amounts("300m", "64Mi"), amounts("600m", "128Mi"), observed.Running, observed.Resources{},
			&v1.ResourceRequirements{Requests: amounts("100m", "32Mi"), Limits: amounts("250m", "64Mi")},
			v1.ResourceRequirements{Requests: amounts("100m", "32Mi"), Limits: amounts("250m", "64Mi")}, nil},
		{"it has ended", amounts("300m", ""), amounts("600m", ""), observed.Exited,
			observed.Resources{CPUShares: 102, CPUQuota: 25000, CPUPeriod: 100000}, nil,
			v1.ResourceRequirements{Requests: amounts("300m", ""), Limits: amounts("600m", "")}, nil},
		{"less than the kernel can hold", amounts("1m", ""), amounts("3m", ""), observed.Running,
			observed.Resources{CPUShares: 2, CPUQuota: 1000, CPUPeriod: 100000}, nil,
			v1.ResourceRequirements{Requests: amounts("1m", ""), Limits: amounts("3m", "")}, nil},
		{"memory alone requested", amounts("", "64Mi"), nil, observed.Running,
			observed.Resources{CPUShares: 2}, nil, v1.ResourceRequirements{Requests: amounts("", "64Mi")}, nil},
		{"nothing asked for", nil, nil, observed.Running,
			observed.Resources{CPUShares: 2, CPUQuota: -1, CPUPeriod: 100000}, nil, v1.ResourceRequirements{}, nil},
		{"given, and the runtime does not tell", amounts("300m", "64Mi"), amounts("600m", ""), observed.Running, observed.Resources{},
			&v1.ResourceRequirements{Requests: amounts("1", "1Mi"), Limits: amounts("1", "")},
			v1.ResourceRequirements{Requests: amounts("100m", "32Mi"), Limits: amounts("250m", "")},
			&podspec.Amounts{CPURequest: 100, CPULimit: 250, MemoryRequest: 32 << 20, MemoryLimit: 1 << 30}},
		{"the memory request was given", amounts("100m", "64Mi"), nil, observed.Running, observed.Resources{CPUShares: 102},
			&v1.ResourceRequirements{Requests: amounts("100m", "64Mi")},
			v1.ResourceRequirements{Requests: amounts("100m", "32Mi")}, &podspec.Amounts{CPURequest: 100, MemoryRequest: 32 << 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			container := &v1.Container{Resources: v1.ResourceRequirements{Requests: c.requests, Limits: c.limits}}
			var old *v1.ContainerStatus
			if c.was != nil {
				old = &v1.ContainerStatus{State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}, Resources: c.was}
			}
			got := resourcesInForce(container, &observed.Container{State: c.state, Resources: c.is}, c.has, old)
			if diff := cmp.Diff(&c.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.requests, container.Resources.Requests); diff != "" {
				t.Error("the spec was changed: " + diff)
			}
		})
	}
}

// CPU amounts survive the way through the cgroup and back.
func TestCPUAmountsSurvive(t *testing.T) {
	for milli := int64(11); milli < 130000; milli += 7 {
		q := *resource.NewMilliQuantity(milli, resource.DecimalSI)
		list := v1.ResourceList{v1.ResourceCPU: q}
		c := &v1.Container{Resources: v1.ResourceRequirements{Requests: list, Limits: list}}
		got := resourcesInForce(c, &observed.Container{State: observed.Running, Resources: observed.Resources{
			CPUShares: milli * 1024 / 1000, CPUQuota: milli * 100, CPUPeriod: 100000,
		}}, nil, nil)
		if r, l := got.Requests.Cpu().MilliValue(), got.Limits.Cpu().MilliValue(); r != milli || l != milli {
			t.Fatalf("%dm came back as request %dm, limit %dm", milli, r, l)
		}
	}
}

func TestVolumeMounts(t *testing.T) {
	mode := func(m v1.RecursiveReadOnlyMode) *v1.RecursiveReadOnlyMode { return &m }
	c := &v1.Container{VolumeMounts: []v1.VolumeMount{
		{Name: "data", MountPath: "/data"},
		{Name: "plain", MountPath: "/plain", ReadOnly: true},
		{Name: "maybe", MountPath: "maybe", ReadOnly: true, RecursiveReadOnly: mode(v1.RecursiveReadOnlyIfPossible)},
		{Name: "must", MountPath: "/must", ReadOnly: true, RecursiveReadOnly: mode(v1.RecursiveReadOnlyEnabled)},
		{Name: "image", MountPath: "/image", ReadOnly: true},
	}}
	image := &v1.VolumeStatus{Image: &v1.ImageVolumeStatus{ImageRef: "sha256:1"}}
	want := func(maybe *v1.RecursiveReadOnlyMode, status *v1.VolumeStatus) []v1.VolumeMountStatus {
		disabled := mode(v1.RecursiveReadOnlyDisabled)
		list := []v1.VolumeMountStatus{
			{Name: "data", MountPath: "/data"},
			{Name: "plain", MountPath: "/plain", ReadOnly: true, RecursiveReadOnly: disabled},
			{Name: "maybe", MountPath: "maybe", ReadOnly: true, RecursiveReadOnly: maybe},
			{Name: "must", MountPath: "/must", ReadOnly: true, RecursiveReadOnly: mode(v1.RecursiveReadOnlyEnabled)},
			{Name: "image", MountPath: "/image", ReadOnly: true, RecursiveReadOnly: disabled},
		}
		list[4].VolumeStatus = status
		return list
	}
	check := func(what string, got, want []v1.VolumeMountStatus) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", what, diff)
		}
	}
	waiting := volumeMounts(c, nil, nil)
	check("not created yet", waiting, want(nil, nil))
	running := volumeMounts(c, &observed.Container{State: observed.Running, RecursiveReadOnly: []string{"/maybe", "/must"}}, waiting)
	check("the runtime can", running, want(mode(v1.RecursiveReadOnlyEnabled), nil))
	check("the runtime cannot", volumeMounts(c, &observed.Container{State: observed.Running}, waiting), want(mode(v1.RecursiveReadOnlyDisabled), nil))
	running[4].VolumeStatus = image
	check("the record is gone", volumeMounts(c, nil, running), want(mode(v1.RecursiveReadOnlyEnabled), image))
}
