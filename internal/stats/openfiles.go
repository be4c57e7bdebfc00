package stats

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// openFiles is what the processes of a container have open.
type openFiles struct {
	files, sockets value
	limit          int64 // of open files of the first process, -1 for none
	limited        bool  // limit is known
}

const (
	// openAge is how old the numbers may be: looking at each descriptor of
	// each process is the dearest part of a scrape.
	openAge = 10 * time.Second
	// mostDescriptors bounds how many descriptors of a container are looked
	// at. With more, their number is shown only where the kernel tells it, and
	// sockets are not counted.
	mostDescriptors = 4096
)

// watched is a container whose descriptors are counted.
type watched struct {
	id    string
	first int
	group *group
}

// askOpenFiles begins to count what the pods' processes have open.
func (r *Reader) askOpenFiles(pods []pod) <-chan struct{} {
	var list []watched
	for i := range pods {
		p := &pods[i]
		if p.sandbox != nil && p.sandbox.group != nil {
			list = append(list, watched{p.sandbox.id, p.sandbox.pid, p.sandbox.group})
		}
		for j := range p.containers {
			if c := &p.containers[j]; c.group != nil {
				list = append(list, watched{c.id, c.pid, c.group})
			}
		}
	}
	return r.openFiles.ask("", openAge, func() (map[string]openFiles, error) {
		out := make(map[string]openFiles, len(list))
		buf := make([]byte, 8<<10)
		for _, w := range list {
			s := w.group.sample(partProcs|partDetails, time.Now(), buf)
			if s == nil {
				continue
			}
			out[w.id] = r.machine.openFiles(w.first, s.pids.pids, buf)
		}
		return out, nil
	})
}

// openFiles counts the descriptors of processes.
func (m *machine) openFiles(first int, pids []int, buf []byte) (f openFiles) {
	if first > 0 {
		if text, err := os.ReadFile(filepath.Join(m.proc, strconv.Itoa(first), "limits")); err == nil {
			f.limit, f.limited = openFilesLimit(text)
		}
	}
	f.files, f.sockets = value{0, true}, value{0, true}
	left := mostDescriptors
	link := make([]byte, 16)
	for _, pid := range pids {
		dir := filepath.Join(m.proc, strconv.Itoa(pid), "fd")
		if left <= 0 {
			// Linux 6.2 and newer tell the number as the directory's size.
			f.sockets = value{}
			var st unix.Stat_t
			if unix.Stat(dir, &st) != nil || st.Size == 0 {
				f.files = value{}
				return f
			}
			f.files.n += uint64(st.Size)
			continue
		}
		fd, err := openDir(unix.AT_FDCWD, dir)
		if err != nil {
			continue // ended
		}
		_ = eachName(fd, buf, func(name string) {
			f.files.n++
			if left--; left < 0 {
				f.sockets = value{}
				return
			}
			if n, err := unix.Readlinkat(fd, name, link); err == nil && strings.HasPrefix(string(link[:n]), "socket:") {
				f.sockets.n++
			}
		})
		_ = unix.Close(fd)
	}
	if left < 0 {
		f.sockets = value{}
	}
	return f
}

// openFilesLimit reads the soft limit of open files out of /proc/PID/limits.
func openFilesLimit(text []byte) (n int64, ok bool) {
	lines(text, func(line []byte) {
		rest, found := bytes.CutPrefix(line, []byte("Max open files"))
		if !found {
			return
		}
		word, _ := field(rest)
		if string(word) == "unlimited" {
			n, ok = -1, true
			return
		}
		if v, good := number(word); good && v <= math.MaxInt64 {
			n, ok = int64(v), true
		}
	})
	return n, ok
}
