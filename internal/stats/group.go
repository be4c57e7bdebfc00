package stats

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// group is one cgroup and its open files.
type group struct {
	h    *hierarchy
	path string // below the mount points

	mu     sync.Mutex
	fds    []int32 // by file of h.files: unopened, missing, or a descriptor
	closed bool
	last   *sample // newest; nil if there is none
	base   anchor  // earlier sample that the rate is taken over
	rate   uint64  // nanocores, if hasRate
	has    bool    // rate is known
	born   time.Time
}

// anchor is one end of a rate.
type anchor struct {
	at    time.Time
	usage uint64 // ns of CPU time
}

const (
	unopened int32 = -1
	missing  int32 = -2 // there is no such file
)

const (
	// sampleAge is how old a sample may be to answer one more question. It
	// bounds what a client that asks without pause can cost.
	sampleAge = time.Second
	// rateAge is the least age of the sample that a rate is taken over:
	// shorter windows are mostly noise.
	rateAge = 10 * time.Second
	// lifeAge is the age up to which a cgroup that was not seen before has
	// its rate taken over its whole life.
	lifeAge = 2 * time.Minute
	// completeAge is when a cgroup has all files that it ever will.
	completeAge = 10 * time.Second
	// maxFile is the longest text taken of one cgroup file.
	maxFile = 64 << 10
)

// hierarchy is how cgroups are mounted on this machine.
type hierarchy struct {
	unified bool
	// mounts are the mount points by v1 controller; "" for v2.
	mounts map[string]string
	files  []cgroupFile
	read   func(*reading)

	// open counts kept descriptors; most bounds them.
	open atomic.Int64
	most int64
}

// cgroupFile is a file that every cgroup of a hierarchy may have.
type cgroupFile struct {
	controller string // v1 controller whose mount has it; "" on v2
	name       string
}

// parts are what can be read of a cgroup, each a few files.
type parts uint8

const (
	partUsage    parts = 1 << iota // CPU and memory
	partPressure                   // pressure stall information
	partLimits                     // memory and swap limits
	partIO                         // block devices
	partProcs                      // number of processes
	partDetails                    // what only /metrics/cadvisor shows
)

// sample is what a cgroup's files said at one time. It is never changed once
// made.
type sample struct {
	at   time.Time
	has  parts // what was asked for
	cpu  cpuSample
	mem  memorySample
	io   ioSample
	pids pidsSample
}

// Numbers are absent (ok false) where the kernel has no such file.
type value struct {
	n  uint64
	ok bool
}

func (v value) ptr() *uint64 {
	if !v.ok {
		return nil
	}
	n := v.n
	return &n
}

func newGroup(h *hierarchy, path string, born time.Time) *group {
	g := &group{h: h, path: path, born: born, fds: make([]int32, len(h.files))}
	for i := range g.fds {
		g.fds[i] = unopened
	}
	return g
}

// reading is one read of a group's files.
type reading struct {
	g    *group
	want parts
	out  *sample
	buf  []byte
	gone bool // the cgroup was removed
}

// sample returns a sample that has what is wanted and is at most sampleAge
// old, nil if the cgroup does not exist.
func (g *group) sample(want parts, now time.Time, buf []byte) *sample {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.last; s != nil && s.has&want == want && now.Sub(s.at) < sampleAge {
		return s
	}
	if g.last != nil && now.Sub(g.last.at) < sampleAge {
		want |= g.last.has // so that those who alternate do not read twice
	}
	s := g.readLocked(want, now, buf)
	if s == nil {
		// It may have been made anew under the same name.
		g.closeLocked()
		if s = g.readLocked(want, now, buf); s == nil {
			g.closeLocked()
			g.last = nil
			return nil
		}
		g.has, g.base = false, anchor{}
	}
	g.last = s
	g.noteRate(s)
	return s
}

func (g *group) readLocked(want parts, now time.Time, buf []byte) *sample {
	r := reading{g: g, want: want, buf: buf, out: &sample{at: now, has: want}}
	g.h.read(&r)
	if r.gone || !r.out.cpu.usage.ok && !r.out.mem.usage.ok && !r.out.pids.processes.ok {
		return nil
	}
	return r.out
}

