package criconfig

import (
	"fmt"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const containerHosts = "/etc/hosts"

// mounts lists the container's volumes in spec order, then the files that the
// kubelet keeps for it: the hosts file and the termination message.
func (b *Builder) mounts(in ContainerInput, canRecurse bool) ([]*runtimeapi.Mount, error) {
	pod, c := in.Pod, in.Container
	mounts := make([]*runtimeapi.Mount, 0, len(c.VolumeMounts)+2)
	ownHosts := len(in.PodIPs) > 0 || pod.Spec.HostNetwork
	for i := range c.VolumeMounts {
		m, err := b.mount(in, &c.VolumeMounts[i], canRecurse)
		if err != nil {
			return nil, err
		}
		if m.ContainerPath == containerHosts {
			ownHosts = false
		}
		mounts = append(mounts, m)
	}
	files, err := openPodFiles(b.podDir(pod))
	if err != nil {
		return nil, err
	}
	defer files.Close()
	if ownHosts {
		content, err := b.hosts(pod, in.PodIPs)
		if err != nil {
			return nil, err
		}
		if err := files.Write("etc-hosts", content, 0o644); err != nil {
			return nil, fmt.Errorf("write hosts file: %w", err)
		}
		mounts = append(mounts, &runtimeapi.Mount{
			ContainerPath:  containerHosts,
			HostPath:       files.Path("etc-hosts"),
			SelinuxRelabel: b.SELinux,
		})
	}
	if c.TerminationMessagePath != "" {
		name, err := files.terminationLog(c.Name, in.Attempt)
		if err != nil {
			return nil, fmt.Errorf("write termination message file: %w", err)
		}
		mounts = append(mounts, &runtimeapi.Mount{
			ContainerPath:  rooted(c.TerminationMessagePath),
			HostPath:       files.Path(name),
			SelinuxRelabel: b.SELinux,
		})
	}
	return mounts, nil
}

func (b *Builder) mount(in ContainerInput, m *v1.VolumeMount, canRecurse bool) (*runtimeapi.Mount, error) {
	volume, ok := in.Mounts[m.Name]
	if !ok {
		return nil, containerErrorf("volume mount %q: the pod has no volume of that name that is set up", m.Name)
	}
	from := in.sources[m]
	if from.path == "" && from.image == nil {
		return nil, containerErrorf("volume mount %q: the volume is nowhere on the node", m.Name)
	}
	propagation, err := mountPropagation(m)
	if err != nil {
		return nil, err
	}
	recursive, err := recursiveReadOnly(m, canRecurse)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.Mount{
		ContainerPath:     rooted(m.MountPath),
		HostPath:          from.path,
		Image:             from.image,
		ImageSubPath:      from.imageSubPath,
		Readonly:          m.ReadOnly || volume.ReadOnly,
		RecursiveReadOnly: recursive,
		SelinuxRelabel:    volume.SELinuxRelabel && b.SELinux,
		Propagation:       propagation,
	}, nil
}

// rooted makes a path in the container absolute, as images' working
// directories and users' mount paths need not be.
func rooted(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return "/" + path
}

func mountPropagation(m *v1.VolumeMount) (runtimeapi.MountPropagation, error) {
	if m.MountPropagation == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE, nil
	}
	switch *m.MountPropagation {
	case v1.MountPropagationNone:
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE, nil
	case v1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, nil
	case v1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL, nil
	}
	return 0, containerErrorf("volume mount %q: mountPropagation %q is none of None, HostToContainer, Bidirectional",
		m.Name, *m.MountPropagation)
}

func wantsRecursiveReadOnly(c *v1.Container) bool {
	for i := range c.VolumeMounts {
		if r := c.VolumeMounts[i].RecursiveReadOnly; r != nil && *r != v1.RecursiveReadOnlyDisabled {
			return true
		}
	}
	return false
}

// recursiveReadOnly resolves the mode of KEP-3857; supported says what the
// runtime can do.
func recursiveReadOnly(m *v1.VolumeMount, supported bool) (bool, error) {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	if !m.ReadOnly {
		return false, containerErrorf("volume mount %q: recursiveReadOnly needs readOnly: true", m.Name)
	}
	if p := m.MountPropagation; p != nil && *p != v1.MountPropagationNone {
		return false, containerErrorf("volume mount %q: recursiveReadOnly needs mountPropagation None, not %s", m.Name, *p)
	}
	switch *m.RecursiveReadOnly {
	case v1.RecursiveReadOnlyIfPossible:
		return supported, nil
	case v1.RecursiveReadOnlyEnabled:
		if !supported {
			return false, containerErrorf("volume mount %q: the runtime cannot mount recursively read-only; use IfPossible", m.Name)
		}
		return true, nil
	}
	return false, containerErrorf("volume mount %q: recursiveReadOnly %q is none of Disabled, IfPossible, Enabled",
		m.Name, *m.RecursiveReadOnly)
}
