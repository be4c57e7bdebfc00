// Package server serves the kubelet's HTTP ports: health (healthz.go) and,
// where it is configured, the read-only port (readonly.go). It owns the
// listeners and nothing else; what it shows comes from the functions in its
// configs.
//
// The HTTPS API on port 10250 comes with its own issue, with authentication
// and authorization, and gets one file per endpoint here: exec.go, logs.go,
// stats.go and so on, on the same http.ServeMux and under the same limits
// (port.go).
package server
