// Package volume sets up and takes down the volumes of pods. It owns the
// table of mounted volumes and everything under <root>/pods/<uid>; it reads
// objects through its interfaces and the kernel's mount table. One package per
// volume type; the reconciler knows none of them by name.
//
// On disk everything is where the upstream kubelet has it, so that either can
// take over the other's pods:
//
//	<root>/pods/<uid>/volumes/<plugin>/<volume>           content or mount point
//	<root>/pods/<uid>/plugins/kubernetes.io~empty-dir/…   ready marks
//	<root>/pods/<uid>/volume-subpaths/…                   bind mounts of sub-paths
//
// What there is, is read from disk and mount table; nothing is kept that a
// SIGKILL could lose. What the reconciler remembers of a volume (Memo) only
// saves work.
//
// # Adding a volume type
//
// A type is a package beside emptydir that implements Plugin, and one line in
// package builtin. Types whose content comes from the API use package publish;
// those that bring a file system of their own (NFS, CSI, image) mount it at
// Spec.Dir and undo that in Unmount. A type with steps that leave no trace in
// the mount table (CSI stage, attach) journals them through package
// checkpoint before it takes them. A volume that no plugin supports makes its
// pod wait with an error that names the type.
package volume

import (
	"fmt"
	"strings"
)

// Mount is where one volume of a pod is on the node.
type Mount struct {
	// Path to bind into containers. Empty if the volume is not a mount (an
	// image volume is mounted by the runtime).
	Path string
	// ReadOnly if the volume's type allows no writes.
	ReadOnly bool
	// SELinuxRelabel asks the runtime to relabel the path for the container.
	SELinuxRelabel bool
}

// Mounts is a pod's volumes by name.
type Mounts map[string]Mount

// Error names the volume that is not ready and why.
type Error struct {
	Volume string
	// Missing is set when the volume waits for an object that does not
	// exist yet ("configmap default/settings"); its arrival wakes the pod.
	Missing string
	// Permanent is set for errors that only a change of the pod or of the
	// node's files can mend.
	Permanent bool
	// Stale is set when the volume could not be brought up to date but
	// holds whole content of an earlier time, with which the pod can go on.
	// Mount does not fail for such volumes: see Config.Stale.
	Stale bool
	Err   error
}

func (e *Error) Error() string { return fmt.Sprintf("mount volume %q: %v", e.Volume, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errors is what Mount returns when several volumes of a pod are not ready, in
// the order of the pod's spec. errors.As finds the first.
type Errors []*Error

func (es Errors) Error() string {
	texts := make([]string, len(es))
	for i, e := range es {
		texts[i] = e.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the errors of the volumes.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}
