package source

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// events are inotify's, one watch's name and what happened to it. They come
// from the kernel's interface itself (inotify(7)): the usual library hides
// IN_CLOSE_WRITE, which says that a file is complete.
type event struct {
	watch int
	mask  uint32
	name  string // in the watched directory; "" for the directory itself
}

const (
	// watchDir is what changes a directory's manifests.
	watchDir = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_MOVED_TO |
		unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	// watchParent is what puts another directory in its place.
	watchParent = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
)

// watcher owns an inotify instance. All of its methods but read are for one
// goroutine.
type watcher struct {
	file   *os.File
	fd     int
	dir    int    // watch of the directory itself, -1 if none
	parent int    // watch of the nearest directory around it that exists, -1 if none
	child  string // what the path goes through in there
}

func newWatcher() (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open inotify: %w", err)
	}
	// A non-blocking file is read through the runtime's poller, so that Close
	// ends a read.
	return &watcher{file: os.NewFile(uintptr(fd), "inotify"), fd: fd, dir: -1, parent: -1}, nil
}

func (w *watcher) close() { w.file.Close() }

// read sends events until the watcher is closed.
func (w *watcher) read(events chan<- []event, stop <-chan struct{}) {
	defer close(events)
	buf := make([]byte, 16<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		select {
		case events <- parseEvents(buf[:n]):
		case <-stop:
			return
		}
	}
}

// parseEvents splits what one read returned (struct inotify_event).
func parseEvents(buf []byte) []event {
	var list []event
	for len(buf) >= unix.SizeofInotifyEvent {
		e := event{
			watch: int(int32(binary.NativeEndian.Uint32(buf))),
			mask:  binary.NativeEndian.Uint32(buf[4:]),
		}
		n := int(binary.NativeEndian.Uint32(buf[12:]))
		buf = buf[unix.SizeofInotifyEvent:]
		if n > len(buf) {
			return list
		}
		name, _, _ := bytes.Cut(buf[:n], []byte{0})
		e.name = string(name)
		buf = buf[n:]
		list = append(list, e)
	}
	return list
}

// follow watches a path and what is around it, whatever stands there now: a
// directory or a file, or nothing yet. It is asked before each look at the
// path, and goes from the outside in, so that nothing is missed in between.
func (w *watcher) follow(path string) error {
	if err := w.followParent(path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	isDir := err == nil && info.IsDir()
	if w.dir, err = w.move(w.dir, path, watchDir, isDir); err != nil || !isDir {
		return err
	}
	// Its neighbours' contents are of no interest then.
	w.parent, err = w.move(w.parent, filepath.Dir(path), watchParent, w.parent >= 0)
	return err
}

// followParent watches the nearest directory around the path that exists.
func (w *watcher) followParent(path string) (err error) {
	const tries = 10 // somebody may make directories meanwhile
	for range tries {
		w.child = filepath.Base(path)
		around := filepath.Dir(path)
		for {
			w.parent, err = w.move(w.parent, around, watchDir, around != path)
			if !isNotExist(err) || around == filepath.Dir(around) {
				break
			}
			w.child, around = filepath.Base(around), filepath.Dir(around)
		}
		if err != nil || around == filepath.Dir(path) {
			return err
		}
		if _, e := os.Lstat(filepath.Join(around, w.child)); isNotExist(e) {
			return nil
		}
	}
	return fmt.Errorf("watch %s: what is around it keeps changing", path)
}

// move puts a watch onto a path. If the same directory stands there as
// before, it stays the same watch.
func (w *watcher) move(old int, path string, mask uint32, wanted bool) (int, error) {
	watch, err := -1, error(nil)
	if wanted {
		watch, err = unix.InotifyAddWatch(w.fd, path, mask|unix.IN_ONLYDIR)
		if err != nil {
			watch, err = -1, fmt.Errorf("watch %s: %w", path, err)
		}
	}
	if old >= 0 && old != watch {
		unix.InotifyRmWatch(w.fd, uint32(old)) // gone by itself, if the directory is
	}
	return watch, err
}
