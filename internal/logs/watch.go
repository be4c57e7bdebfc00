package logs

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What wakes somebody who waits for a file to be written on, or to be renamed
// or closed; and for a directory to get a file. Closed by its writer: from then
// on nothing is written to it any more.
const (
	fileEvents = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_MOVE_SELF | unix.IN_ATTRIB
	dirEvents  = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_ONLYDIR
)

// watch wakes waiters by inotify(7). There is one instance for all of them,
// because a machine has few (fs.inotify.max_user_instances is 128), and only
// while there are any. Each watch is good for one event: a busy log costs
// those who do not wait for it nothing.
//
// The zero value is ready to use.
type watch struct {
	mu    sync.Mutex
	users int
	file  *os.File
	fd    int
	// waiters by watch descriptor.
	waiters map[int32]map[*waiter]bool
}

// waiter is called at an event, or at a spurious moment. It must not block.
type waiter struct{ wake func() }

// join makes the instance if there is none. Each join is followed by a leave.
func (w *watch) join() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users == 0 {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return fmt.Errorf("open inotify: %w", err)
		}
		w.fd = fd
		w.file = os.NewFile(uintptr(fd), "inotify")
		w.waiters = map[int32]map[*waiter]bool{}
		go w.read(w.file)
	}
	w.users++
	return nil
}

func (w *watch) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users--; w.users == 0 {
		w.file.Close() // ends read
		w.waiters = nil
	}
}

// arm wakes c at the next of the events.
func (w *watch) arm(path string, events uint32, c *waiter) (int32, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Under the lock, so that the event cannot be read before it is known
	// whose it is.
	wd, err := unix.InotifyAddWatch(w.fd, path, events|unix.IN_ONESHOT)
	if err != nil {
		return 0, fmt.Errorf("watch %s: %w", path, err)
	}
	if w.waiters[int32(wd)] == nil {
		w.waiters[int32(wd)] = map[*waiter]bool{}
	}
	w.waiters[int32(wd)][c] = true
	return int32(wd), nil
}

// disarm takes c off the watch.
func (w *watch) disarm(wd int32, c *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if cs := w.waiters[wd]; cs[c] {
		delete(cs, c)
		if len(cs) == 0 {
			delete(w.waiters, wd)
			// Gone by itself if the event came meanwhile.
			_, _ = unix.InotifyRmWatch(w.fd, uint32(wd))
		}
	}
}

// read passes events on until the instance is closed.
func (w *watch) read(f *os.File) {
	var buf [4096]byte
	for {
		n, err := f.Read(buf[:])
		if err != nil {
			return
		}
		w.mu.Lock()
		if w.file != f { // others joined after the last one left
			w.mu.Unlock()
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			mask := binary.NativeEndian.Uint32(b[unsafe.Offsetof(unix.InotifyEvent{}.Mask):])
			name := binary.NativeEndian.Uint32(b[unsafe.Offsetof(unix.InotifyEvent{}.Len):])
			b = b[min(len(b), unix.SizeofInotifyEvent+int(name)):]
			switch {
			case mask&unix.IN_Q_OVERFLOW != 0:
				// Events were lost: everybody has to look.
				for wd := range w.waiters {
					w.wake(wd)
				}
			case mask&unix.IN_IGNORED == 0:
				w.wake(wd)
			}
		}
		w.mu.Unlock()
	}
}

func (w *watch) wake(wd int32) {
	for c := range w.waiters[wd] {
		c.wake()
	}
	delete(w.waiters, wd)
}
