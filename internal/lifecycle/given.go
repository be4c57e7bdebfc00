package lifecycle

import (
	"encoding/json"
	"fmt"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/cri"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// ResourceAnnotations tell what a container is created with.
func ResourceAnnotations(pod *v1.Pod, c *v1.Container) map[string]string {
	all := map[string]string{cri.AnnotationResources: mustEncode(podspec.ContainerAmounts(pod, c))}
	if pod.Spec.Resources != nil {
		all[cri.AnnotationPodResources] = mustEncode(pod.Spec.Resources)
	}
	return all
}

func mustEncode(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("numbers cannot be encoded: %v", err))
	}
	return string(text)
}

// Has returns what a container was created with or last resized to. Of those
// that another kubelet made nothing is known.
func (h History) Has(c *observed.Container) (a podspec.Amounts, known bool) {
	if life := h.Lives[c.ID]; life.Sized {
		return life.Has, true
	}
	text := c.Annotations[cri.AnnotationResources]
	if text == "" || json.Unmarshal([]byte(text), &a) != nil {
		return podspec.Amounts{}, false
	}
	return a, true
}

// Given returns the pod with the resources that its containers were given,
// whatever its spec asks for by now; nil if that is known of none of them. Of a
// container that was never created, or that another kubelet made, the spec's
// count.
func (h History) Given(spec *v1.Pod, have observed.Pod) *v1.Pod {
	pod := spec.DeepCopy()
	if own, known := h.podGiven(have); known {
		pod.Spec.Resources = own
	}
	any := false
	podspec.EachContainer(pod, func(c *v1.Container, kind podspec.Kind) bool {
		latest := have.Latest(c.Name)
		if kind == podspec.Ephemeral || latest == nil {
			return true
		}
		if has, known := h.Has(latest); known {
			any = true
			give(pod, c, has)
		}
		return true
	})
	if !any {
		return nil
	}
	return pod
}

// podGiven returns the pod's own resources as the newest container tells them.
// It tells nothing of what they were changed to later.
func (h History) podGiven(have observed.Pod) (own *v1.ResourceRequirements, known bool) {
	var newest *observed.Container
	for i := range have.Containers {
		c := &have.Containers[i]
		if h.Lives[c.ID].Sized {
			return nil, false
		}
		if c.Annotations[cri.AnnotationResources] != "" && (newest == nil || c.CreatedAt.After(newest.CreatedAt)) {
			newest = c
		}
	}
	if newest == nil {
		return nil, false
	}
	text := newest.Annotations[cri.AnnotationPodResources]
	if text == "" {
		return nil, true
	}
	own = &v1.ResourceRequirements{}
	if json.Unmarshal([]byte(text), own) != nil {
		return nil, false
	}
	return own, true
}

// give makes the amounts of a container those; all else that it asks for
// stays.
func give(pod *v1.Pod, c *v1.Container, has podspec.Amounts) {
	if podspec.ContainerAmounts(pod, c) == has {
		return
	}
	had, r := has.Requirements(), &c.Resources
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		put(&r.Requests, name, had.Requests)
		if limit := r.Limits[name]; limit.IsZero() && pod.Spec.Resources != nil && pod.Spec.Resources.Limits[name].Equal(had.Limits[name]) {
			continue // the pod's own, which bounds a container without one
		}
		put(&r.Limits, name, had.Limits)
	}
}

func put(list *v1.ResourceList, name v1.ResourceName, from v1.ResourceList) {
	amount, some := from[name]
	switch {
	case !some:
		delete(*list, name)
	case *list == nil:
		*list = v1.ResourceList{name: amount}
	default:
		(*list)[name] = amount
	}
}
