// Package volume sets up and takes down the volumes of pods. It owns the
// table of mounted volumes and everything under <root>/pods/<uid>/volumes; it
// reads objects through its interfaces and the kernel's mount table. One
// file or package per volume type; the reconciler knows none of them by name.
package volume

import "fmt"

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
	Err       error
}

func (e *Error) Error() string { return fmt.Sprintf("mount volume %q: %v", e.Volume, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