// noteRate takes the rate of CPU usage over the base, and makes the sample
// the base once the old one has aged.
func (g *group) noteRate(s *sample) {
	if !s.cpu.usage.ok {
		return
	}
	usage := s.cpu.usage.n
	over := func(from anchor) (uint64, bool) {
		window := s.at.Sub(from.at)
		if window < time.Second || usage < from.usage {
			return 0, false
		}
		return uint64(float64(usage-from.usage) / window.Seconds()), true
	}
	switch {
	case g.base.at.IsZero():
		if !g.born.IsZero() && s.at.Sub(g.born) < lifeAge {
			g.rate, g.has = over(anchor{at: g.born})
		}
		g.base = anchor{s.at, usage}
	case s.at.Sub(g.base.at) >= rateAge || usage < g.base.usage:
		g.rate, g.has = over(g.base)
		g.base = anchor{s.at, usage}
	case !g.has:
		g.rate, g.has = over(g.base)
	}
}

// usageRate is the CPU usage in nanocores as of the last sample.
func (g *group) usageRate() value {
	g.mu.Lock()
	defer g.mu.Unlock()
	return value{g.rate, g.has}
}

// close closes the files; the next sample opens them again.
func (g *group) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closeLocked()
}

func (g *group) closeLocked() {
	for i, fd := range g.fds {
		if fd >= 0 {
			_ = unix.Close(int(fd))
			g.h.open.Add(-1)
		}
		g.fds[i] = unopened
	}
}

// file reads one file; the text is good until the next call. It is nil if
// there is none.
func (r *reading) file(i int) []byte {
	g := r.g
	fd := g.fds[i]
	if fd == missing || r.gone {
		return nil
	}
	kept := fd != unopened
	if !kept {
		f := g.h.files[i]
		mount, ok := g.h.mounts[f.controller]
		if !ok {
			g.fds[i] = missing
			return nil
		}
		n, err := unix.Open(filepath.Join(mount, g.path, f.name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			// A new cgroup may not be complete yet.
			if errors.Is(err, fs.ErrNotExist) && r.out.at.Sub(g.born) > completeAge {
				g.fds[i] = missing
			}
			return nil
		}
		fd = int32(n)
		if g.h.open.Add(1) <= g.h.most {
			g.fds[i], kept = fd, true
		} else {
			g.h.open.Add(-1)
		}
	}
	if !kept {
		defer unix.Close(int(fd))
	}
	text, err := preadAll(int(fd), r.buf)
	r.buf = text[:cap(text)]
	switch {
	case errors.Is(err, unix.ENODEV):
		r.gone = true
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		// Pressure files exist but cannot be read if the kernel was booted
		// with psi=0.
		return nil
	case err != nil:
		return nil
	}
	return text
}

// preadAll reads a file from its beginning into buf, which grows at need.
func preadAll(fd int, buf []byte) ([]byte, error) {
	n := 0
	for {
		if n == len(buf) {
			if n >= maxFile {
				return buf[:n], nil
			}
			buf = append(buf, make([]byte, max(len(buf), 4096))...)
			buf = buf[:cap(buf)]
		}
		m, err := unix.Pread(fd, buf[n:], int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return buf[:0], err
		}
		n += m
		if m == 0 || n < len(buf) {
			// A cgroup file comes whole if there is room for it.
			return buf[:n], nil
		}
	}
}

// number reads a file with one number.
func (r *reading) number(i int) value {
	b := r.file(i)
	if b == nil {
		return value{}
	}
	n, ok := number(b)
	return value{n, ok}
}

// birth is when a cgroup was made: the directory's time changes with each
// cgroup below it, that of a file that is hardly ever written does not.
func (h *hierarchy) birth(path string) time.Time {
	var birth time.Time
	for controller, mount := range h.mounts {
		if !h.unified && controller != "cpu" && controller != "memory" {
			continue
		}
		dir := filepath.Join(mount, path)
		for _, name := range []string{dir, filepath.Join(dir, "cgroup.clone_children"), filepath.Join(dir, "cgroup.events")} {
			if info, err := os.Stat(name); err == nil && (birth.IsZero() || info.ModTime().Before(birth)) {
				birth = info.ModTime()
			}
		}
	}
	return birth
}
