package logs

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// rotatedFormat is the end of a rotated file's name, in local time:
	// upstream's, and what log collectors know.
	rotatedFormat = "20060102-150405"
	compressed    = ".gz"
	temporary     = ".tmp"
)

// series is the files of one container's log: a directory, and the name of the
// file that the runtime writes to. Files are opened below the directory of all
// pods' logs whatever the names on the way there turn out to be: pods that
// mount the node's logs can put links there.
type series struct {
	dir  *os.Root
	name string
	id   string // of the container
}

// openSeries opens the directory that holds a container's log. path is where
// the runtime says that it writes, podLogsDir the directory of all logs.
func openSeries(podLogsDir, path, id string) (*series, error) {
	top, below := podLogsDir, ""
	if rel, err := filepath.Rel(podLogsDir, path); err == nil && filepath.IsLocal(rel) {
		below = filepath.Dir(rel)
	} else {
		// Written when podLogsDir was another: the runtime's word is enough.
		top, below = filepath.Dir(path), "."
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		return nil, fmt.Errorf("open log directory: %w", err)
	}
	if below == "." {
		return &series{root, filepath.Base(path), id}, nil
	}
	defer root.Close()
	dir, err := root.OpenRoot(below)
	if err != nil {
		return nil, fmt.Errorf("open log directory: %w", err)
	}
	return &series{dir, filepath.Base(path), id}, nil
}

func (s *series) close() { s.dir.Close() }

// rotated lists the rotated files, oldest first. A file that is there both
// plain and compressed is listed compressed: whoever compressed it was killed
// before removing the other.
func (s *series) rotated() ([]string, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return stampOf(s.name, n) == "" })
	// "….gz" sorts right after its plain twin.
	slices.Sort(names)
	for i := len(names) - 1; i > 0; i-- {
		if names[i] == names[i-1]+compressed {
			names = slices.Delete(names, i-1, i)
		}
	}
	return names, nil
}

