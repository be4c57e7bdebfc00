// Package downwardapi is the volume type downwardAPI: fields of the pod and
// resources of its containers as files
// (https://kubernetes.io/docs/concepts/workloads/pods/downward-api/), in
// memory. It owns the content and the tmpfs of the volume's directory.
package downwardapi

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
	"kubelet/internal/volume"
	"kubelet/internal/volume/atomicfiles"
	"kubelet/internal/volume/backing"
	"kubelet/internal/volume/publish"
)

// Plugin mounts downwardAPI volumes.
type Plugin struct{ maker *backing.Maker }

// New returns the plugin.
func New(maker *backing.Maker) *Plugin { return &Plugin{maker} }

// Name is upstream's.
func (*Plugin) Name() string { return "kubernetes.io/downward-api" }

// Supports says whether v is a downwardAPI.
func (*Plugin) Supports(v *v1.Volume) bool { return v.DownwardAPI != nil }

// Immediate is true: everything is known.
func (*Plugin) Immediate(*v1.Volume) bool { return true }

// Mount writes the files, if they are not what they should be.
func (p *Plugin) Mount(ctx context.Context, spec volume.Spec) (volume.Mount, error) {
	source := spec.Volume.DownwardAPI
	return publish.Files(ctx, p.maker, spec, backing.Wanted{Medium: backing.Memory},
		func(context.Context) (atomicfiles.Payload, time.Time, error) {
			files := atomicfiles.Payload{}
			err := Collect(spec.Pod, source.Items, source.DefaultMode, p.maker.Allocatable(), files)
			return files, time.Time{}, err
		})
}

// Collect adds the files. Projected volumes use it, too. An error is of the
// pod's spec.
func Collect(pod *v1.Pod, items []v1.DownwardAPIVolumeFile, mode *int32, allocatable v1.ResourceList, files atomicfiles.Payload) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = podspec.FieldValue(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = podspec.ResourceValue(pod, "", item.ResourceFieldRef, allocatable)
		}
		if err != nil {
			return &volume.Error{Permanent: true, Err: err}
		}
		files[item.Path] = atomicfiles.File{Data: []byte(value), Mode: publish.Mode(item.Mode, mode)}
	}
	return nil
}

// Unmount unmounts the tmpfs.
func (*Plugin) Unmount(_ context.Context, target volume.Target) error {
	return backing.Unmount(target)
}
