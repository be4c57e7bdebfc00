package pleg

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
	"kubelet/internal/observed"
)

// What the runtime says, turned into the table's words. Nothing here calls
// anything.

func stateOf(s runtimeapi.ContainerState) observed.ContainerState {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return observed.Created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return observed.Running
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return observed.Exited
	}
	return observed.Unknown
}

func instant(ns int64) time.Time {
	if ns <= 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// attempt is the restart count. The annotation is what a kubelet wrote; the
// metadata are for containers without it.
func attempt(annotations map[string]string, metadata uint32) uint32 {
	if n, err := strconv.ParseUint(annotations[cri.AnnotationRestartCount], 10, 32); err == nil {
		return uint32(n)
	}
	return metadata
}

// listedContainer is what a list alone tells. Whether a container that ended
// succeeded is not in a list, so its state is unknown until its status is
// read; a running one is said to have started when it was created.
func listedContainer(c *runtimeapi.Container) observed.Container {
	o := observed.Container{
		ID:          c.GetId(),
		Name:        c.GetLabels()[cri.LabelContainerName],
		SandboxID:   c.GetPodSandboxId(),
		State:       stateOf(c.GetState()),
		CreatedAt:   instant(c.GetCreatedAt()),
		Image:       c.GetImage().GetImage(),
		ImageRef:    c.GetImageRef(),
		ImageID:     cmp.Or(c.GetImageId(), c.GetImageRef()),
		Attempt:     attempt(c.GetAnnotations(), c.GetMetadata().GetAttempt()),
		Hash:        c.GetAnnotations()[cri.AnnotationHash],
		Annotations: c.GetAnnotations(),
	}
	if o.Name == "" {
		o.Name = c.GetMetadata().GetName()
	}
	switch o.State {
	case observed.Exited:
		o.State = observed.Unknown
	case observed.Running:
		o.StartedAt = o.CreatedAt
	}
	return o
}

// readContainer is what a status tells; the message is not read here.
func readContainer(s *runtimeapi.ContainerStatus, sandboxID string, pid int) observed.Container {
	o := observed.Container{
		ID:          s.GetId(),
		Name:        s.GetLabels()[cri.LabelContainerName],
		SandboxID:   sandboxID,
		State:       stateOf(s.GetState()),
		CreatedAt:   instant(s.GetCreatedAt()),
		Image:       s.GetImage().GetImage(),
		ImageRef:    s.GetImageRef(),
		ImageID:     cmp.Or(s.GetImageId(), s.GetImageRef()), // runtimes before CRI 1.30 have no id
		Attempt:     attempt(s.GetAnnotations(), s.GetMetadata().GetAttempt()),
		Hash:        s.GetAnnotations()[cri.AnnotationHash],
		Annotations: s.GetAnnotations(),
		LogPath:     s.GetLogPath(),
		StopSignal:  cri.StopSignal(s.GetStopSignal()),
		User:        user(s.GetUser().GetLinux()),
	}
	if r := s.GetResources().GetLinux(); r != nil {
		o.Resources = observed.Resources{CPUShares: r.CpuShares, CPUQuota: r.CpuQuota, CPUPeriod: r.CpuPeriod, MemoryLimit: r.MemoryLimitInBytes}
	}
	for _, m := range s.GetMounts() {
		if m.GetRecursiveReadOnly() {
			o.RecursiveReadOnly = append(o.RecursiveReadOnly, m.GetContainerPath())
		}
	}
	if o.Name == "" {
		o.Name = s.GetMetadata().GetName()
	}
	if o.State != observed.Created {
		o.StartedAt = instant(s.GetStartedAt())
	}
	switch o.State {
	case observed.Running:
		o.Pid = pid
	case observed.Exited:
		o.FinishedAt = instant(s.GetFinishedAt())
		o.ExitCode, o.Reason, o.Message = s.GetExitCode(), s.GetReason(), s.GetMessage()
	}
	return o
}

func user(u *runtimeapi.LinuxContainerUser) *observed.User {
	if u == nil {
		return nil
	}
	return &observed.User{UID: u.GetUid(), GID: u.GetGid(), Groups: u.GetSupplementalGroups()}
}

func sameUser(a, b *observed.User) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.UID == b.UID && a.GID == b.GID && slices.Equal(a.Groups, b.Groups)
}

func listedSandbox(s *runtimeapi.PodSandbox) observed.Sandbox {
	return observed.Sandbox{
		ID:             s.GetId(),
		Ready:          s.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY,
		CreatedAt:      instant(s.GetCreatedAt()),
		Attempt:        s.GetMetadata().GetAttempt(),
		RuntimeHandler: s.GetRuntimeHandler(),
		Annotations:    s.GetAnnotations(),
	}
}

func readSandbox(s *runtimeapi.PodSandboxStatus, info map[string]string) observed.Sandbox {
	o := observed.Sandbox{
		ID:             s.GetId(),
		Ready:          s.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY,
		CreatedAt:      instant(s.GetCreatedAt()),
		Attempt:        s.GetMetadata().GetAttempt(),
		RuntimeHandler: s.GetRuntimeHandler(),
		HostNetwork:    s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE,
		Annotations:    s.GetAnnotations(),
	}
	pid, image := cri.SandboxInfo(info)
	if o.Image = image; o.Ready {
		o.Pid = pid
	}
	if ip := s.GetNetwork().GetIp(); ip != "" {
		o.IPs = append(o.IPs, ip)
		for _, more := range s.GetNetwork().GetAdditionalIps() {
			o.IPs = append(o.IPs, more.GetIp())
		}
	}
	return o
}

