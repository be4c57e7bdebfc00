package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// A runtime ends a command that has run for too long by killing its first
// process. What that one started lives on, as orphans of the container, and
// while they hold its output open the runtime's call does not even return: the
// common `sh -c "check; report"` never times out. So the command is looked for
// among the container's processes, and ended whole.
//
// A runtime gives each command a session of its own (setsid(2)), which what it
// starts belongs to unless it asks not to. With runc the command leads it; with
// crun a process does that has ended by then.

// session is a command that runs in a container. The leader's number stands
// for no other session while any process is left in this one.
type session struct {
	leader int
	start  uint64 // of the command, in clock ticks since the node's start
	dir    string // the container's cgroup
}

// ticks is how many clock ticks a second has in /proc (sysconf(_SC_CLK_TCK));
// it is 100 wherever Go runs on Linux.
const ticks = 100

// bootTime is the time since the node's start, on the clock by which processes
// are dated.
func bootTime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

var errNoSession = errors.New("the command is not among the container's processes")

// find returns the session of a command that was asked for at the given time
// since the node's start, and that nobody has found before: the same command
// may run twice. The caller has to drop it.
func (c *runtimeContainer) find(ctx context.Context, command []string, asked time.Duration) (session, error) {
	pid, dir, err := c.cgroup(ctx)
	if err != nil {
		return session{}, err
	}
	members, err := processes(dir)
	if err != nil {
		return session{}, err
	}
	inside := func(pid int) bool {
		return slices.ContainsFunc(members, func(p process) bool { return p.pid == pid })
	}
	// A command comes from outside. Others may be there: hooks, a person's.
	earliest := uint64(asked / (time.Second / ticks))
	members = slices.DeleteFunc(members, func(p process) bool {
		return p.pid == pid || !p.hasOwnSession() || inside(p.parent) || p.start+2 < earliest || !p.runs(command)
	})
	slices.SortFunc(members, func(a, b process) int { return int(a.start) - int(b.start) })
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range members {
		if ses := (session{p.session, p.start, dir}); !c.commands[ses] {
			if c.commands == nil {
				c.commands = map[session]bool{}
			}
			c.commands[ses] = true
			return ses, nil
		}
	}
	return session{}, errNoSession
}

func (c *runtimeContainer) drop(ses session) {
	c.mu.Lock()
	delete(c.commands, ses)
	c.mu.Unlock()
}

// age is how long the command has been running.
func (ses session) age() time.Duration {
	return bootTime() - time.Duration(ses.start)*(time.Second/ticks)
}

// kill ends every process of the session.
func (ses session) kill() error {
	// What is started meanwhile is found by looking again.
	for range 5 {
		members, err := processes(ses.dir)
		if err != nil {
			return err
		}
		left := false
		for _, p := range members {
			if p.session == ses.leader && p.start >= ses.start {
				left = true
				if err := p.kill(); err != nil {
					return fmt.Errorf("kill process %d of the command: %w", p.pid, err)
				}
			}
		}
		if !left {
			break
		}
	}
	return nil
}

// process is what /proc/PID/stat says of one (proc_pid_stat(5)).
type process struct {
	pid, parent, session int
	start                uint64
}

func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	return parseStat(pid, text)
}

func parseStat(pid int, text []byte) (process, error) {
	// The name may hold anything, the last parenthesis ends it.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	const state, parent, session, start = 0, 1, 3, 19
	if len(fields) <= start {
		return process{}, fmt.Errorf("parse /proc/%d/stat: %d fields after the name", pid, len(fields))
	}
	p := process{pid: pid}
	var errs [3]error
	p.parent, errs[0] = strconv.Atoi(string(fields[parent]))
	p.session, errs[1] = strconv.Atoi(string(fields[session]))
	p.start, errs[2] = strconv.ParseUint(string(fields[start]), 10, 64)
	if err := errors.Join(errs[:]...); err != nil {
		return process{}, fmt.Errorf("parse /proc/%d/stat: %w", pid, err)
	}
	if fields[state][0] == 'Z' || fields[state][0] == 'X' {
		return process{}, unix.ESRCH // has ended, and holds nothing
	}
	return p, nil
}

// hasOwnSession says whether the process's session is not that of who started
// it.
func (p process) hasOwnSession() bool {
	if p.session == p.pid {
		return true
	}
	parent, err := readProcess(p.parent)
	return err == nil && parent.session != p.session
}

// runs says whether the process runs that command.
func (p process) runs(command []string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	return err == nil && isCommand(text, command)
}

// isCommand says whether the arguments in a /proc/PID/cmdline are those of the
// command: as they are, or behind an interpreter that a script names.
func isCommand(cmdline []byte, command []string) bool {
	args := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	if len(command) == 0 || len(args) < len(command) {
		return false
	}
	before := len(args) - len(command)
	return before <= 2 && slices.Equal(args[before+1:], command[1:]) &&
		filepath.Base(args[before]) == filepath.Base(command[0])
}

// kill sends SIGKILL to the very process that p was read of.
func (p process) kill() error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err == nil {
		defer unix.Close(fd)
		if now, rerr := readProcess(p.pid); rerr != nil || now.start != p.start {
			return nil
		}
		err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// cgroupOf returns the cgroup folder of the container whose first process is
// pid. A runtime in another PID namespace counts processes differently; then
// the process found under the number is some other.
func cgroupOf(pid int, container string) (string, error) {
	file := fmt.Sprintf("/proc/%d/cgroup", pid)
	paths, err := cgroups.ParseCgroupFile(file)
	if err != nil {
		return "", fmt.Errorf("find the container's cgroup: %w", err)
	}
	for _, controller := range []string{"", "pids", "memory", "cpu"} {
		path, ok := paths[controller]
		if !ok || !strings.Contains(path, container) {
			continue
		}
		for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/" + controller} {
			dir := filepath.Join(root, path)
			if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("find the container's cgroup: process %d is in none of container %s", pid, container)
}

// processes reads the members of a cgroup and of those below it.
func processes(dir string) (members []process, err error) {
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil && path == dir:
			return fmt.Errorf("list the container's processes: %w", err)
		case err != nil || d.IsDir() || d.Name() != "cgroup.procs":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil // the cgroup has just been removed
		}
		for line := range bytes.Lines(text) {
			pid, err := strconv.Atoi(string(bytes.TrimSpace(line)))
			if err != nil || pid <= 0 {
				continue
			}
			if p, err := readProcess(pid); err == nil {
				members = append(members, p)
			}
		}
		return nil
	})
	return members, err
}
