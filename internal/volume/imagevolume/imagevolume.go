// Package imagevolume is the volume type image (KEP-4639): the content of an
// OCI image or artifact. The image is made present with the images of the
// containers that mount it, and the runtime mounts it; so here nothing is
// owned, read or written.
package imagevolume

import (
	"context"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/volume"
)

// Plugin mounts image volumes.
type Plugin struct{}

// New returns the plugin.
func New() Plugin { return Plugin{} }

// Name is upstream's.
func (Plugin) Name() string { return "kubernetes.io/image" }

// Supports says whether v is an image.
func (Plugin) Supports(v *v1.Volume) bool { return v.Image != nil }

// Immediate is true: containers wait for the image, not the sandbox.
func (Plugin) Immediate(*v1.Volume) bool { return true }

// Mount gives no path: the runtime knows where the image is.
func (Plugin) Mount(_ context.Context, spec volume.Spec) (volume.Mount, error) {
	spec.Memo.Ready = true
	return volume.Mount{ReadOnly: true}, nil
}

// Unmount has nothing to undo.
func (Plugin) Unmount(context.Context, volume.Target) error { return nil }
