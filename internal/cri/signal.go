package cri

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The API calls a signal SIGRTMIN+1, the runtime SIGNAL_SIGRTMINPLUS1.

const signalPrefix = "SIGNAL_"

// Signal returns the runtime's word for a signal of the API.
func Signal(s v1.Signal) (signal runtimeapi.Signal, known bool) {
	name := strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(string(s))
	number, known := runtimeapi.Signal_value[signalPrefix+name]
	return runtimeapi.Signal(number), known && number != int32(runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT)
}

// StopSignal returns the API's word for a container's stop signal; "" if the
// runtime does not tell it.
func StopSignal(s runtimeapi.Signal) v1.Signal {
	name, known := strings.CutPrefix(s.String(), signalPrefix)
	if !known || s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return ""
	}
	return v1.Signal(strings.NewReplacer("MINPLUS", "MIN+", "MAXMINUS", "MAX-").Replace(name))
}
