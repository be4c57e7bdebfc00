// Package apiclient is the way to the Kubernetes API server. It owns the
// connections, the rate limits, and the caches of the objects that this
// node's pods refer to (objects.go, tokens.go, services.go, runtimeclass.go);
// it writes nothing on its own account.
//
// It speaks through rest.RESTClient with a scheme of only the groups that a
// kubelet needs. The generated clientset and its informers would link every
// API group into the binary, so neither this package nor what imports it may
// depend on them; a test holds that.
//
// Each request has a deadline. Requests that must not queue behind others
// have a limiter of their own: heartbeats (node status and lease) have none
// at all, watches are opened off the path that a pod waits for, and events
// have their own budget, as configured.
package apiclient
