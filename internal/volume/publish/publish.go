// Package publish is what the volume types made of API content have in common:
// gather the files, make the directory, write the files atomically, give them
// to the pod's group. It owns nothing; atomicfiles and backing own what it
// writes.
package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
	"kubelet/internal/volume"
	"kubelet/internal/volume/atomicfiles"
	"kubelet/internal/volume/backing"
	"kubelet/internal/volume/ownership"
)

// maxUpdateWait bounds how long a volume that holds content already waits for
// newer: a pod that runs is not kept from restarting a container because the
// API server is away.
const maxUpdateWait = 3 * time.Second

// updateWait leaves time, within the caller's, to say that the content is old.
func updateWait(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(maxUpdateWait, time.Until(deadline)/2)
	}
	return maxUpdateWait
}

// Gather collects the files of a volume. refresh is when to call it again
// even if no object changed; zero for never.
type Gather func(ctx context.Context) (files atomicfiles.Payload, refresh time.Time, err error)

// Files brings the volume's directory to hold what gather returns. If that
// fails while older content is in place, the error's Stale is set and the
// mount can be used.
func Files(ctx context.Context, maker *backing.Maker, spec volume.Spec, wanted backing.Wanted, gather Gather) (volume.Mount, error) {
	mount := volume.Mount{Path: spec.Dir, ReadOnly: true, SELinuxRelabel: true}
	older := holdsContent(spec, wanted)
	gatherCtx := ctx
	if older {
		var cancel context.CancelFunc
		gatherCtx, cancel = context.WithTimeout(ctx, updateWait(ctx))
		defer cancel()
	}
	payload, refresh, err := gather(gatherCtx)
	if err == nil {
		err = publish(ctx, maker, spec, wanted, payload, older)
	}
	if err == nil {
		spec.Memo.Refresh = refresh
		return mount, nil
	}
	if !older || ctx.Err() != nil || !holdsContent(spec, wanted) {
		return volume.Mount{}, err
	}
	stale := &volume.Error{Stale: true, Err: err}
	if inner, ok := errors.AsType[*volume.Error](err); ok {
		stale.Err, stale.Missing = inner.Err, inner.Missing
	}
	return mount, stale
}

// holdsContent says whether a whole version is in force, in this life of the
// agent or from an earlier one.
func holdsContent(spec volume.Spec, wanted backing.Wanted) bool {
	if spec.Memo.Ready {
		return atomicfiles.InForce(spec.Dir, spec.Memo.Version)
	}
	here, err := backing.Look(spec.Dir)
	if err != nil || here.Mount != wanted.Medium {
		return false
	}
	version, err := atomicfiles.Current(spec.Dir)
	return err == nil && version != ""
}

func publish(ctx context.Context, maker *backing.Maker, spec volume.Spec, wanted backing.Wanted, payload atomicfiles.Payload, holds bool) error {
	memo := spec.Memo
	sum := payload.Sum()
	if holds && memo.Ready && memo.Sum == sum {
		return nil
	}
	if err := maker.Ensure(ctx, spec, wanted); err != nil {
		return err
	}
	if err := makeMountPoints(spec); err != nil {
		return err
	}
	group := FSGroup(spec.Pod)
	prepare := func() error {
		if group == nil {
			return nil
		}
		if err := spec.Step("change group of", spec.Dir); err != nil {
			return err
		}
		return ownership.Apply(ctx, spec.Dir, ownership.Options{Group: group, ReadOnly: true})
	}
	version, err := atomicfiles.Write(ctx, spec.Dir, payload, prepare, spec.Step)
	if err != nil {
		return err
	}
	if err := backing.SetMark(spec, backing.Mark(spec, true)); err != nil {
		return err
	}
	memo.Ready, memo.Version, memo.Sum = true, version, sum
	return nil
}

// FSGroup returns the pod's fsGroup, or nil.
func FSGroup(pod *v1.Pod) *int64 {
	if sc := pod.Spec.SecurityContext; sc != nil {
		return sc.FSGroup
	}
	return nil
}

// makeMountPoints makes directories where containers mount other volumes
// inside this one. The volume is read-only for containers, so the runtime
// cannot make them.
func makeMountPoints(spec volume.Spec) error {
	points, err := mountPoints(spec.Pod, spec.Volume.Name)
	if err != nil || len(points) == 0 {
		return err
	}
	root, err := os.OpenRoot(spec.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, p := range points {
		if info, err := root.Stat(p); err == nil && info.IsDir() {
			continue
		}
		if err := spec.Step("make mount point", filepath.Join(spec.Dir, p)); err != nil {
			return err
		}
		if err := root.MkdirAll(p, 0o755); err != nil {
			return fmt.Errorf("make mount point for a volume inside this one: %w", err)
		}
	}
	return nil
}

// mountPoints returns the outermost places inside the volume, relative to it,
// at which containers mount other volumes.
func mountPoints(pod *v1.Pod, name string) ([]string, error) {
	var points []string
	var refused error
	podspec.EachContainer(pod, func(c *v1.Container, _ podspec.Kind) bool {
		for _, own := range c.VolumeMounts {
			if own.Name != name {
				continue
			}
			above := path.Clean(own.MountPath) + "/"
			for _, other := range c.VolumeMounts {
				below, ok := strings.CutPrefix(path.Clean(other.MountPath), above)
				if !ok {
					continue
				}
				// Names with ".." in front are the volume's own links.
				if strings.HasPrefix(below, "..") {
					refused = &volume.Error{Permanent: true, Err: fmt.Errorf("volume %q cannot be mounted at %s, inside this one", other.Name, other.MountPath)}
					return false
				}
				points = append(points, below)
			}
		}
		return true
	})
	slices.Sort(points)
	points = slices.Compact(points)
	outermost := points[:0]
	for _, p := range points {
		nested := slices.ContainsFunc(outermost, func(o string) bool { return strings.HasPrefix(p, o+"/") })
		if !nested {
			outermost = append(outermost, p)
		}
	}
	return outermost, refused
}
