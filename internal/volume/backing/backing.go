// Package backing makes the directories in which ephemeral volumes live: on
// disk, on a tmpfs or on huge pages. It owns their mounts and the ready marks
// beside them; what is in a volume belongs to the volume's type.
package backing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"

	"kubelet/internal/volume"
)

// Medium is what a volume's files are kept on.
type Medium int

// Media.
const (
	Disk Medium = iota
	// Memory is a tmpfs.
	Memory
	// HugePages is a hugetlbfs.
	HugePages
)

// Wanted describes a volume's directory.
type Wanted struct {
	Medium Medium
	// SizeLimit of a tmpfs, if the volume sets one. The pod's memory limit
	// and the node bound it in any case.
	SizeLimit *resource.Quantity
	// PageSize in bytes of a hugetlbfs.
	PageSize int64
}

// Maker makes the directories. It remembers only whether the kernel knows the
// noswap option.
type Maker struct {
	// Allocatable returns the node's allocatable resources, as far as known.
	Allocatable func() v1.ResourceList

	noNoswap atomic.Bool
}

// diskMode lets every user of every container in, as upstream's volumes do.
const diskMode = 0o777

// Ensure makes spec.Dir, on the wanted medium. Idempotent; what is mounted
// already, by whichever kubelet, stays.
func (m *Maker) Ensure(ctx context.Context, spec volume.Spec, w Wanted) error {
	if err := spec.Step("make directory", spec.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(spec.Dir), 0o750); err != nil {
		return err
	}
	if err := os.Mkdir(spec.Dir, diskMode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	here, err := Look(spec.Dir)
	if err != nil {
		return err
	}
	if w.Medium != Disk && here.Mount == w.Medium {
		if w.Medium == HugePages && here.PageSize != w.PageSize {
			return &volume.Error{Permanent: true, Err: fmt.Errorf("huge pages of %d bytes are mounted, not of %d", here.PageSize, w.PageSize)}
		}
		return nil
	}
	if here.Mount != Disk || here.Foreign && w.Medium != Disk {
		return fmt.Errorf("%s has another file system mounted than the volume asks for", spec.Dir)
	}
	if here.Mode&0o777 != diskMode {
		if err := spec.Step("change mode of", spec.Dir); err != nil {
			return err
		}
		// The mode given to mkdir loses the bits of the umask.
		if err := os.Chmod(spec.Dir, diskMode); err != nil {
			return err
		}
	}
	switch w.Medium {
	case Memory:
		return m.mountTmpfs(ctx, spec, tmpfsBytes(spec.Pod, w.SizeLimit, m.Allocatable()))
	case HugePages:
		if err := spec.Step("mount huge pages on", spec.Dir); err != nil {
			return err
		}
		return mount("hugetlbfs", spec.Dir, "pagesize="+strconv.FormatInt(w.PageSize, 10))
	}
	return nil
}

// mountTmpfs leaves the root's mode to the kernel's default of 01777, as
// upstream does: everybody may write, nobody deletes another's files.
func (m *Maker) mountTmpfs(ctx context.Context, spec volume.Spec, bytes int64) error {
	if err := spec.Step("mount tmpfs on", spec.Dir); err != nil {
		return err
	}
	options := ""
	if bytes > 0 {
		options = "size=" + strconv.FormatInt(bytes, 10)
	}
	// Without noswap, Linux 6.3 and before, secrets can reach the swap.
	if !m.noNoswap.Load() {
		err := mount("tmpfs", spec.Dir, join(options, "noswap"))
		if err == nil || !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	if err := mount("tmpfs", spec.Dir, options); err != nil {
		return err
	}
	if !m.noNoswap.Swap(true) {
		klog.FromContext(ctx).Info("The kernel does not know the tmpfs option noswap; what is kept in memory can be swapped out")
	}
	return nil
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "," + b
}

func mount(fstype, dir, options string) error {
	if err := unix.Mount(fstype, dir, fstype, 0, options); err != nil {
		return &os.PathError{Op: "mount " + fstype + " " + options, Path: dir, Err: err}
	}
	return nil
}

// Unmount takes down what Ensure mounted, and nothing else. A tmpfs or
// hugetlbfs that something still holds open is detached: it disappears with
// its last user. Works without the pod; idempotent.
func Unmount(target volume.Target) error {
	for range 100 { // several may lie on each other; never without end
		here, err := Look(target.Dir)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		if here.Mount == Disk {
			return nil
		}
		if err := target.Step("unmount", target.Dir); err != nil {
			return err
		}
		err = unix.Unmount(target.Dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(target.Dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: not mounted any more
			return &os.PathError{Op: "unmount", Path: target.Dir, Err: err}
		}
	}
	return fmt.Errorf("unmount %s: still mounted after 100 times", target.Dir)
}

// Found is what lies at a volume's directory.
type Found struct {
	// Mount is the medium of the file system that is mounted exactly there.
	// Disk if none is, or one of another type.
	Mount    Medium
	PageSize int64
	// Foreign is set if a file system of another type is mounted there.
	Foreign  bool
	Dev, Ino uint64
	// Mode holds the permission bits.
	Mode uint32
}

// Look reads what lies at dir, a directory and not a link.
func Look(dir string) (Found, error) {
	var st, above unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return Found{}, &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return Found{}, &os.PathError{Op: "look at", Path: dir, Err: unix.ENOTDIR}
	}
	found := Found{Dev: st.Dev, Ino: st.Ino, Mode: st.Mode & 0o7777}
	if err := unix.Lstat(filepath.Dir(dir), &above); err != nil {
		return Found{}, &os.PathError{Op: "lstat", Path: filepath.Dir(dir), Err: err}
	}
	// A tmpfs or hugetlbfs of ours is a file system of its own.
	if st.Dev == above.Dev {
		return found, nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return Found{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	switch int64(fs.Type) & 0xffffffff {
	case unix.TMPFS_MAGIC:
		found.Mount = Memory
	case unix.HUGETLBFS_MAGIC:
		found.Mount, found.PageSize = HugePages, int64(fs.Bsize)
	default:
		found.Foreign = true
	}
	return found, nil
}

// Mark is the path of a file that says that a volume has been set up
// completely. Upstream keeps one for each emptyDir, and, with a prefix, for
// each volume that it builds on one.
func Mark(spec volume.Spec, wrapped bool) string {
	name := spec.Volume.Name
	if wrapped {
		name = "wrapped_" + name
	}
	return filepath.Join(spec.PodDir, "plugins", "kubernetes.io~empty-dir", name, "ready")
}

// Marked says whether the mark is there.
func Marked(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}

// SetMark makes the mark. Idempotent.
func SetMark(spec volume.Spec, path string) error {
	if Marked(path) {
		return nil
	}
	if err := spec.Step("mark ready", path); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
