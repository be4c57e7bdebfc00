package criconfig

import (
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
)

// stopSignal is the signal that asks the container to end, if its spec names
// one (KEP-4960); else the image's applies, or SIGTERM. Runtimes that do not
// know the field ignore it.
func stopSignal(c *v1.Container) (signal runtimeapi.Signal, err error) {
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT, nil
	}
	signal, known := cri.Signal(*c.Lifecycle.StopSignal)
	if !known {
		return signal, containerErrorf("lifecycle.stopSignal %q is no signal that the container runtime knows; name one like SIGTERM", *c.Lifecycle.StopSignal)
	}
	return signal, nil
}
