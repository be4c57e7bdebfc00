package pleg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// pidfds watches any number of processes with one goroutine that waits in
// epoll(7) and sleeps until a process ends. A pidfd (pidfd_open(2), Linux
// 5.3) becomes readable when its process has ended, reaped or not, and never
// stands for another process.
type pidfds struct {
	epoll int
	wake  int // eventfd(2), to end the loop

	mu     sync.Mutex
	closed bool
	next   uint64
	byKey  map[uint64]*pidfd
}

// pidfd is one process.
type pidfd struct {
	set *pidfds
	pid int

	// Guarded by set.mu.
	fd  int    // -1 when closed
	key uint64 // 0 until it is in the epoll set
	f   func()
}

func newPidfds() (*pidfds, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll instance: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	s := &pidfds{epoll: epoll, wake: wake, byKey: map[uint64]*pidfd{}}
	if err := s.add(wake, 0, unix.EPOLLIN); err != nil {
		unix.Close(epoll)
		unix.Close(wake)
		return nil, err
	}
	// Where pidfds are missing or forbidden, it shows at once.
	probe, err := s.Open(os.Getpid())
	if err != nil {
		unix.Close(epoll)
		unix.Close(wake)
		return nil, err
	}
	probe.Close()
	return s, nil
}

// add puts a descriptor into the epoll set with a key that comes back with
// its events: a descriptor's number may be used again, a key never is.
func (s *pidfds) add(fd int, key uint64, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: int32(key), Pad: int32(key >> 32)}
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		return fmt.Errorf("add to the epoll set: %w", err)
	}
	return nil
}

// run waits for exits until ctx ends.
func (s *pidfds) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _, _ = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	defer stop()
	events := make([]unix.EpollEvent, 64)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(s.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			s.close()
			return fmt.Errorf("wait for exits of processes: %w", err)
		}
		for i := range max(n, 0) {
			s.ended(uint64(uint32(events[i].Fd)) | uint64(uint32(events[i].Pad))<<32)
		}
	}
	s.close()
	return nil
}

func (s *pidfds) ended(key uint64) {
	s.mu.Lock()
	p := s.byKey[key]
	s.mu.Unlock()
	if p != nil {
		p.f()
	}
}

func (s *pidfds) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	unix.Close(s.epoll)
	// The eventfd stays open: a wake-up may still be on its way.
}

// Open implements ProcessExits.
func (s *pidfds) Open(pid int) (Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open pidfd: %w", err)
	}
	return &pidfd{set: s, pid: pid, fd: fd}, nil
}

// BelongsTo implements Process.
func (p *pidfd) BelongsTo(ids ...string) (bool, error) {
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
	if errors.Is(err, os.ErrNotExist) {
		err = unix.ESRCH
	}
	if err != nil {
		return false, fmt.Errorf("read cgroup of process: %w", err)
	}
	if err := p.alive(); err != nil {
		return false, err
	}
	return namesOne(string(body), ids), nil
}

// Leads implements Process (proc(5), NSpid of status).
func (p *pidfd) Leads() (bool, error) {
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if errors.Is(err, os.ErrNotExist) {
		err = unix.ESRCH
	}
	if err != nil {
		return false, fmt.Errorf("read status of process: %w", err)
	}
	if err := p.alive(); err != nil {
		return false, err
	}
	for line := range strings.Lines(string(body)) {
		if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(ids)
			return len(fields) == 2 && fields[1] == "1", nil
		}
	}
	return false, nil
}

// alive returns an error if the process has ended: then what was read under
// its pid may have been of another one.
func (p *pidfd) alive() error {
	p.set.mu.Lock()
	fd := p.fd
	p.set.mu.Unlock()
	if err := unix.PidfdSendSignal(fd, 0, nil, 0); err != nil {
		return fmt.Errorf("probe process: %w", err)
	}
	return nil
}

// namesOne says whether a /proc/PID/cgroup names one of ids. The systemd
// driver writes the dashes of a pod's UID as underscores.
func namesOne(cgroup string, ids []string) bool {
	for line := range strings.Lines(cgroup) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, id := range ids {
			if id != "" && (strings.Contains(parts[2], id) || strings.Contains(parts[2], strings.ReplaceAll(id, "-", "_"))) {
				return true
			}
		}
	}
	return false
}

// Notify implements Process.
func (p *pidfd) Notify(f func()) error {
	s := p.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || p.fd < 0 {
		return fmt.Errorf("watch process %d: %w", p.pid, os.ErrClosed)
	}
	s.next++
	p.key, p.f = s.next, f
	s.byKey[p.key] = p
	if err := s.add(p.fd, p.key, unix.EPOLLIN|unix.EPOLLONESHOT); err != nil {
		delete(s.byKey, p.key)
		p.key = 0
		return fmt.Errorf("watch process %d: %w", p.pid, err)
	}
	return nil
}

// Close implements Process. Closing the descriptor takes it out of the epoll
// set, because nothing else holds it.
func (p *pidfd) Close() {
	s := p.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.fd < 0 {
		return
	}
	delete(s.byKey, p.key)
	unix.Close(p.fd)
	p.fd = -1
}

// sharesPIDNamespace says whether process ids that a process gives out mean
// the same here.
func sharesPIDNamespace(pid int) (bool, error) {
	if pid <= 0 {
		return false, nil
	}
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return false, fmt.Errorf("read our PID namespace: %w", err)
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return false, fmt.Errorf("read PID namespace of process %d: %w", pid, err)
	}
	return ours == theirs, nil
}