// sortPod puts the newest first.
func sortPod(p *observed.Pod) {
	slices.SortStableFunc(p.Sandboxes, func(a, b observed.Sandbox) int {
		return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), b.CreatedAt.Compare(a.CreatedAt))
	})
	slices.SortStableFunc(p.Containers, func(a, b observed.Container) int {
		return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), b.CreatedAt.Compare(a.CreatedAt))
	})
}

func findContainer(p *observed.Pod, id string) *observed.Container {
	for i := range p.Containers {
		if p.Containers[i].ID == id {
			return &p.Containers[i]
		}
	}
	return nil
}

func findSandbox(p *observed.Pod, id string) *observed.Sandbox {
	for i := range p.Sandboxes {
		if p.Sandboxes[i].ID == id {
			return &p.Sandboxes[i]
		}
	}
	return nil
}

// samePod compares what the runtime said, not when.
func samePod(a, b *observed.Pod) bool {
	return slices.EqualFunc(a.Sandboxes, b.Sandboxes, func(a, b observed.Sandbox) bool {
		return a.ID == b.ID && a.Ready == b.Ready && a.CreatedAt.Equal(b.CreatedAt) && a.Attempt == b.Attempt &&
			a.RuntimeHandler == b.RuntimeHandler && a.HostNetwork == b.HostNetwork && a.Pid == b.Pid && a.Image == b.Image &&
			slices.Equal(a.IPs, b.IPs) && maps.Equal(a.Annotations, b.Annotations)
	}) && slices.EqualFunc(a.Containers, b.Containers, func(a, b observed.Container) bool {
		return a.ID == b.ID && a.State == b.State && a.Pid == b.Pid && a.ExitCode == b.ExitCode && a.Attempt == b.Attempt &&
			a.Reason == b.Reason && a.Message == b.Message && a.ImageRef == b.ImageRef && a.ImageID == b.ImageID && a.Image == b.Image &&
			a.CreatedAt.Equal(b.CreatedAt) && a.StartedAt.Equal(b.StartedAt) && a.FinishedAt.Equal(b.FinishedAt) &&
			a.LogPath == b.LogPath && a.Hash == b.Hash && sameUser(a.User, b.User) && a.Resources == b.Resources &&
			slices.Equal(a.RecursiveReadOnly, b.RecursiveReadOnly) && maps.Equal(a.Annotations, b.Annotations)
	})
}

// fingerprintOf is the fingerprint of a list of what is known.
func fingerprintOf(p *observed.Pod) uint64 {
	l := listing{}
	for i := range p.Sandboxes {
		state := runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		if p.Sandboxes[i].Ready {
			state = runtimeapi.PodSandboxState_SANDBOX_READY
		}
		l.sandboxes = append(l.sandboxes, &runtimeapi.PodSandbox{Id: p.Sandboxes[i].ID, State: state})
	}
	for i := range p.Containers {
		state := runtimeapi.ContainerState_CONTAINER_UNKNOWN
		switch p.Containers[i].State {
		case observed.Created:
			state = runtimeapi.ContainerState_CONTAINER_CREATED
		case observed.Running:
			state = runtimeapi.ContainerState_CONTAINER_RUNNING
		case observed.Exited:
			state = runtimeapi.ContainerState_CONTAINER_EXITED
		}
		l.containers = append(l.containers, &runtimeapi.Container{Id: p.Containers[i].ID, State: state})
	}
	return l.fingerprint()
}

// fingerprint is the same for two listings of the same things in the same
// states, in whatever order; 0 is for nothing.
func (l *listing) fingerprint() uint64 {
	var sum uint64
	for _, s := range l.sandboxes {
		sum += hash(s.GetId()) * uint64(2*s.GetState()+3)
	}
	for _, c := range l.containers {
		sum += hash(c.GetId()) * uint64(2*c.GetState()+5)
	}
	return sum
}

// hash is 64-bit FNV-1a.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// byPod splits full lists by pod UID. Sandboxes and containers without a
// kubelet's labels (made with crictl, for example) are not ours to judge and
// are left out.
func byPod(at time.Time, sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container) map[types.UID]*listing {
	pods := map[types.UID]*listing{}
	of := func(labels map[string]string) *listing {
		uid := types.UID(labels[cri.LabelPodUID])
		if uid == "" {
			return nil
		}
		l := pods[uid]
		if l == nil {
			l = &listing{at: at}
			pods[uid] = l
		}
		return l
	}
	for _, s := range sandboxes {
		if l := of(s.GetLabels()); l != nil {
			l.sandboxes = append(l.sandboxes, s)
		}
	}
	for _, c := range containers {
		if l := of(c.GetLabels()); l != nil {
			l.containers = append(l.containers, c)
		}
	}
	return pods
}
