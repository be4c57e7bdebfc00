// Package cri is the client of the container runtime interface: one typed
// call per verb, each with its own deadline, its metrics and errors that say
// whether the outcome is known. It owns the two gRPC connections (runtime and
// image service) and the list of calls in flight; it reads and writes no
// table and keeps nothing of what the runtime answers.
package cri
