package source

import (
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// heed notes what the kernel told and says whether it calls for a look.
//
// A file that was created or written to is busy until its writer closes it:
// half a manifest may well be a good one. Whoever renames a complete file into
// place is done at once, as is one who makes a link. A writer that keeps the
// file open is waited for for a while after its last write.
func (f *File) heed(batch []event) (look bool) {
	for _, e := range batch {
		name, isManifest := f.manifestOf(e)
		if !isManifest {
			look = look || f.moves(e)
			continue
		}
		switch {
		case e.mask&unix.IN_ISDIR != 0:
			look = look || name == "" // the directory of manifests itself
		case e.mask&(unix.IN_CREATE|unix.IN_MODIFY) != 0 && f.beingWritten(name, e.mask):
			if f.files[name] == nil {
				f.files[name] = &file{}
			}
			f.files[name].busy = time.Now().Add(f.writing)
		default:
			if file := f.files[name]; file != nil && e.mask&unix.IN_ATTRIB == 0 {
				file.busy = time.Time{}
			}
			look = true
		}
	}
	return look
}

// manifestOf returns the manifest that an event is about: a name in the
// directory, or "" where the path itself is the manifest.
func (f *File) manifestOf(e event) (name string, ok bool) {
	w := f.watcher
	switch {
	case w.dir >= 0 && e.watch == w.dir:
		return e.name, e.name != "" && !strings.HasPrefix(e.name, ".")
	case w.dir < 0 && e.watch == w.parent:
		return "", e.name == filepath.Base(f.path) && e.name == w.child
	}
	return "", false
}

// moves says whether an event may put something else in the place of the
// path or behind its links, as the swap of a link named ..data does.
func (f *File) moves(e event) bool {
	const swaps = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	switch {
	case e.mask&unix.IN_Q_OVERFLOW != 0:
		return true
	case e.watch == f.watcher.dir:
		return e.mask&swaps != 0
	case e.watch == f.watcher.parent:
		return e.mask&swaps != 0 && (e.name == "" || e.name == f.watcher.child)
	}
	return false
}

// beingWritten tells the creation of a file that somebody writes from that of
// a link, after which nobody closes anything.
func (f *File) beingWritten(name string, mask uint32) bool {
	if mask&unix.IN_MODIFY != 0 {
		return true
	}
	var st unix.Stat_t
	return unix.Lstat(f.pathOf(name), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1
}
