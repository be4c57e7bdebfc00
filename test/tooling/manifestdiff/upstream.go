// Package manifestdiff holds this kubelet's reading of static pod manifests
// against the upstream kubelet's, whose own code runs beside it: the verdict,
// the pod with its defaults, its identity and its UID. It is a module of its
// own so that upstream's packages keep the versions they were released with.
package manifestdiff

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/capabilities"
	_ "k8s.io/kubernetes/pkg/kubelet/config"

	_ "unsafe" // for linkname
)

//go:linkname tryDecodeSinglePod k8s.io/kubernetes/pkg/kubelet/config.tryDecodeSinglePod
func tryDecodeSinglePod(logger klog.Logger, data []byte, defaultFn func(klog.Logger, *core.Pod) error) (bool, *v1.Pod, error)

//go:linkname tryDecodePodList k8s.io/kubernetes/pkg/kubelet/config.tryDecodePodList
func tryDecodePodList(logger klog.Logger, data []byte, defaultFn func(klog.Logger, *core.Pod) error) (bool, v1.PodList, error)

//go:linkname applyDefaults k8s.io/kubernetes/pkg/kubelet/config.applyDefaults
func applyDefaults(logger klog.Logger, pod *core.Pod, source string, isFile bool, nodeName types.NodeName) error

// Upstream reads a manifest as the upstream kubelet's file source does.
func Upstream(data []byte, path, node string) (*v1.Pod, error) {
	capabilities.Initialize(capabilities.Capabilities{AllowPrivileged: true}) // as the kubelet does at its start
	_, pod, err := tryDecodeSinglePod(klog.Logger{}, data, func(l klog.Logger, p *core.Pod) error {
		return applyDefaults(l, p, path, true, types.NodeName(node))
	})
	if err != nil {
		return nil, err
	}
	return pod, nil
}

// UpstreamURL reads a list of pods as the upstream kubelet's URL source does.
func UpstreamURL(data []byte, url, node string) ([]v1.Pod, error) {
	_, list, err := tryDecodePodList(klog.Logger{}, data, func(l klog.Logger, p *core.Pod) error {
		return applyDefaults(l, p, url, false, types.NodeName(node))
	})
	return list.Items, err
}
