package podspec

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// FieldValue returns the value of a downward API field that the spec and
// metadata of a pod alone decide
// (https://kubernetes.io/docs/concepts/workloads/pods/downward-api/):
// metadata.name, .namespace, .uid, .labels, .annotations, one label or
// annotation by metadata.labels['key'], spec.nodeName and
// spec.serviceAccountName. A label or annotation that is not set is "".
// Whole maps are one key="value" line per entry, sorted by key, the value
// quoted as a Go string.
func FieldValue(pod *v1.Pod, fieldPath string) (string, error) {
	if base, key, ok := subscript(fieldPath); ok {
		var values map[string]string
		name := key
		switch base {
		case "metadata.labels":
			values = pod.Labels
		case "metadata.annotations":
			// The API allows capitals in the prefix of annotation keys.
			values, name = pod.Annotations, strings.ToLower(key)
		default:
			return "", fmt.Errorf("read field %q: only metadata.labels and metadata.annotations take a ['key']", fieldPath)
		}
		if problems := validation.IsQualifiedName(name); len(problems) > 0 {
			return "", fmt.Errorf("read field %q: invalid key: %s", fieldPath, strings.Join(problems, "; "))
		}
		return values[key], nil
	}
	switch fieldPath {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	}
	return "", fmt.Errorf("read field %q: unsupported fieldPath", fieldPath)
}

// subscript splits base['key'].
func subscript(path string) (base, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return "", "", false
	}
	base, key, ok = strings.Cut(rest, "['")
	return base, key, ok && base != ""
}

func formatMap(m map[string]string) string {
	var out []byte
	for i, key := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			out = append(out, '\n')
		}
		out = append(out, key...)
		out = append(out, '=')
		out = strconv.AppendQuote(out, m[key])
	}
	return string(out)
}

// ResourceValue returns a container's request or limit as the downward API
// writes it: divided by the divisor (none means 1) and rounded up to a whole
// number. The container is the one that ref names, else containerName.
//
// A limit of cpu, memory or ephemeral-storage that the container does not set
// is the pod-level limit if there is one, else the node's allocatable amount.
// Requests have no such default.
func ResourceValue(pod *v1.Pod, containerName string, ref *v1.ResourceFieldSelector, allocatable v1.ResourceList) (string, error) {
	if ref.ContainerName != "" {
		containerName = ref.ContainerName
	}
	c, _ := FindContainer(pod, containerName)
	if c == nil {
		return "", fmt.Errorf("read %s: container %q not found", ref.Resource, containerName)
	}

	which, name, _ := strings.Cut(ref.Resource, ".")
	resourceName := v1.ResourceName(name)
	var value resource.Quantity
	switch {
	case !isDownwardResource(resourceName):
		return "", fmt.Errorf("read %s: unsupported container resource", ref.Resource)
	case which == "requests":
		value = c.Resources.Requests[resourceName]
	case which == "limits":
		value = effectiveLimit(pod, c, resourceName, allocatable)
	default:
		return "", fmt.Errorf("read %s: unsupported container resource", ref.Resource)
	}

	amount, divisor := value.Value(), int64(1)
	if resourceName == v1.ResourceCPU {
		amount, divisor = value.MilliValue(), 1000
	}
	if !ref.Divisor.IsZero() {
		if divisor = ref.Divisor.Value(); resourceName == v1.ResourceCPU {
			divisor = ref.Divisor.MilliValue()
		}
	}
	if divisor <= 0 {
		return "", fmt.Errorf("read %s: divisor %s is not positive", ref.Resource, ref.Divisor.String())
	}
	quotient := amount / divisor
	if amount%divisor > 0 {
		quotient++
	}
	return strconv.FormatInt(quotient, 10), nil
}

func isDownwardResource(name v1.ResourceName) bool {
	switch name {
	case v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage:
		return true
	}
	return isHugePages(name)
}

func isHugePages(name v1.ResourceName) bool {
	return strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
}

func effectiveLimit(pod *v1.Pod, c *v1.Container, name v1.ResourceName, allocatable v1.ResourceList) resource.Quantity {
	limit := c.Resources.Limits[name]
	// Huge pages are never overcommitted: no limit means none.
	if !limit.IsZero() || isHugePages(name) {
		return limit
	}
	// Pod-level resources exist for cpu and memory (KEP-2837).
	if r := pod.Spec.Resources; r != nil && name != v1.ResourceEphemeralStorage {
		if podLimit := r.Limits[name]; !podLimit.IsZero() {
			return podLimit
		}
	}
	return allocatable[name]
}
