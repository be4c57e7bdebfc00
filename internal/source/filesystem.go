package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// list names the manifests at a path: those in a directory, or "" for the
// path itself, which then is a file and dir is empty.
func list(path string) (dir string, names []string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", nil, err
	}
	if !info.IsDir() {
		return "", []string{""}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		names = append(names, e.Name())
	}
	return path, names, nil
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// stamp tells the versions of a file apart without reading it.
type stamp struct {
	device, inode uint64
	size          int64
	modified      unix.Timespec
	attributes    unix.Timespec // ctime, which cannot be set
	link          bool
	isDir         bool
}

// changed is when the file was last written, renamed or replaced. Of a link
// it is not known what it pointed to before.
func (s stamp) changed() time.Time {
	if s.link {
		return time.Time{}
	}
	return time.Unix(s.attributes.Unix())
}

// stat looks at a regular file, through links. Opening anything else might
// block or set something off.
func stat(path string) (stamp, error) {
	var st, l unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return stamp{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	s := stampOf(&st)
	if unix.Lstat(path, &l) == nil {
		s.link = l.Mode&unix.S_IFMT == unix.S_IFLNK
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return s, nil
	case unix.S_IFDIR:
		return s, errors.New("links to a directory; manifests are not looked for below the directory of static pods")
	default:
		return s, fmt.Errorf("is %s, not a regular file", strings.TrimLeft(fileType(st.Mode), " "))
	}
}

func fileType(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return "a named pipe"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	default:
		return "something special"
	}
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{device: uint64(st.Dev), inode: st.Ino, size: st.Size, modified: st.Mtim, attributes: st.Ctim}
}

// errUnsettled says that a file changed while it was read.
var errUnsettled = errors.New("is being written")

// readStable reads a file of that stamp, not waiting for anybody.
func readStable(path string, want stamp) ([]byte, error) {
	if want.size > maxManifest {
		return nil, fmt.Errorf("has %d bytes; a manifest may have %d", want.size, maxManifest)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), filepath.Base(path))
	defer file.Close()
	want.link = false
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if stampOf(&st) != want {
		return nil, errUnsettled
	}
	data, err := io.ReadAll(io.LimitReader(file, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if stampOf(&st) != want {
		return nil, errUnsettled
	}
	return data, nil
}
