// Package emptydir is the volume type emptyDir: a directory that lives as long
// as its pod, on disk, in memory or on huge pages
// (https://kubernetes.io/docs/concepts/storage/volumes/#emptydir). It owns the
// volume's directory and mount; the content is the containers'.
package emptydir

import (
	"context"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/volume"
	"kubelet/internal/volume/backing"
	"kubelet/internal/volume/ownership"
	"kubelet/internal/volume/publish"
)

// Plugin mounts emptyDir volumes.
type Plugin struct{ maker *backing.Maker }

// New returns the plugin.
func New(maker *backing.Maker) *Plugin { return &Plugin{maker} }

// Name is upstream's.
func (*Plugin) Name() string { return "kubernetes.io/empty-dir" }

// Supports says whether v is an emptyDir.
func (*Plugin) Supports(v *v1.Volume) bool { return v.EmptyDir != nil }

// Immediate is true: everything is on this node.
func (*Plugin) Immediate(*v1.Volume) bool { return true }

// Mount makes the directory, on its medium and owned by the pod's group. What
// is in it already stays.
func (p *Plugin) Mount(ctx context.Context, spec volume.Spec) (volume.Mount, error) {
	mount := volume.Mount{Path: spec.Dir, SELinuxRelabel: true}
	if spec.Memo.Ready {
		var st unix.Stat_t
		if unix.Lstat(spec.Dir, &st) == nil && st.Dev == spec.Memo.Dev && st.Ino == spec.Memo.Ino {
			return mount, nil
		}
	}
	wanted, err := wantedOf(spec)
	if err != nil {
		return volume.Mount{}, &volume.Error{Permanent: true, Err: err}
	}
	mark := backing.Mark(spec, false)
	here, err := backing.Look(spec.Dir)
	// A mark alone is not enough: after a reboot the mark is there and the
	// tmpfs is not.
	if err != nil || here.Mount != wanted.Medium || !backing.Marked(mark) {
		if here, err = p.setUp(ctx, spec, wanted, mark); err != nil {
			return volume.Mount{}, err
		}
	}
	spec.Memo.Ready, spec.Memo.Dev, spec.Memo.Ino = true, here.Dev, here.Ino
	return mount, nil
}

func (p *Plugin) setUp(ctx context.Context, spec volume.Spec, wanted backing.Wanted, mark string) (backing.Found, error) {
	if err := p.maker.Ensure(ctx, spec, wanted); err != nil {
		return backing.Found{}, err
	}
	if group := publish.FSGroup(spec.Pod); group != nil {
		if err := spec.Step("change group of", spec.Dir); err != nil {
			return backing.Found{}, err
		}
		if err := ownership.Apply(ctx, spec.Dir, ownership.Options{Group: group}); err != nil {
			return backing.Found{}, err
		}
	}
	if err := backing.SetMark(spec, mark); err != nil {
		return backing.Found{}, err
	}
	return backing.Look(spec.Dir)
}

// Unmount unmounts the tmpfs or hugetlbfs, if there is one.
func (*Plugin) Unmount(_ context.Context, target volume.Target) error {
	return backing.Unmount(target)
}
