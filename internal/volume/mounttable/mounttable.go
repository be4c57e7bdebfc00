// Package mounttable reads the kernel's mount table. It owns a copy of the
// part below one directory, keeps it for as long as the kernel says that
// nothing changed, and reads /proc/self/mountinfo when somebody asks after a
// change, never on its own account.
package mounttable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Entry is one mount.
type Entry struct {
	// Path of the mount point, without links.
	Path string
	// FSType as in "tmpfs", "nfs4".
	FSType string
}

// Table is a view of the mounts below one directory. Safe for concurrent use.
type Table struct {
	prefix string

	mu      sync.Mutex
	file    *os.File
	valid   bool
	entries []Entry
}

// New returns a table of the mounts at or below dir, a path without links.
// Close ends it.
func New(dir string) (*Table, error) {
	// Not by os.Open, whose file Go's own poller would watch: the kernel tells
	// of a change once per open file, and the poller would be the one told.
	const path = "/proc/self/mountinfo"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open mount table: %w", &os.PathError{Op: "open", Path: path, Err: err})
	}
	return &Table{prefix: dir, file: os.NewFile(uintptr(fd), path)}, nil
}

// Close releases the table's file.
func (t *Table) Close() error { return t.file.Close() }

// Below returns the mounts at or below path, the newest first: the order in
// which they can be undone. The path, without links, is the table's directory
// or below it.
func (t *Table) Below(path string) ([]Entry, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// A change of the table during the reading can hide entries, so read
	// until there was none. Three times at most: whoever removes files
	// beneath does not rely on this table alone.
	for range 3 {
		changed, err := t.changed()
		if err != nil {
			return nil, err
		}
		if t.valid && !changed {
			break
		}
		if err := t.read(); err != nil {
			return nil, err
		}
	}
	var found []Entry
	for _, e := range t.entries {
		if within(e.Path, path) {
			found = append(found, e)
		}
	}
	slices.Reverse(found)
	return found, nil
}

// changed asks the kernel whether the table changed since it was asked last
// (proc(5): mountinfo is pollable, POLLERR and POLLPRI mark a change).
func (t *Table) changed() (bool, error) {
	fds := []unix.PollFd{{Fd: int32(t.file.Fd()), Events: unix.POLLPRI}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return false, fmt.Errorf("poll mount table: %w", err)
		}
		return n > 0, nil
	}
}

func (t *Table) read() error {
	t.valid = false
	if _, err := t.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read mount table: %w", err)
	}
	t.entries = t.entries[:0]
	_, err := mountinfo.GetMountsFromReader(t.file, func(m *mountinfo.Info) (skip, stop bool) {
		if within(m.Mountpoint, t.prefix) {
			t.entries = append(t.entries, Entry{Path: strings.Clone(m.Mountpoint), FSType: m.FSType})
		}
		return true, false
	})
	if err != nil {
		return fmt.Errorf("read mount table: %w", err)
	}
	t.valid = true
	return nil
}

func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/' || dir == "/")
}
