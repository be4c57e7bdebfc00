package cri

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Every signal of the runtime has its name in the API, and back.
func TestSignals(t *testing.T) {
	for number, name := range runtimeapi.Signal_name {
		signal := runtimeapi.Signal(number)
		api := StopSignal(signal)
		if signal == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
			if api != "" {
				t.Errorf("%s is %q in the API", name, api)
			}
			continue
		}
		if back, known := Signal(api); !known || back != signal {
			t.Errorf("%s is %q in the API, which is %s, %v", name, api, back, known)
		}
	}
	for _, s := range []v1.Signal{v1.SIGTERM, v1.SIGUSR1, v1.SIGRTMIN, v1.SIGRTMINPLUS1, v1.SIGRTMAXMINUS14} {
		if signal, known := Signal(s); !known || StopSignal(signal) != s {
			t.Errorf("%s: %s, %v", s, signal, known)
		}
	}
	for _, s := range []v1.Signal{"", "SIGNOTHING", "RUNTIME_DEFAULT", "term"} {
		if signal, known := Signal(s); known {
			t.Errorf("%q is taken for %s", s, signal)
		}
	}
	if s := StopSignal(9999); s != "" {
		t.Errorf("an unknown number is %q", s)
	}
}