// names lists the directory, files of other attempts included.
func (s *series) names() ([]string, error) {
	d, err := s.dir.Open(".")
	if err != nil {
		return nil, fmt.Errorf("list log directory %s: %w", s.dir.Name(), err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list log directory %s: %w", s.dir.Name(), err)
	}
	return names, nil
}

// stampOf returns the time in a rotated file's name, by which rotated files of
// the log are ordered, or "" if the file is no rotated file of it.
func stampOf(log, name string) string {
	rest, ok := strings.CutPrefix(name, log+".")
	if !ok {
		return ""
	}
	rest = strings.TrimSuffix(rest, compressed)
	if _, err := time.Parse(rotatedFormat, rest); err != nil {
		return ""
	}
	return rest
}

// attemptOf returns which attempt's log a file belongs to.
func attemptOf(name string) (uint32, bool) {
	number, rest, ok := strings.Cut(name, ".log")
	if !ok || rest != "" && rest[0] != '.' {
		return 0, false
	}
	n, err := strconv.ParseUint(number, 10, 32)
	return uint32(n), err == nil
}

// segment is one file of a log, open for reading.
type segment struct {
	series *series
	name   string // when it was opened
	file   *os.File
	unzip  *gzip.Reader // nil for a plain file
	// offset of the next byte to use, in the content.
	offset int64
	// floor is the offset before which the entries of a stream are left out.
	floor [2]int64
}

// open opens one file of the log. Only a regular file is taken, and a link
// only if it is the runtime's own.
func (s *series) open(name string) (*segment, error) {
	const flags = os.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	f, err := s.dir.OpenFile(name, flags, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f, err = s.openLinked(name, flags, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &segment{series: s, name: name, file: f}, nil
}

// openLinked follows a link that leads out of the directory of all logs.
// cri-dockerd links to the file that Docker writes, which lies in a directory
// named by the container's id; nothing else is worth following.
func (s *series) openLinked(name string, flags int, cause error) (*os.File, error) {
	info, err := s.dir.Lstat(name)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 || len(s.id) < 32 {
		return nil, cause
	}
	target, err := filepath.EvalSymlinks(filepath.Join(s.dir.Name(), name))
	if err != nil {
		return nil, cause
	}
	if filepath.Base(filepath.Dir(target)) != s.id {
		return nil, cause
	}
	return os.OpenFile(target, flags|unix.O_NOFOLLOW, 0)
}

func (g *segment) close() { g.file.Close() }

func (g *segment) compressed() bool { return strings.HasSuffix(g.name, compressed) }

// now returns the name that the file has by now, and whether it has one.
func (g *segment) now() (name string, exists bool) {
	path, err := os.Readlink(fdPath(g.file))
	if err != nil {
		return g.name, true
	}
	// proc_pid_fd(5): the path of an open file follows its renames.
	path, deleted := strings.CutSuffix(path, " (deleted)")
	return filepath.Base(path), !deleted
}

func fdPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// rewind goes back to the beginning of the content.
func (g *segment) rewind() { g.offset, g.unzip = 0, nil }

// read reads on, ahead of the offset by the bytes that the caller still holds.
// It returns io.EOF, and nothing else, at the end of what is there.
func (g *segment) read(b []byte, ahead int) (int, error) {
	if !g.compressed() {
		n, err := g.file.ReadAt(b, g.offset+int64(ahead))
		if n > 0 {
			err = nil
		}
		return n, err
	}
	if g.unzip == nil {
		if _, err := g.file.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
		var err error
		if g.unzip, err = gzip.NewReader(g.file); err != nil {
			return 0, damage(err)
		}
	}
	n, err := g.unzip.Read(b)
	if n > 0 {
		return n, nil
	}
	return n, damage(err)
}

// errDamaged is a compressed file that ends early or holds something else.
// What came before is as good as ever.
var errDamaged = errors.New("compressed log is damaged")

func damage(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return err
}

// written says whether somebody has the file open for writing. The kernel
// knows: it grants a read lease (F_SETLEASE in fcntl(2)) only on a file that
// nobody has. ok is false where there are no leases, on NFS for example.
func (g *segment) written() (open, ok bool) {
	raw, err := g.file.SyscallConn()
	if err != nil {
		return false, false
	}
	cerr := raw.Control(func(fd uintptr) {
		if _, err = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK); err == nil {
			_, err = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
		}
	})
	switch {
	case cerr != nil:
		return false, false
	case err == nil:
		return false, true
	default:
		return true, errors.Is(err, unix.EAGAIN)
	}
}

// snapshot opens all files of the log as they were at one moment, oldest
// first; the last is the one being written to, unless there is none just now.
func (s *series) snapshot() ([]*segment, error) {
	const tries = 100 // a rotation takes longer than a try
	for range tries {
		names, err := s.rotated()
		if err != nil {
			return nil, err
		}
		segments, err := s.openAll(append(names, s.name))
		if err != nil {
			return nil, err
		}
		after, err := s.rotated()
		if err == nil && slices.Equal(names, after) && segments != nil {
			if segments[len(segments)-1].name == s.name {
				return segments, nil
			}
			// A rotation that is under way may also be called off.
			if _, err := s.dir.Lstat(s.name); errors.Is(err, fs.ErrNotExist) {
				return segments, nil
			}
		}
		closeAll(segments)
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("open log %s: it is being rotated too fast", filepath.Join(s.dir.Name(), s.name))
}

// openAll returns nil if a rotated file is gone already.
func (s *series) openAll(names []string) ([]*segment, error) {
	var segments []*segment
	for _, name := range names {
		g, err := s.open(name)
		switch {
		case err == nil:
			segments = append(segments, g)
		case errors.Is(err, fs.ErrNotExist) && name != s.name:
			closeAll(segments)
			return nil, nil
		case errors.Is(err, fs.ErrNotExist) && len(segments) > 0:
			// Renamed, and not opened anew yet.
		default:
			closeAll(segments)
			return nil, err
		}
	}
	return segments, nil
}

func closeAll(segments []*segment) {
	for _, g := range segments {
		g.close()
	}
}

// after opens the file that follows the one of that stamp: the next rotated
// one, or the one being written to. It returns nil while there is none.
func (s *series) after(stamp string) (*segment, error) {
	const tries = 100
	for range tries {
		next, err := s.nextName(stamp)
		if err != nil {
			return nil, err
		}
		g, err := s.open(next)
		if errors.Is(err, fs.ErrNotExist) {
			if next == s.name {
				return nil, nil
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		// It may have been rotated, and another be in its place, between
		// listing and opening.
		if again, err := s.nextName(stamp); err == nil && again == next {
			return g, nil
		}
		g.close()
	}
	return nil, fmt.Errorf("open log %s: it is being rotated too fast", filepath.Join(s.dir.Name(), s.name))
}

func (s *series) nextName(stamp string) (string, error) {
	names, err := s.rotated()
	if err != nil {
		return "", err
	}
	for _, n := range names {
		if stampOf(s.name, n) > stamp {
			return n, nil
		}
	}
	return s.name, nil
}
