package emptydir

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"kubelet/internal/podspec"
	"kubelet/internal/volume"
	"kubelet/internal/volume/backing"
)

// wantedOf reads the medium of an emptyDir.
func wantedOf(spec volume.Spec) (backing.Wanted, error) {
	source := spec.Volume.EmptyDir
	switch medium := source.Medium; {
	case medium == v1.StorageMediumDefault:
		return backing.Wanted{Medium: backing.Disk}, nil
	case medium == v1.StorageMediumMemory:
		return backing.Wanted{Medium: backing.Memory, SizeLimit: source.SizeLimit}, nil
	case medium == v1.StorageMediumHugePages || strings.HasPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix)):
		size, err := pageSize(spec.Pod, medium)
		return backing.Wanted{Medium: backing.HugePages, PageSize: size}, err
	default:
		return backing.Wanted{}, fmt.Errorf("unknown storage medium %q", medium)
	}
}

// pageSize returns in bytes which huge pages a medium means: those it names,
// if a container of the pod requests some, or with plain HugePages those that
// the containers request, if all request the same.
// https://kubernetes.io/docs/tasks/manage-hugepages/scheduling-hugepages/
func pageSize(pod *v1.Pod, medium v1.StorageMedium) (int64, error) {
	requested := map[int64]bool{}
	var bad error
	collect := func(list v1.ResourceList) {
		for name := range list {
			if text, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix); ok {
				size, err := resource.ParseQuantity(text)
				if err != nil {
					bad = fmt.Errorf("resource %q: %w", name, err)
					continue
				}
				requested[size.Value()] = true
			}
		}
	}
	if pod.Spec.Resources != nil {
		collect(pod.Spec.Resources.Requests)
	}
	podspec.EachContainer(pod, func(c *v1.Container, kind podspec.Kind) bool {
		collect(c.Resources.Requests)
		return true
	})
	if bad != nil {
		return 0, bad
	}
	if text, ok := strings.CutPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix)); ok {
		size, err := resource.ParseQuantity(text)
		if err != nil {
			return 0, fmt.Errorf("medium %q: %w", medium, err)
		}
		if !requested[size.Value()] {
			return 0, fmt.Errorf("medium %q: no container requests huge pages of this size", medium)
		}
		return size.Value(), nil
	}
	switch len(requested) {
	case 0:
		return 0, fmt.Errorf("medium %q: no container requests huge pages", medium)
	case 1:
		for size := range requested {
			return size, nil
		}
	}
	return 0, fmt.Errorf("medium %q: containers request huge pages of several sizes, so the medium has to name one", medium)
}
