package node

import (
	"fmt"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// capacityOf returns the resources of a machine as the node reports them.
func capacityOf(m machine, cfg Config) v1.ResourceList {
	pods := int64(cfg.MaxPods)
	if cfg.PodsPerCore > 0 {
		pods = min(pods, int64(cfg.PodsPerCore)*int64(m.cpus))
	}
	capacity := v1.ResourceList{
		v1.ResourceCPU:    *resource.NewMilliQuantity(int64(m.cpus)*1000, resource.DecimalSI),
		v1.ResourceMemory: *resource.NewQuantity(m.memory, resource.BinarySI),
		v1.ResourcePods:   *resource.NewQuantity(pods, resource.DecimalSI),
	}
	if cfg.LocalStorageCapacityIsolation {
		capacity[v1.ResourceEphemeralStorage] = *resource.NewQuantity(m.storage, resource.DecimalSI)
	}
	for _, pages := range m.hugePages {
		size := resource.NewQuantity(pages.size, resource.BinarySI)
		capacity[v1.ResourceName(v1.ResourceHugePagesPrefix+size.String())] =
			*resource.NewQuantity(pages.size*pages.pages, resource.BinarySI)
	}
	return capacity
}

// reservation is what pods cannot have of a capacity: the reserves of the
// system and the kubelet, and what hard eviction keeps free.
// https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/
func reservation(capacity, kubeReserved, systemReserved v1.ResourceList, evictionHard map[string]string) (v1.ResourceList, error) {
	evicted := v1.ResourceList{}
	for signal, name := range map[string]v1.ResourceName{
		"memory.available": v1.ResourceMemory,
		"nodefs.available": v1.ResourceEphemeralStorage,
	} {
		value, ok := evictionHard[signal]
		if !ok {
			continue
		}
		amount, err := threshold(value, capacity[name])
		if err != nil {
			return nil, fmt.Errorf("parse evictionHard[%s]: %w", signal, err)
		}
		evicted[name] = amount
	}
	out := v1.ResourceList{}
	for name := range capacity {
		sum := resource.Quantity{}
		for _, reserve := range []v1.ResourceList{systemReserved, kubeReserved, evicted} {
			if amount, ok := reserve[name]; ok {
				sum.Add(amount)
			}
		}
		if !sum.IsZero() {
			out[name] = sum
		}
	}
	return out, nil
}

// threshold parses a quantity, or a percentage of a capacity.
func threshold(value string, capacity resource.Quantity) (resource.Quantity, error) {
	percent, ok := strings.CutSuffix(value, "%")
	if !ok {
		return resource.ParseQuantity(value)
	}
	share, err := strconv.ParseFloat(percent, 32)
	if err != nil {
		return resource.Quantity{}, err
	}
	if !(share >= 0 && share <= 100) {
		return resource.Quantity{}, fmt.Errorf("%q is not between 0%% and 100%%", value)
	}
	// In single precision, as upstream: allocatable must not differ by a byte
	// between the two.
	return *resource.NewQuantity(int64(float64(capacity.Value())*float64(float32(share)/100)), resource.BinarySI), nil
}

// allocatableOf subtracts the reservation from a capacity. Huge pages come
// out of memory, whether pods use them or not.
func allocatableOf(capacity, reserved v1.ResourceList) v1.ResourceList {
	out := make(v1.ResourceList, len(capacity))
	for name, amount := range capacity {
		left := amount.DeepCopy()
		if reserve, ok := reserved[name]; ok {
			left.Sub(reserve)
		}
		out[name] = notNegative(left)
	}
	memory, ok := out[v1.ResourceMemory]
	if !ok {
		return out
	}
	for name, amount := range capacity {
		if isHugePages(name) {
			memory.Sub(amount)
		}
	}
	out[v1.ResourceMemory] = notNegative(memory)
	return out
}

func notNegative(q resource.Quantity) resource.Quantity {
	if q.Sign() < 0 {
		q.Set(0)
	}
	return q
}

func isHugePages(name v1.ResourceName) bool {
	return strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
}

// isExtended says whether a resource is one that device plugins or
// administrators announce: a name with a domain other than kubernetes.io.
// https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources
func isExtended(name v1.ResourceName) bool {
	domain, _, qualified := strings.Cut(string(name), "/")
	return qualified && !strings.HasSuffix(domain, "kubernetes.io") &&
		!strings.HasPrefix(string(name), v1.DefaultResourceRequestsPrefix)
}

// ParseReserved parses kubeReserved or systemReserved of the configuration.
// Process IDs are no resource of the node and are left out.
func ParseReserved(amounts map[string]string) (v1.ResourceList, error) {
	out := v1.ResourceList{}
	for name, value := range amounts {
		if name == "pid" {
			continue
		}
		amount, err := resource.ParseQuantity(value)
		if err != nil {
			return nil, fmt.Errorf("parse reserved %s %q: %w", name, value, err)
		}
		if amount.Sign() < 0 {
			return nil, fmt.Errorf("parse reserved %s %q: negative", name, value)
		}
		out[v1.ResourceName(name)] = amount
	}
	return out, nil
}
