package stats

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// fileSystem is what statfs(2) says.
type fileSystem struct {
	capacity, available, used     uint64 // bytes; available to ordinary users
	inodes, inodesFree, inodeUsed uint64
	device                        uint64
}

func statFS(path string) (fileSystem, error) {
	var s unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(path, &s) }); err != nil {
		return fileSystem{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Stat(path, &st) }); err != nil {
		return fileSystem{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	block := uint64(s.Frsize)
	if s.Frsize <= 0 {
		block = uint64(s.Bsize)
	}
	f := fileSystem{
		capacity: s.Blocks * block, available: s.Bavail * block, used: (s.Blocks - min(s.Bfree, s.Blocks)) * block,
		inodes: s.Files, inodesFree: s.Ffree, inodeUsed: s.Files - min(s.Ffree, s.Files), device: st.Dev,
	}
	return f, nil
}

// size is what files take on disk.
type size struct{ bytes, inodes uint64 }

func (s *size) add(more size) { s.bytes += more.bytes; s.inodes += more.inodes }

// volumeUsage is one measurement of a volume or of the files of a pod.
type volumeUsage struct {
	fs         fileSystem
	size       size            // if walked
	containers map[string]size // logs by container
}

// frame is a directory on the way from the top to the one that is read.
type frame struct {
	dev, ino uint64
	below    []string // directories in it that are still to be read
}

// errMoved ends a walk whose directories were moved under its feet.
var errMoved = errors.New("directory was moved while it was measured")

// hardLinks bounds how many files with several names are remembered; beyond,
// each name counts.
const hardLinks = 1 << 20

// usedBelow sums up what a directory and everything below it take on its file
// system: other file systems mounted in it do not count, links are not
// followed, a file with several names counts once. One descriptor is open at a
// time, however deep the directories are: the content is the pods'.
func usedBelow(dir string) (total size, err error) {
	fd, err := openDir(unix.AT_FDCWD, dir)
	if err != nil {
		return size{}, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return size{}, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	dev := st.Dev
	total.add(sizeOf(&st))
	seen := map[uint64]struct{}{}
	names := make([]byte, 8<<10)

	enter := func(st *unix.Stat_t) (frame, error) {
		f := frame{dev: st.Dev, ino: st.Ino}
		err := eachName(fd, names, func(name string) {
			var st unix.Stat_t
			if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Dev != dev {
				return // gone again, or another file system
			}
			if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
				if _, again := seen[st.Ino]; again {
					return
				}
				if len(seen) < hardLinks {
					seen[st.Ino] = struct{}{}
				}
			}
			total.add(sizeOf(&st))
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				f.below = append(f.below, name)
			}
		})
		return f, err
	}

	top, err := enter(&st)
	if err != nil {
		return size{}, &os.PathError{Op: "list", Path: dir, Err: err}
	}
	stack := []frame{top}
	for len(stack) > 0 {
		here := &stack[len(stack)-1]
		if len(here.below) == 0 {
			stack = stack[:len(stack)-1]
			if len(stack) == 0 {
				break
			}
			up, err := openDir(fd, "..")
			if err != nil {
				return size{}, fmt.Errorf("measure %s: %w", dir, err)
			}
			_ = unix.Close(fd)
			fd = up
			parent := stack[len(stack)-1]
			if unix.Fstat(fd, &st) != nil || st.Dev != parent.dev || st.Ino != parent.ino {
				return size{}, fmt.Errorf("measure %s: %w", dir, errMoved)
			}
			continue
		}
		name := here.below[len(here.below)-1]
		here.below = here.below[:len(here.below)-1]
		down, err := openDir(fd, name)
		if err != nil {
			continue // gone again
		}
		if unix.Fstat(down, &st) != nil || st.Dev != dev {
			_ = unix.Close(down)
			continue
		}
		_ = unix.Close(fd)
		fd = down
		f, err := enter(&st)
		if err != nil {
			return size{}, fmt.Errorf("measure %s: %w", dir, err)
		}
		stack = append(stack, f)
	}
	return total, nil
}

// openDir opens a directory and nothing else: a link or a FIFO in its place
// fails at once. O_NOATIME would need to own it.
func openDir(at int, name string) (fd int, err error) {
	err = ignoringEINTR(func() error {
		fd, err = unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	})
	return fd, err
}

// eachName lists an open directory.
func eachName(fd int, buf []byte, f func(name string)) error {
	var list []string
	for {
		n, err := unix.Getdents(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n <= 0 {
			return nil
		}
		_, _, list = unix.ParseDirent(buf[:n], -1, list[:0])
		for _, name := range list {
			f(name)
		}
	}
}

func sizeOf(st *unix.Stat_t) size { return size{bytes: uint64(max(st.Blocks, 0)) * 512, inodes: 1} }

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// podFiles measures the logs of a pod and its hosts file, which count as
// local ephemeral storage. Only files directly in the directories are logs.
func podFiles(logs, hosts string) (u volumeUsage, err error) {
	u.containers = map[string]size{}
	entries, err := os.ReadDir(logs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return u, fmt.Errorf("measure logs: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			u.size.add(lstatSize(filepath.Join(logs, e.Name())))
			continue
		}
		files, err := os.ReadDir(filepath.Join(logs, e.Name()))
		if err != nil {
			continue
		}
		var sum size
		for _, f := range files {
			if !f.IsDir() {
				sum.add(lstatSize(filepath.Join(logs, e.Name(), f.Name())))
			}
		}
		u.containers[e.Name()] = sum
	}
	u.size.add(lstatSize(hosts))
	return u, nil
}

func lstatSize(path string) size {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return size{}
	}
	return sizeOf(&st)
}

// fsStats is a file system without what is used of it.
func (f fileSystem) fsStats(at time.Time) statsapi.FsStats {
	return statsapi.FsStats{
		Time: stamp(at), AvailableBytes: ptr(f.available), CapacityBytes: ptr(f.capacity),
		Inodes: ptr(f.inodes), InodesFree: ptr(f.inodesFree),
	}
}

// whole is a file system with all that is used of it.
func (f fileSystem) whole(at time.Time) *statsapi.FsStats {
	s := f.fsStats(at)
	s.UsedBytes, s.InodesUsed = ptr(f.used), ptr(f.inodeUsed)
	return &s
}

func ptr[T any](v T) *T { return &v }
