package subpath

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// mostLinks bounds the links of one walk, as the kernel does.
const mostLinks = 40

// walk is on its way through a volume.
type walk struct {
	// root is the volume's path without links.
	root string
	mode uint32 // of directories that are made
	// dirs are descriptors (O_PATH) of the directories from the volume's root
	// to where the walk is. ".." takes the last off: it never asks what the
	// parent has become.
	dirs  []int
	ahead []step
	links int
}

// step is one name to go.
type step struct {
	name string
	// linked names come from a link. Nothing is made in their place: a link
	// that leads to nothing is a mistake.
	linked bool
}

// open walks from the volume's root to what the path leads to and returns an
// O_PATH descriptor of it. Devices, fifos and sockets are not opened by that.
func open(volume, path string) (int, error) {
	root, err := unix.Open(volume, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open the volume: %w", err)
	}
	w := &walk{dirs: []int{root}}
	defer w.back(0)
	if w.root, err = os.Readlink(byDescriptor(root)); err != nil {
		return -1, fmt.Errorf("find the volume: %w", errno(err))
	}
	var stat unix.Stat_t
	if err := unix.Fstat(root, &stat); err != nil {
		return -1, fmt.Errorf("look at the volume: %w", err)
	}
	w.mode = stat.Mode & 0o7777
	w.ahead = steps(path, false)
	for len(w.ahead) > 0 {
		next := w.ahead[0]
		w.ahead = w.ahead[1:]
		fd, err := w.take(next)
		switch {
		case err != nil:
			return -1, err
		case fd >= 0:
			return fd, nil
		}
	}
	// The directory where the walk has ended is the caller's to close.
	last := len(w.dirs) - 1
	fd := w.dirs[last]
	w.dirs = w.dirs[:last]
	return fd, nil
}

// back gives up the directories above the given depth.
func (w *walk) back(depth int) {
	for _, fd := range w.dirs[depth:] {
		unix.Close(fd)
	}
	w.dirs = w.dirs[:depth]
}

func steps(path string, linked bool) []step {
	var list []step
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			list = append(list, step{name, linked})
		}
	}
	return list
}

// take goes one name ahead. It returns a descriptor if that is the end, of
// something else than a directory.
func (w *walk) take(next step) (int, error) {
	here := w.dirs[len(w.dirs)-1]
	if next.name == ".." {
		if len(w.dirs) == 1 {
			return -1, errors.New("a link leads out of the volume")
		}
		w.back(len(w.dirs) - 1)
		return -1, nil
	}
	// Whoever changes the volume meanwhile may make it take a few turns.
	const turns = 100
	for range turns {
		// O_DIRECTORY makes an automount happen. Links are no directories.
		fd, err := unix.Openat(here, next.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			w.dirs = append(w.dirs, fd)
			return -1, nil
		}
		if err == unix.ENOTDIR || err == unix.ELOOP {
			fd, err = unix.Openat(here, next.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err == nil {
				return w.other(next, fd)
			}
		}
		if err != unix.ENOENT {
			return -1, fmt.Errorf("open %q: %w", next.name, err)
		}
		if next.linked {
			return -1, fmt.Errorf("a link leads to %q, which does not exist", next.name)
		}
		if err := mkdir(here, next.name, w.mode); err != nil && err != unix.EEXIST {
			return -1, fmt.Errorf("make directory %q: %w", next.name, err)
		}
	}
	return -1, fmt.Errorf("open %q: it keeps changing", next.name)
}

// other deals with what is no directory: it follows a link, and ends at
// anything else.
func (w *walk) other(next step, fd int) (int, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("look at %q: %w", next.name, err)
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		defer unix.Close(fd)
		return -1, w.link(next, fd)
	case unix.S_IFDIR: // it has become one just now
		w.dirs = append(w.dirs, fd)
		return -1, nil
	}
	if len(w.ahead) > 0 {
		unix.Close(fd)
		return -1, fmt.Errorf("%q is not a directory", next.name)
	}
	return fd, nil
}

// link puts the names of a link before those that are still to go.
func (w *walk) link(next step, fd int) error {
	if w.links++; w.links > mostLinks {
		return fmt.Errorf("%q: more than %d links one after another", next.name, mostLinks)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return fmt.Errorf("read link %q: %w", next.name, err)
	}
	to := string(buf[:n])
	if strings.HasPrefix(to, "/") {
		rest, ok := strings.CutPrefix(to, strings.TrimSuffix(w.root, "/"))
		if !ok || rest != "" && rest[0] != '/' {
			return fmt.Errorf("link %q leads out of the volume", next.name)
		}
		to = rest
		w.back(1)
	}
	w.ahead = append(steps(to, true), w.ahead...)
	return nil
}

// mkdir makes a directory of exactly that mode, which umask(2) would cut and
// which must not be repaired by name or by opening it again: by then it may
// be another one. So it is made by a thread with a umask of its own, which
// ends with it. Set-group-ID comes from the parent, as everywhere.
func mkdir(dir int, name string, mode uint32) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread is not used again
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- err
			return
		}
		unix.Umask(0)
		done <- unix.Mkdirat(dir, name, mode)
	}()
	return <-done
}
