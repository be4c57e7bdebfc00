// Package server serves the kubelet's HTTP ports: the HTTPS API (server.go),
// the read-only port (readonly.go) and the health port (healthz.go). It owns
// the listeners, the open sessions and the metrics of requests; it reads the
// desired and observed tables, and what else it shows comes from the functions
// and handlers in its configs. It writes no table.
//
// Each endpoint is a route (route.go): a pattern, the methods that it answers
// and the subresources of the Node object that open it, in one place. A
// request is authenticated before its path is looked at, authorized by the
// route that serves it, and only then judged by its method. Each group of
// endpoints has a file of its own: exec.go, containerlogs.go, systemlogs.go and
// so on.
//
// exec, attach and port-forward are joined with the runtime's own streams
// (stream.go): byte for byte where the runtime speaks what the client speaks,
// message by message where it does not (socket.go). What strangers can hold of
// the port is bounded (limits.go, port.go, package authn).
package server
