// Package removal deletes directory trees whose content is not to be trusted:
// a container may have put anything there. It deletes what lies on the tree's
// own mount and nothing else: it crosses no mount, follows no link, opens no
// file, works through directory handles so that nobody can move the ground
// under it, and a tree of any depth costs it a bounded number of them. It owns
// nothing.
package removal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxDepth bounds the open directories; what lies deeper is first moved
	// up to the top of the tree.
	maxDepth = 64
	// maxErrors bounds what an error lists.
	maxErrors = 3

	parkedPrefix = "..removing-"
)

// Tree deletes the directory at path and all below it. It succeeds if there is
// none. What cannot be deleted is named in the error, a mount point above all,
// and everything else is deleted; calling again continues. The path's parent
// is trusted, the path itself and what is below it are not. Cancelling ctx
// stops it between two directories.
func Tree(ctx context.Context, path string) error {
	parent, err := os.Open(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	defer parent.Close()

	r := &remover{ctx: ctx, top: -1, buf: make([]byte, 8<<10)}
	r.remove(int(parent.Fd()), filepath.Dir(path), filepath.Base(path), 0)
	return r.err()
}

type remover struct {
	ctx    context.Context
	buf    []byte
	top    int // handle of the tree's root
	parked int

	noOpenat2 bool
	stopped   bool
	failed    int
	errs      []error
}

func (r *remover) fail(op, dirPath, name string, err error) {
	r.failed++
	if len(r.errs) < maxErrors {
		r.errs = append(r.errs, fmt.Errorf("%s %q: %w", op, filepath.Join(dirPath, name), err))
	}
}

// cancelled reports whether ctx has ended, and says so once.
func (r *remover) cancelled(path string) bool {
	if !r.stopped && r.ctx.Err() != nil {
		r.stopped = true
		r.fail("remove", path, "", context.Cause(r.ctx))
	}
	return r.stopped
}

func (r *remover) err() error {
	if r.failed == 0 {
		return nil
	}
	err := r.errs[0]
	for _, e := range r.errs[1:] {
		err = fmt.Errorf("%w; %w", err, e)
	}
	if more := r.failed - len(r.errs); more > 0 {
		err = fmt.Errorf("%w; and %d more", err, more)
	}
	return err
}

// remove deletes one entry of the directory dir, of whatever kind. It reports
// whether the entry is gone from there.
func (r *remover) remove(dir int, dirPath, name string, depth int) bool {
	err := retry(func() error { return unix.Unlinkat(dir, name, 0) })
	if err == unix.EPERM && r.clearFlags(dir, name, depth) {
		err = retry(func() error { return unix.Unlinkat(dir, name, 0) })
	}
	switch err {
	case nil, unix.ENOENT:
		return true
	case unix.EISDIR, unix.EPERM: // EPERM is POSIX's answer for a directory
	default:
		r.fail("remove", dirPath, name, err)
		return false
	}
	fd, openErr := r.open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	switch openErr {
	case nil:
	case unix.ENOENT:
		return true
	case unix.ENOTDIR:
		r.fail("remove", dirPath, name, err)
		return false
	case unix.EXDEV:
		r.fail("remove", dirPath, name, errors.New("something is mounted here"))
		return false
	default:
		r.fail("open", dirPath, name, openErr)
		return false
	}
	defer unix.Close(fd)
	if depth == 0 {
		r.top = fd
	} else if depth >= maxDepth {
		return r.park(dir, dirPath, name, depth)
	}
	path := filepath.Join(dirPath, name)
	return r.empty(fd, path, depth) && r.rmdir(dir, fd, name, path, depth)
}

// rmdir deletes an emptied directory. Another process may fill it meanwhile,
// as may park; what comes is deleted, too.
func (r *remover) rmdir(dir, fd int, name, path string, depth int) bool {
	for {
		err := retry(func() error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
		switch err {
		case nil, unix.ENOENT:
			return true
		case unix.ENOTEMPTY, unix.EEXIST:
			if !r.empty(fd, path, depth) {
				return false
			}
			continue
		case unix.EPERM:
			if r.clearFlags(dir, name, depth) {
				continue
			}
		}
		r.fail("remove", path, "", err)
		return false
	}
}

// empty deletes the entries of a directory. It reports whether all are gone.
func (r *remover) empty(fd int, path string, depth int) bool {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		r.fail("read", path, "", err)
		return false
	}
	all := true
	for !r.cancelled(path) {
		var n int
		err := retry(func() (err error) { n, err = unix.ReadDirent(fd, r.buf); return err })
		if err != nil {
			r.fail("read", path, "", err)
			return false
		}
		if n <= 0 {
			return all
		}
		_, _, names := unix.ParseDirent(r.buf[:n], -1, nil)
		for _, name := range names {
			all = r.remove(fd, path, name, depth+1) && all
		}
	}
	return false
}

// park moves a directory to the top of the tree, where this pass or the next
// one finds it at depth 1.
func (r *remover) park(dir int, dirPath, name string, depth int) bool {
	for {
		r.parked++
		err := unix.Renameat(dir, name, r.top, parkedPrefix+strconv.Itoa(r.parked))
		switch err {
		case nil:
			return true
		case unix.EEXIST, unix.ENOTEMPTY, unix.ENOTDIR: // of an earlier, unfinished removal
			continue
		case unix.EPERM:
			if r.clearFlags(dir, name, depth) {
				continue
			}
		}
		r.fail("move up", dirPath, name, err)
		return false
	}
}

// open opens an entry of dir if it lies on the same mount (else EXDEV) and is
// not a link (ENOTDIR).
func (r *remover) open(dir int, name string, flags int) (fd int, err error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	if !r.noOpenat2 {
		err = retry(func() (err error) {
			fd, err = unix.Openat2(dir, name, &unix.OpenHow{
				Flags:   uint64(flags),
				Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
			})
			return err
		})
		switch err {
		case unix.ELOOP:
			return -1, unix.ENOTDIR
		case unix.ENOSYS:
			r.noOpenat2 = true // Linux before 5.6
		default:
			return fd, err
		}
	}
	err = retry(func() (err error) { fd, err = unix.Openat(dir, name, flags, 0); return err })
	if err == unix.ELOOP {
		return -1, unix.ENOTDIR
	} else if err != nil {
		return -1, err
	}
	// A bind mount of the same file system has the same device number; only
	// the mount's own number tells.
	above, err := mountID(dir)
	if err == nil {
		var here string
		if here, err = mountID(fd); err == nil && here != above {
			err = unix.EXDEV
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// mountID returns the number of the mount that an open file lies on.
func mountID(fd int) (string, error) {
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(info)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", errors.New("fdinfo has no mnt_id")
}

// clearFlags takes away the immutable and append-only flags (chattr(1)) that
// keep an entry or its directory from being changed. A regular file with
// further names is left alone: they may be outside of the tree, as is the
// directory at depth 0. It reports whether it changed anything.
func (r *remover) clearFlags(dir int, name string, depth int) bool {
	changed := depth > 0 && clearFlags(dir)
	fd, err := r.open(dir, name, unix.O_PATH)
	if err != nil {
		return changed
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return changed
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
	case unix.S_IFREG:
		if st.Nlink > 1 {
			return changed
		}
	default:
		return changed
	}
	file, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd)) // the very inode looked at
	if err != nil {
		return changed
	}
	defer file.Close()
	return clearFlags(int(file.Fd())) || changed
}

func clearFlags(fd int) bool {
	const stubborn = 0x10 | 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL of linux/fs.h
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&stubborn == 0 {
		return false
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^stubborn) == nil
}

func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
