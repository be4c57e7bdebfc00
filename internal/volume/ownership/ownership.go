// Package ownership gives the files of a volume to a pod's fsGroup
// (https://kubernetes.io/docs/tasks/configure-pod-container/security-context/):
// the group owns every file, may read it, and write it where the volume is
// writable, and files made later in its directories inherit the group. It
// owns nothing and changes only owner group and mode.
package ownership

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

const (
	readWrite = 0o660
	readOnly  = 0o440
	search    = 0o110

	// maxDepth bounds the open directories on the way down.
	maxDepth = 1000
)

// Options say how a volume changes hands.
type Options struct {
	// Group is the pod's fsGroup. Nil changes nothing.
	Group *int64
	// ReadOnly volumes get no write permission for the group.
	ReadOnly bool
	// Policy OnRootMismatch leaves a volume alone whose root directory is as
	// it should be. It has no effect on ephemeral volumes, whose plugins
	// leave it nil.
	Policy *v1.PodFSGroupChangePolicy
}

// Apply changes dir and all below it, dir itself last, so that a root that is
// right means that the walk came to its end. It follows no link. What the file
// system refuses to change (NFS that squashes root, an unmapped group, an
// immutable file) is left as it is and logged in one line, as the pod may well
// run without.
func Apply(ctx context.Context, dir string, o Options) error {
	if o.Group == nil {
		return nil
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("change group of %s: %w", dir, err)
	}
	defer unix.Close(fd)
	if o.Policy != nil && *o.Policy == v1.FSGroupChangeOnRootMismatch {
		if right, err := rootIsRight(fd, o); err != nil {
			return fmt.Errorf("change group of %s: %w", dir, err)
		} else if right {
			return nil
		}
	}
	w := walk{ctx: ctx, gid: int(*o.Group), mask: readWrite}
	if o.ReadOnly {
		w.mask = readOnly
	}
	if err := w.directory(fd, dir, 0); err != nil {
		return err
	}
	if w.refused > 0 {
		klog.FromContext(ctx).Info("Some files of a volume keep their group or mode", "path", dir, "files", w.refused, "first", w.first)
	}
	return nil
}

func rootIsRight(fd int, o Options) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	want := uint32(readWrite)
	if o.ReadOnly {
		want = readOnly
	}
	want |= search | unix.S_ISGID
	return st.Gid == uint32(*o.Group) && st.Mode&want == want, nil
}

type walk struct {
	ctx     context.Context
	gid     int
	mask    uint32
	refused int
	first   error
}

// directory changes all entries of an open directory, then the directory.
func (w *walk) directory(fd int, path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("change group of %s: more than %d directories deep", path, maxDepth)
	}
	if w.ctx.Err() != nil {
		return fmt.Errorf("change group of %s: %w", path, context.Cause(w.ctx))
	}
	// Of its own handle, for os.File closes what it was given.
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("change group of %s: %w", path, err)
	}
	f := os.NewFile(uintptr(dup), path)
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return fmt.Errorf("change group of %s: %w", path, err)
	}
	for _, name := range names {
		if err := w.entry(fd, name, filepath.Join(path, name), depth+1); err != nil {
			return err
		}
	}
	return w.change(fd, path)
}

func (w *walk) entry(dir int, name, path string, depth int) error {
	// A handle on the thing itself, so that it cannot be exchanged for a link
	// between looking and changing.
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	} else if err != nil {
		return fmt.Errorf("change group of %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("change group of %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return w.change(fd, path)
	}
	sub, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("change group of %s: %w", path, err)
	}
	defer unix.Close(sub)
	return w.directory(sub, path, depth)
}

// change gives one file to the group and adds its permissions; those that are
// there stay.
func (w *walk) change(fd int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("change group of %s: %w", path, err)
	}
	if int(st.Gid) != w.gid {
		if err := unix.Fchownat(fd, "", -1, w.gid, unix.AT_EMPTY_PATH); err != nil {
			w.refuse(fmt.Errorf("change group of %s: %w", path, err))
		}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil // has no mode of its own
	}
	// The change of group took setuid and setgid away; this puts them back.
	mode := st.Mode&0o7777 | w.mask
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		mode |= search | unix.S_ISGID
	}
	// fchmod takes no O_PATH handle; through /proc it reaches the same file.
	if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), mode); err != nil {
		w.refuse(fmt.Errorf("change mode of %s: %w", path, err))
	}
	return nil
}

func (w *walk) refuse(err error) {
	if w.refused++; w.refused == 1 {
		w.first = err
	}
}
