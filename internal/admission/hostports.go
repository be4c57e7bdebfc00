package admission

import "fmt"

// HostPorts rejects a pod that wants a port of the host that an accepted pod
// has; if that one is being stopped, the pod waits.
func HostPorts() Check {
	return Check{Name: "HostPorts", NeedsNode: true, Judge: func(in Input) Verdict {
		var wait Verdict
		for _, want := range hostPorts(in.Pod) {
			for i := range in.Held {
				h := &in.Held[i]
				for _, has := range h.ports {
					if !want.conflicts(has) {
						continue
					}
					if h.Standing == Staying {
						return reject("NodePorts", fmt.Sprintf("host port %d/%s is taken by pod %s", want.number, want.protocol, h.Pod))
					}
					if wait.Decision != Wait {
						wait = Verdict{Decision: Wait, Reason: "NodePorts", Message: fmt.Sprintf(
							"waits for host port %d/%s that %s still holds", want.number, want.protocol, h.whom())}
					}
				}
			}
		}
		return wait
	}}
}
