package validate

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

// IsHugePages says whether a resource is huge pages of some size.
func IsHugePages(name v1.ResourceName) bool {
	return strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
}

// isNative says whether Kubernetes itself defines the resource.
func isNative(name v1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), v1.ResourceDefaultNamespacePrefix)
}

// isExtended says whether a device plugin may offer the resource. Its name
// must still be a name with "requests." before it, as quotas write it.
func isExtended(name v1.ResourceName) bool {
	return !isNative(name) && !strings.HasPrefix(string(name), v1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(v1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// containerResource says what is wrong with the name of a resource that a
// container asks for.
func containerResource(name v1.ResourceName) string {
	if messages := validation.IsQualifiedName(string(name)); len(messages) > 0 {
		return strings.Join(messages, "; ")
	}
	switch {
	case !strings.Contains(string(name), "/"):
		if name != v1.ResourceCPU && name != v1.ResourceMemory && name != v1.ResourceEphemeralStorage && !IsHugePages(name) {
			return "must be cpu, memory, ephemeral-storage, hugepages-<size> or a qualified name such as example.com/gpu"
		}
	case !isNative(name) && !isExtended(name):
		return "is not a name for an extended resource"
	}
	return ""
}

// podResource says what is wrong with the name of a resource that a pod as a
// whole asks for.
func podResource(name v1.ResourceName) string {
	if messages := validation.IsQualifiedName(string(name)); len(messages) > 0 {
		return strings.Join(messages, "; ")
	}
	if !resourcehelper.IsSupportedPodLevelResource(name) {
		return "must be cpu, memory or hugepages-<size> at the level of the pod"
	}
	return ""
}

func (c *check) resources(p *field.Path, r *v1.ResourceRequirements, nameRule func(v1.ResourceName) string) {
	cpuOrMemory, hugePages := false, false
	quantity := func(p *field.Path, name v1.ResourceName, q resource.Quantity) {
		if why := nameRule(name); why != "" {
			c.invalid(p, name, why)
		}
		if q.Sign() < 0 {
			c.invalid(p, q.String(), "must not be negative")
		}
		if isExtended(name) && q.MilliValue()%1000 != 0 {
			c.invalid(p, q.String(), "must be a whole number")
		}
		if IsHugePages(name) {
			hugePages = true
			if !pageMultiple(name, q) {
				c.invalid(p, q.String(), "must be a multiple of the page size")
			}
		}
		cpuOrMemory = cpuOrMemory || name == v1.ResourceCPU || name == v1.ResourceMemory
	}
	for _, name := range sortedNames(r.Limits) {
		quantity(p.Child("limits").Key(string(name)), name, r.Limits[name])
	}
	for _, name := range sortedNames(r.Requests) {
		at, request := p.Child("requests").Key(string(name)), r.Requests[name]
		quantity(at, name, request)
		limit, limited := r.Limits[name]
		fixed := !isNative(name) || IsHugePages(name) // cannot be overcommitted
		switch {
		case limited && fixed && request.Cmp(limit) != 0:
			c.invalid(at, request.String(), fmt.Sprintf("must equal the limit of %s", limit.String()))
		case limited && request.Cmp(limit) > 0:
			c.invalid(at, request.String(), fmt.Sprintf("must not exceed the limit of %s", limit.String()))
		case !limited && fixed:
			c.required(p.Child("limits").Key(string(name)), "must be set and equal the request: this resource cannot be overcommitted")
		}
	}
	if hugePages && !cpuOrMemory {
		c.forbidden(p, "huge pages need cpu or memory beside them")
	}
}

func pageMultiple(name v1.ResourceName, q resource.Quantity) bool {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), v1.ResourceHugePagesPrefix))
	if err != nil || size.Sign() <= 0 || size.MilliValue()%1000 != 0 {
		return false
	}
	return q.Value()%size.Value() == 0
}

func sortedNames(list v1.ResourceList) []v1.ResourceName {
	names := make([]v1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// podResources checks what the pod as a whole asks for (KEP-2837).
func (c *check) podResources(p *field.Path) {
	r := c.spec.Resources
	if r == nil || !c.o.PodLevelResources {
		return
	}
	if c.spec.OS != nil && c.spec.OS.Name == v1.Windows {
		c.forbidden(p, "may not be set for a Windows pod")
		return
	}
	if r.Claims != nil {
		c.forbidden(p.Child("claims"), "may not be set at the level of the pod")
	}
	c.resources(p, r, podResource)

	pod := &v1.Pod{Spec: *c.spec}
	requests := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range sortedNames(requests) {
		sum, whole := requests[name], r.Requests[name]
		if _, ok := r.Requests[name]; ok && sum.Cmp(whole) > 0 {
			c.invalid(p.Child("requests").Key(string(name)), whole.String(), fmt.Sprintf("must be at least what the containers request together, %s", sum.String()))
		}
	}
	limits := resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	for _, name := range sortedNames(limits) {
		sum, whole := limits[name], r.Limits[name]
		if _, ok := r.Limits[name]; ok && IsHugePages(name) && sum.Cmp(whole) > 0 {
			c.invalid(p.Child("limits").Key(string(name)), whole.String(), fmt.Sprintf("must be at least the containers' limits together, %s", sum.String()))
		}
	}
	for i := range c.spec.Containers {
		for _, name := range sortedNames(c.spec.Containers[i].Resources.Limits) {
			limit, whole := c.spec.Containers[i].Resources.Limits[name], r.Limits[name]
			if _, ok := r.Limits[name]; ok && limit.Cmp(whole) > 0 {
				at := field.NewPath("spec", "containers").Index(i).Child("resources", "limits").Key(string(name))
				c.invalid(at, limit.String(), fmt.Sprintf("must not exceed the pod's limit of %s", whole.String()))
			}
		}
	}
}
