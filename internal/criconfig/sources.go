package criconfig

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/volume/subpath"
)

// SubPaths makes parts of volumes available (package volume/subpath).
type SubPaths interface {
	// Bind returns where the part is on the node. Idempotent; bounded in
	// time.
	Bind(ctx context.Context, p subpath.Part) (path string, err error)
}

// source is what a volume mount shows: a path on the node, or an image.
type source struct {
	path         string
	image        *runtimeapi.ImageSpec
	imageSubPath string
}

// sources says what the container's mounts show, subPath and subPathExpr
// resolved, and makes parts of volumes available. A volume that is not set up
// has no source.
func (b *Builder) sources(ctx context.Context, in ContainerInput, env *environment) (map[*v1.VolumeMount]source, error) {
	sources := make(map[*v1.VolumeMount]source, len(in.Container.VolumeMounts))
	for i := range in.Container.VolumeMounts {
		m := &in.Container.VolumeMounts[i]
		sub, err := subPathOf(m, env)
		if err != nil {
			return nil, err
		}
		volume, ok := in.Mounts[m.Name]
		if !ok {
			continue
		}
		s := source{path: volume.Path}
		if spec := imageOf(in.Pod, m.Name); spec != nil {
			s.imageSubPath = sub
			if s.image, err = b.imageSource(ctx, in.Pod, m.Name, spec); err != nil {
				return nil, err
			}
		} else if sub != "" {
			if s.path, err = b.SubPaths.Bind(ctx, subpath.Part{
				PodDir: b.podDir(in.Pod), Volume: m.Name, Container: in.Container.Name, Index: i,
				VolumePath: volume.Path, SubPath: sub,
			}); err != nil {
				return nil, containerErrorf("volume mount %q: %v", m.Name, err)
			}
		}
		sources[m] = s
	}
	return sources, nil
}

func imageOf(pod *v1.Pod, volume string) *v1.ImageVolumeSource {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Name == volume {
			return v.Image
		}
	}
	return nil
}

// imageSource names an image that is present, as the runtime knows it.
func (b *Builder) imageSource(ctx context.Context, pod *v1.Pod, volume string, from *v1.ImageVolumeSource) (*runtimeapi.ImageSpec, error) {
	if b.ImageVolumes != nil {
		if err := b.ImageVolumes(ctx); err != nil {
			return nil, containerErrorf("volume %q: image volumes: %v", volume, err)
		}
	}
	ref, err := b.Images.ImageRef(ctx, pod, from.Reference)
	if err != nil {
		return nil, fmt.Errorf("volume %q: look for image: %w", volume, err)
	}
	if ref == "" {
		return nil, containerErrorf("volume %q: image %q is gone from the node; it is pulled again if its policy allows", volume, from.Reference)
	}
	handler, err := b.RuntimeHandler(ctx, pod)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: from.Reference, RuntimeHandler: handler, Annotations: pod.Annotations}, nil
}

// subPathOf is a mount's path in its volume, empty for all of it. Variables of
// subPathExpr are the container's; one that it does not have is an error.
func subPathOf(m *v1.VolumeMount, env *environment) (string, error) {
	sub, field := m.SubPath, "subPath"
	if m.SubPathExpr != "" {
		field = "subPathExpr"
		var missing []string
		sub = expand(m.SubPathExpr, func(name string) (string, bool) {
			value, ok := env.lookup(name)
			if !ok && !slices.Contains(missing, name) {
				missing = append(missing, name)
			}
			return value, ok
		})
		if len(missing) > 0 {
			return "", containerErrorf("volume mount %q: subPathExpr %q: the container has no variable %s; add it to env",
				m.Name, m.SubPathExpr, strings.Join(missing, ", "))
		}
	}
	switch {
	case filepath.IsAbs(sub):
		return "", containerErrorf("volume mount %q: %s: %q must not be an absolute path", m.Name, field, sub)
	case slices.Contains(strings.Split(sub, "/"), ".."):
		return "", containerErrorf("volume mount %q: %s: %q must not contain '..'", m.Name, field, sub)
	case strings.ContainsRune(sub, 0):
		return "", containerErrorf("volume mount %q: %s: %q must not contain a null byte", m.Name, field, sub)
	}
	return sub, nil
}
