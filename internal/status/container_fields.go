package status

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// containerUser is who the container's first process runs as.
func containerUser(u *observed.User) *v1.ContainerUser {
	if u == nil {
		return nil
	}
	return &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: u.UID, GID: u.GID, SupplementalGroups: u.Groups}}
}

// volumeMounts tells how the container's volumes are mounted. Whether a mount
// of mode IfPossible is recursively read-only shows once the container exists;
// before that nothing is said of it (KEP-3857). What a volume's own type
// reported before stays.
func volumeMounts(c *v1.Container, r *observed.Container, old []v1.VolumeMountStatus) []v1.VolumeMountStatus {
	if len(c.VolumeMounts) == 0 {
		return nil
	}
	mounts := make([]v1.VolumeMountStatus, 0, len(c.VolumeMounts))
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		s := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		before := slices.IndexFunc(old, func(o v1.VolumeMountStatus) bool { return o.Name == m.Name && o.MountPath == m.MountPath })
		if before >= 0 {
			s.RecursiveReadOnly, s.VolumeStatus = old[before].RecursiveReadOnly, old[before].VolumeStatus
		}
		if mode := recursiveReadOnly(m, r); mode != nil {
			s.RecursiveReadOnly = mode
		}
		mounts = append(mounts, s)
	}
	return mounts
}

// recursiveReadOnly is Enabled or Disabled for a read-only mount, nil while it
// is not known and for mounts that can be written.
func recursiveReadOnly(m *v1.VolumeMount, r *observed.Container) *v1.RecursiveReadOnlyMode {
	mode := v1.RecursiveReadOnlyDisabled
	switch {
	case !m.ReadOnly:
		return nil
	case m.RecursiveReadOnly == nil, *m.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled:
	case r != nil && slices.ContainsFunc(r.RecursiveReadOnly, func(path string) bool { return path == m.MountPath || path == "/"+m.MountPath }),
		*m.RecursiveReadOnly == v1.RecursiveReadOnlyEnabled: // refused if it cannot be
		mode = v1.RecursiveReadOnlyEnabled
	case r == nil || r.State == observed.Unknown:
		return nil
	}
	return &mode
}

// Least weight and limit that the kernel can hold, in thousandths of a CPU:
// smaller ones are raised to it.
const (
	leastCPURequest = 2
	leastCPULimit   = 10
)

// resourcesInForce are the container's resources: those of its spec, and for
// a running container what its cgroup says of CPU and memory, as far as the
// spec sets them (KEP-1287). What the runtime does not tell of, and the memory
// request, which no cgroup file has, is what the container was given; if that
// is not known, it stays as it was reported of the same container.
func resourcesInForce(c *v1.Container, r *observed.Container, has *podspec.Amounts, old *v1.ContainerStatus) *v1.ResourceRequirements {
	res := c.Resources.DeepCopy()
	if r.State != observed.Running {
		return res
	}
	var was v1.ResourceRequirements
	switch {
	case has != nil:
		was = given(c, *has)
	case old != nil && old.State.Running != nil && old.Resources != nil:
		was = *old.Resources
	}
	is := &r.Resources
	if is.CPUPeriod > 0 && is.CPUQuota > 0 {
		setMilli(res.Limits, is.CPUQuota*1000/is.CPUPeriod, leastCPULimit)
	} else {
		keep(res.Limits, was.Limits, v1.ResourceCPU)
	}
	if is.CPUShares > 0 {
		setMilli(res.Requests, (is.CPUShares*1000+1023)/1024, leastCPURequest)
	} else {
		keep(res.Requests, was.Requests, v1.ResourceCPU)
	}
	if q := resource.NewQuantity(is.MemoryLimit, resource.BinarySI); is.MemoryLimit > 0 {
		set(res.Limits, v1.ResourceMemory, *q)
	} else {
		keep(res.Limits, was.Limits, v1.ResourceMemory)
	}
	keep(res.Requests, was.Requests, v1.ResourceMemory)
	return res
}

// given are amounts as far as the container's spec names them: a limit that
// only the pod has is none of the container's.
func given(c *v1.Container, a podspec.Amounts) v1.ResourceRequirements {
	r := a.Requirements()
	for name := range r.Limits {
		if _, ok := c.Resources.Limits[name]; !ok {
			delete(r.Limits, name)
		}
	}
	return r
}

// setMilli sets the CPU amount, unless the spec asks for less than the kernel
// can hold and got the least of it.
func setMilli(list v1.ResourceList, milli, least int64) {
	if q := list[v1.ResourceCPU]; milli <= least && q.MilliValue() <= least {
		return
	}
	set(list, v1.ResourceCPU, *resource.NewMilliQuantity(milli, resource.DecimalSI))
}

// set changes an amount, keeping the way that the spec writes an equal one. A
// list that the spec leaves out stays out.
func set(list v1.ResourceList, name v1.ResourceName, q resource.Quantity) {
	if have, ok := list[name]; list == nil || ok && have.Cmp(q) == 0 {
		return
	}
	list[name] = q
}

func keep(list, was v1.ResourceList, name v1.ResourceName) {
	if q, ok := was[name]; ok {
		set(list, name, q)
	}
}
