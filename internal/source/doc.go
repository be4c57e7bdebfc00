// Package source is where wanted pods come from: a file or directory of
// manifests (File), a URL (HTTP) and the API server (API). Each source reads
// its origin, turns what it finds into complete pods and writes them into a
// Sink under its own name; it never reads the sink back.
//
// Static pods, those of a file or URL, get here what the API server does for
// others: defaults (defaults.go), validation (package validate), and an
// identity that equals the upstream kubelet's down to the UID (static.go,
// uid.go), so that a node can be switched over with its pods running. One
// that runs already under another UID, but unchanged, keeps it (adopt.go).
//
// Whatever is wrong with a manifest concerns only its own pod, is reported
// with file, line and field, and leaves the pod of the last good version
// running.
//
// Pods kept on disk for the time without an API server will be a source of
// their own, in saved.go.
package source

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Sink takes what the sources find; *desired.Table is one. The pods become
// the sink's: a source does not change a pod that it has handed over.
type Sink interface {
	// Replace takes the full set of the source's pods.
	Replace(source string, pods []*v1.Pod)
	// Upsert and Delete take single changes after the first Replace.
	Upsert(source string, pod *v1.Pod)
	Delete(source string, uid types.UID)
}

// Problem tells what is wrong with a file or URL, or, with a nil error, that
// it is well again. It is called when that changes, not each time it is met,
// and must not block.
type Problem func(origin string, err error)
