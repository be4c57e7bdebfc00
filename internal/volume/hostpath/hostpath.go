// Package hostpath is the volume type hostPath: a file or directory of the node
// (https://kubernetes.io/docs/concepts/storage/volumes/#hostpath). It checks
// the path's type, once in a life of the agent, and makes a directory or an
// empty file where the type asks for that; it owns nothing and removes
// nothing. The path may lie on a file system that hangs.
package hostpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/volume"
	"kubelet/internal/volume/bounded"
)

// Plugin mounts hostPath volumes.
type Plugin struct{ calls bounded.Calls }

// New returns the plugin.
func New() *Plugin { return &Plugin{} }

// Name is upstream's.
func (*Plugin) Name() string { return "kubernetes.io/host-path" }

// Supports says whether v is a hostPath.
func (*Plugin) Supports(v *v1.Volume) bool { return v.HostPath != nil }

// Immediate is true unless something has to be there that may come later.
func (*Plugin) Immediate(v *v1.Volume) bool {
	switch typeOf(v.HostPath) {
	case v1.HostPathUnset, v1.HostPathDirectoryOrCreate, v1.HostPathFileOrCreate:
		return true
	}
	return false
}

func typeOf(source *v1.HostPathVolumeSource) v1.HostPathType {
	if source.Type == nil {
		return v1.HostPathUnset
	}
	return *source.Type
}

// Mount checks that the path is what the volume says. A path that is not there
// yet is asked for again: somebody may make it.
func (p *Plugin) Mount(ctx context.Context, spec volume.Spec) (volume.Mount, error) {
	path, want := spec.Volume.HostPath.Path, typeOf(spec.Volume.HostPath)
	mount := volume.Mount{Path: path}
	if spec.Memo.Ready {
		return mount, nil
	}
	if !filepath.IsAbs(path) || slices.Contains(strings.Split(path, "/"), "..") {
		return volume.Mount{}, &volume.Error{Permanent: true, Err: fmt.Errorf("hostPath %q must be an absolute path without '..'", path)}
	}
	if _, known := kinds[want]; !known && want != v1.HostPathUnset {
		return volume.Mount{}, &volume.Error{Permanent: true, Err: fmt.Errorf("unknown hostPath type %q", want)}
	}
	if want != v1.HostPathUnset {
		if err := spec.Step("look at", path); err != nil {
			return volume.Mount{}, err
		}
		key := string(spec.Pod.UID) + "/" + spec.Volume.Name
		err := p.calls.Do(ctx, key, "looking at "+path, func() error { return check(path, want) })
		if err != nil {
			return volume.Mount{}, err
		}
	}
	spec.Memo.Ready = true
	return mount, nil
}

// kinds names what each type wants to find.
var kinds = map[v1.HostPathType]string{
	v1.HostPathDirectoryOrCreate: "a directory",
	v1.HostPathDirectory:         "a directory",
	v1.HostPathFileOrCreate:      "a file",
	v1.HostPathFile:              "a file",
	v1.HostPathSocket:            "a socket",
	v1.HostPathCharDev:           "a character device",
	v1.HostPathBlockDev:          "a block device",
}

func check(path string, want v1.HostPathType) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		switch want {
		case v1.HostPathDirectoryOrCreate:
			return os.MkdirAll(path, 0o755)
		case v1.HostPathFileOrCreate:
			f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o644)
			if err != nil {
				return err
			}
			return f.Close()
		}
		return fmt.Errorf("hostPath type check failed: %s does not exist, want %s", path, kinds[want])
	} else if err != nil {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	if is := kindOf(info.Mode()); is != kinds[want] {
		return fmt.Errorf("hostPath type check failed: %s is %s, not %s", path, is, kinds[want])
	}
	return nil
}

func kindOf(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return "a file"
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSocket:
		return "a socket"
	case fs.ModeDevice | fs.ModeCharDevice:
		return "a character device"
	case fs.ModeDevice:
		return "a block device"
	case fs.ModeNamedPipe:
		return "a named pipe"
	}
	return "of an unknown type"
}

// Unmount has nothing to undo.
func (*Plugin) Unmount(context.Context, volume.Target) error { return nil }
