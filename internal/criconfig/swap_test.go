package criconfig

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"kubelet/internal/podspec"
)

// Who may swap how much, of a node with 4 GiB of memory and 8 GiB of swap
// (KEP-2400). Only the swap of version 2 is limited by itself; on version 1
// memory and swap are limited together.
func TestSwap(t *testing.T) {
	list := func(memory string) v1.ResourceList {
		if memory == "" {
			return nil
		}
		return v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}
	}
	critical := int32(2_000_000_000)
	for _, c := range []struct {
		name            string
		request, limit  string
		swap            Swap
		v1, static      bool
		priority        *int32
		want            string // memory.swap.max
		memoryAndSwapV1 int64
	}{
		{name: "burstable", request: "1Gi", limit: "2Gi", swap: Swap{Controller: true, Limited: true, Capacity: 8 << 30}, want: "2147483648"},
		{name: "no limit", request: "512Mi", swap: Swap{Controller: true, Limited: true, Capacity: 8 << 30}, want: "1073741824"},
		{name: "request is limit", request: "1Gi", limit: "1Gi", swap: Swap{Controller: true, Limited: true, Capacity: 8 << 30}, want: "0"},
		{name: "best effort", swap: Swap{Controller: true, Limited: true, Capacity: 8 << 30}, want: "0"},
		{name: "more than the node has", request: "8Gi", swap: Swap{Controller: true, Limited: true, Capacity: 8 << 30}, want: "0"},
		{name: "critical", request: "1Gi", priority: &critical, swap: Swap{Controller: true, Limited: true, Capacity: 8 << 30}, want: "0"},
		{name: "static", request: "1Gi", static: true, swap: Swap{Controller: true, Limited: true, Capacity: 8 << 30}, want: "0"},
		{name: "NoSwap", request: "1Gi", swap: Swap{Controller: true, Capacity: 8 << 30}, want: "0"},
		{name: "no swap on the node", request: "1Gi", swap: Swap{Controller: true, Limited: true}, want: "0"},
		{name: "no controller", request: "1Gi", swap: Swap{Limited: true, Capacity: 8 << 30}},
		{name: "version 1", request: "1Gi", limit: "2Gi", v1: true, swap: Swap{Controller: true}, memoryAndSwapV1: 2 << 30},
		{name: "version 1 without a limit", request: "1Gi", v1: true, swap: Swap{Controller: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			config, err := container(t, func(cl *cluster, container *v1.Container) {
				container.Resources = v1.ResourceRequirements{Requests: list(c.request), Limits: list(c.limit)}
				cl.pod.Spec.Priority = c.priority
				if c.static {
					cl.pod.Annotations = map[string]string{podspec.SourceAnnotation: podspec.SourceFile}
				}
				cl.swap, cl.v1 = &c.swap, c.v1
			})
			must(t, err)
			r := config.Linux.Resources
			if got := r.Unified["memory.swap.max"]; got != c.want || r.MemorySwapLimitInBytes != c.memoryAndSwapV1 {
				t.Errorf("memory.swap.max %q, memory and swap %d; want %q, %d", got, r.MemorySwapLimitInBytes, c.want, c.memoryAndSwapV1)
			}
		})
	}
}
