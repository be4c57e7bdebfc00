package critest

import (
	"strconv"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
)

// SandboxConfig returns a minimal sandbox config with a kubelet's labels, for
// tests that need no real pod.
func SandboxConfig(namespace, name, uid string, attempt uint32) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: uid, Attempt: attempt},
		Hostname: name,
		Labels: map[string]string{
			cri.LabelPodName: name, cri.LabelPodNamespace: namespace, cri.LabelPodUID: uid,
		},
		Linux: &runtimeapi.LinuxPodSandboxConfig{},
	}
}

// ContainerConfig returns a minimal container config with a kubelet's labels
// and annotations.
func ContainerConfig(sandbox *runtimeapi.PodSandboxConfig, name, image string, attempt uint32) *runtimeapi.ContainerConfig {
	m := sandbox.GetMetadata()
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name, Attempt: attempt},
		Image:    &runtimeapi.ImageSpec{Image: image, UserSpecifiedImage: image},
		Labels: map[string]string{
			cri.LabelPodName: m.GetName(), cri.LabelPodNamespace: m.GetNamespace(), cri.LabelPodUID: m.GetUid(), cri.LabelContainerName: name,
		},
		Annotations: map[string]string{
			cri.AnnotationHash:         "1",
			cri.AnnotationRestartCount: strconv.Itoa(int(attempt)),
		},
		LogPath: name + "/" + strconv.Itoa(int(attempt)) + ".log",
		Linux:   &runtimeapi.LinuxContainerConfig{},
	}
}
