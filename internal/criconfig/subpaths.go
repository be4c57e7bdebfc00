package criconfig

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/volume/subpath"
)

// SubPaths makes parts of volumes available (package volume/subpath).
type SubPaths interface {
	// Bind returns where the part is on the node. Idempotent; bounded in
	// time.
	Bind(ctx context.Context, p subpath.Part) (path string, err error)
}

// part is what a volume mount shows of its volume.
type part struct {
	subPath string // as in the spec, with its variables expanded
	path    string // on the node; empty for image volumes
}

// parts resolves subPath and subPathExpr of the container's mounts and makes
// them available. Mounts of whole volumes are not in it.
func (b *Builder) parts(ctx context.Context, in ContainerInput, env *environment) (map[*v1.VolumeMount]part, error) {
	var parts map[*v1.VolumeMount]part
	for i := range in.Container.VolumeMounts {
		m := &in.Container.VolumeMounts[i]
		sub, err := subPathOf(m, env)
		if err != nil {
			return nil, err
		}
		if sub == "" {
			continue
		}
		p := part{subPath: sub}
		if volume := in.Mounts[m.Name]; volume.Path != "" {
			if p.path, err = b.SubPaths.Bind(ctx, subpath.Part{
				PodDir: b.podDir(in.Pod), Volume: m.Name, Container: in.Container.Name, Index: i,
				VolumePath: volume.Path, SubPath: sub,
			}); err != nil {
				return nil, containerErrorf("volume mount %q: %v", m.Name, err)
			}
		}
		if parts == nil {
			parts = map[*v1.VolumeMount]part{}
		}
		parts[m] = p
	}
	return parts, nil
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
