// Package subpath gives a container a part of a volume: what a volumeMount's
// subPath names is bound to a place of its own below the pod's directory, and
// that place is mounted into the container. It owns the mounts at
//
//	<root>/pods/<uid>/volume-subpaths/<volume>/<container>/<index of the mount>
//
// which is upstream's layout, so that either adopts the other's. It reads and,
// for directories that are missing, writes the volume; the reconciler of
// package volume undoes the mounts with the pod.
//
// The content of a volume belongs to containers, which may be hostile and
// change it meanwhile. So a path in it is never given to the kernel to
// resolve: it is walked one name at a time from a descriptor of the volume's
// root, links are read and walked the same way, and what the walk ends at is
// bound by its descriptor. Links may lead anywhere within the volume and
// nowhere else. That is what openat2(2) means by RESOLVE_BENEATH, and in
// addition lets absolute links into the volume pass, which upstream allows.
package subpath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"kubelet/internal/volume/bounded"
)

// Directory is the name of what is below a pod's directory.
const Directory = "volume-subpaths"

// deadline bounds the work on one mount; a volume may be on a server that is
// gone.
const deadline = 30 * time.Second

// Part is one mount of a part of a volume.
type Part struct {
	// PodDir is <root>/pods/<uid>; it exists.
	PodDir string
	// Volume, Container and Index name the place of the mount.
	Volume, Container string
	Index             int
	// VolumePath is where the volume is on the node.
	VolumePath string
	// SubPath is relative and has no "..".
	SubPath string
}

// Binder binds parts of volumes. The zero value is ready to use.
type Binder struct{ calls bounded.Calls }

// Bind makes the part available and returns its path on the node. Directories
// that are missing are made with the mode of the volume's root. It is
// idempotent: a mount that is there already, also from an earlier life of the
// agent, is kept if it still is what the path leads to, and replaced
// otherwise. An error names nothing outside of the volume.
func (b *Binder) Bind(ctx context.Context, p Part) (string, error) {
	target := filepath.Join(Directory, p.Volume, p.Container, strconv.Itoa(p.Index))
	for _, name := range []string{p.Volume, p.Container} {
		if filepath.Base(name) != name || name == ".." || name == "." {
			return "", fmt.Errorf("bind subPath: %q cannot be the name of a directory", name)
		}
	}
	if !filepath.IsLocal(p.SubPath) {
		return "", fmt.Errorf("subPath %q must be a relative path without '..'", p.SubPath)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, deadline, fmt.Errorf("not done within %s", deadline))
	defer cancel()
	full := filepath.Join(p.PodDir, target)
	// Two that ask for one place would want the same part of it.
	err := b.calls.Do(ctx, full, fmt.Sprintf("looking up subPath %q", p.SubPath), func() error { return bind(ctx, p, target) })
	if err != nil {
		return "", fmt.Errorf("subPath %q: %w", p.SubPath, err)
	}
	return full, nil
}

func bind(ctx context.Context, p Part, target string) error {
	// Opened first: if the volume hangs until the pod is gone, nothing can be
	// made in its directory any more.
	pod, err := os.OpenRoot(p.PodDir)
	if err != nil {
		return fmt.Errorf("open pod directory: %w", errno(err))
	}
	defer pod.Close()
	source, err := open(p.VolumePath, p.SubPath)
	if err != nil {
		return err
	}
	defer unix.Close(source)
	var want unix.Stat_t
	if err := unix.Fstat(source, &want); err != nil {
		return fmt.Errorf("look at it: %w", err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	kept, err := vacate(pod, filepath.Join(p.PodDir, target), target, &want)
	if err != nil || kept {
		return err
	}
	place, err := makePlace(pod, target, want.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer unix.Close(place)
	// Without MS_REC, as upstream: what is mounted below stays out.
	if err := unix.Mount(byDescriptor(source), byDescriptor(place), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind it: %w", err)
	}
	return nil
}

// byDescriptor is a path that leads to what the descriptor holds, whatever
// names have become of it.
func byDescriptor(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// vacate leaves nothing mounted at the place, unless it is what is wanted.
func vacate(pod *os.Root, path, target string, want *unix.Stat_t) (kept bool, err error) {
	if _, err := pod.Lstat(filepath.Dir(target)); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	var have unix.Stat_t
	switch err := unix.Lstat(path, &have); {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err == nil && have.Dev == want.Dev && have.Ino == want.Ino:
		return true, nil
	}
	// Something else, or a mount that cannot be looked at any more because
	// its server or daemon is gone. Detached rather than unmounted: a flush to
	// a dead server would never end.
	const most = 16 // mounts one over the other
	for range most {
		switch err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil:
		case unix.EINVAL, unix.ENOENT:
			return false, nil
		default:
			return false, fmt.Errorf("unmount what is at %s: %w", path, err)
		}
	}
	return false, fmt.Errorf("unmount what is at %s: there is always more", path)
}

// makePlace makes the directory or file that is mounted over.
func makePlace(pod *os.Root, target string, dir bool) (int, error) {
	if err := pod.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return -1, fmt.Errorf("make the place of the mount: %w", err)
	}
	if info, err := pod.Lstat(target); err == nil && (info.IsDir() != dir || !dir && !info.Mode().IsRegular()) {
		if err := pod.Remove(target); err != nil {
			return -1, fmt.Errorf("make the place of the mount: %w", err)
		}
	}
	if dir {
		if err := pod.Mkdir(target, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
			return -1, fmt.Errorf("make the place of the mount: %w", err)
		}
	} else {
		f, err := pod.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o640)
		if err != nil {
			return -1, fmt.Errorf("make the place of the mount: %w", err)
		}
		f.Close()
	}
	parent, err := pod.Open(filepath.Dir(target))
	if err != nil {
		return -1, fmt.Errorf("open the place of the mount: %w", err)
	}
	defer parent.Close()
	fd, err := unix.Openat(int(parent.Fd()), filepath.Base(target), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open the place of the mount: %w", err)
	}
	return fd, nil
}

// errno drops the path of an error, which may be nobody's business.
func errno(err error) error {
	var e unix.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}
