package standalone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"kubelet/internal/checkpoint"
)

// process is what is remembered of the running containerd, to adopt it after
// a restart and never take another process for it.
type process struct {
	Pid int `json:"pid"`
	// Started is field 22 of /proc/PID/stat: clock ticks since boot. A pid
	// that was used again has another.
	Started uint64 `json:"started"`
	// Boot is the machine's boot id.
	Boot string `json:"boot"`
}

const recordVersion = 1

// runtime is the private containerd.
type runtime struct {
	layout Layout
	binary string
	pidfd  int
	pid    int
}

// startRuntime adopts the containerd of an earlier run that still answers, or
// starts one, and waits until its socket takes connections.
func startRuntime(ctx context.Context, l Layout, o Options) (*runtime, error) {
	r := &runtime{layout: l, binary: o.Containerd, pidfd: -1}
	logger := klog.FromContext(ctx)
	if r.adopt() {
		logger.Info("Adopted the private containerd", "pid", r.pid)
	} else if err := r.start(); err != nil {
		return nil, err
	} else {
		logger.Info("Started the private containerd", "pid", r.pid, "log", l.log())
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := r.answers(ctx); err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

// adopt takes over the process that the record names, if it is that process.
func (r *runtime) adopt() bool {
	var p process
	body, _, err := checkpoint.Read(r.layout.record(), recordVersion)
	if err != nil || json.Unmarshal(body, &p) != nil || p.Boot != bootID() {
		return false
	}
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		return false
	}
	// Checked while the pidfd holds the pid's meaning.
	if started, err := startTime(p.Pid); err != nil || started != p.Started {
		unix.Close(fd)
		return false
	}
	r.pid, r.pidfd = p.Pid, fd
	return true
}

func (r *runtime) start() error {
	if err := os.Remove(r.layout.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	log, err := os.OpenFile(r.layout.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open containerd log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(r.binary, "--config", r.layout.config())
	cmd.Stdout, cmd.Stderr = log, log
	// A process group of its own: Ctrl-C in the terminal is for the kubelet.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	r.pid = cmd.Process.Pid
	go func() { _ = cmd.Wait() }() // reaps it; its end is seen through the pidfd
	if r.pidfd, err = unix.PidfdOpen(r.pid, 0); err != nil {
		return fmt.Errorf("open pidfd of containerd: %w", err)
	}
	moveToCgroup(r.pid)
	started, err := startTime(r.pid)
	if err != nil {
		return fmt.Errorf("containerd ended at once, see %s: %w", r.layout.log(), err)
	}
	body, err := json.Marshal(process{Pid: r.pid, Started: started, Boot: bootID()})
	if err == nil {
		err = checkpoint.Write(r.layout.record(), recordVersion, body)
	}
	if err != nil {
		return fmt.Errorf("remember containerd process: %w", err)
	}
	return nil
}

// answers waits until the socket takes connections.
func (r *runtime) answers(ctx context.Context) error {
	for {
		c, err := net.DialTimeout("unix", r.layout.Socket(), time.Second)
		if err == nil {
			return c.Close()
		}
		if r.ended(0) {
			return fmt.Errorf("containerd ended while starting, see %s", r.layout.log())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for containerd at %s: %w (last error: %v)", r.layout.Socket(), ctx.Err(), err)
		case <-time.After(50 * time.Millisecond): // a socket has no event for "now listening"
		}
	}
}

// ended waits up to d for the process to end, for ever if d is negative.
func (r *runtime) ended(d time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(r.pidfd), Events: unix.POLLIN}}
	deadline := time.Now().Add(d)
	for {
		timeout := -1
		if d >= 0 {
			timeout = int(max(time.Until(deadline), 0) / time.Millisecond)
		}
		n, err := unix.Poll(fds, timeout)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return n > 0
	}
}

// supervise starts containerd again whenever it ends by itself. The pods do
// not notice: their shims are processes of their own.
func (r *runtime) supervise(ctx context.Context) {
	logger := klog.FromContext(ctx)
	delay := time.Second
	for ctx.Err() == nil {
		begun := time.Now()
		over := make(chan struct{})
		go func() {
			r.ended(-1)
			close(over)
		}()
		select {
		case <-ctx.Done():
			return
		case <-over:
		}
		if time.Since(begun) > time.Minute {
			delay = time.Second
		}
		logger.Info("The private containerd ended, starting it again", "after", delay, "log", r.layout.log())
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, 30*time.Second)
		unix.Close(r.pidfd)
		if err := r.start(); err != nil {
			logger.Error(err, "Private containerd does not start")
		}
	}
}

// stop ends containerd, by force after 10 s, and forgets it.
func (r *runtime) stop() error {
	if r.pidfd < 0 {
		return nil
	}
	if err := unix.PidfdSendSignal(r.pidfd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop containerd: %w", err)
	}
	if !r.ended(10 * time.Second) {
		if err := unix.PidfdSendSignal(r.pidfd, unix.SIGKILL, nil, 0); err != nil {
			return fmt.Errorf("kill containerd: %w", err)
		}
		r.ended(5 * time.Second)
	}
	if err := os.Remove(r.layout.record()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget containerd process: %w", err)
	}
	removeCgroup()
	return nil
}

// load imports the image archives (*.tar) of a folder into the runtime.
func (r *runtime) load(ctx context.Context, ctr, dir string) error {
	archives, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return fmt.Errorf("list image archives: %w", err)
	}
	for _, archive := range archives {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		out, err := exec.CommandContext(ctx, ctr, "--address", r.layout.Socket(), "--namespace", "k8s.io", "images", "import", archive).CombinedOutput()
		cancel()
		if err != nil {
			return fmt.Errorf("load image archive %s: %w: %s", archive, err, out)
		}
	}
	return nil
}

// runtimeCgroup is where the private containerd lives, so that ending the
// kubelet's own cgroup does not end it.
const runtimeCgroup = "kubelet-standalone-runtime"

// moveToCgroup moves the process in every hierarchy there is. A hierarchy
// that refuses is left: the process then stays beside the kubelet.
func moveToCgroup(pid int) {
	roots := []string{"/sys/fs/cgroup"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		roots, _ = filepath.Glob("/sys/fs/cgroup/*")
	}
	for _, root := range roots {
		if filepath.Base(root) == "cpuset" {
			continue // a new cpuset is empty and takes no process
		}
		dir := filepath.Join(root, runtimeCgroup)
		if os.Mkdir(dir, 0o755) == nil || dirExists(dir) {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		}
	}
}

// removeCgroup removes what moveToCgroup made, once it is empty.
func removeCgroup() {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + runtimeCgroup)
	for _, dir := range append(dirs, "/sys/fs/cgroup/"+runtimeCgroup) {
		_ = unix.Rmdir(dir)
	}
}

func dirExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func bootID() string {
	text, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text))
}

// startTime reads when a process was started, in clock ticks since boot
// (proc_pid_stat(5), field 22).
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read process: %w", err)
	}
	// The name in field 2 may hold anything, parentheses too.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("read process %d: stat has %d fields", pid, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
