package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// maxDepth bounds how deep below a pod's cgroup others are looked for; a
// container with a writable cgroup file system may nest at will.
const maxDepth = 256

// destroy kills everything in the cgroup and removes it from every hierarchy.
// The kernel refuses to remove a cgroup for the moment that a killed process
// takes to go, so this is tried until the context ends.
func (t *Tree) destroy(ctx context.Context, n name) error {
	dirs := existing(t.dirs(n))
	if len(dirs) == 0 {
		return nil
	}
	defer t.timed("destroy", time.Now())
	unitStopped := t.config.Driver != Systemd
	for delay := time.Millisecond; ; delay = min(2*delay, 100*time.Millisecond) {
		left, err := killAll(dirs)
		if err != nil {
			return err
		}
		if len(left) == 0 && !unitStopped {
			// After the processes are gone stopping the slice is quick, and
			// systemd forgets it.
			if err := t.stopUnit(n); err != nil {
				return fmt.Errorf("stop unit %s: %w", path.Base(n.path(t.config.Driver)), err)
			}
			unitStopped = true
		}
		err = removeAll(dirs)
		if err == nil && unitStopped {
			return nil
		}
		select {
		case <-ctx.Done():
			if len(left) > 0 {
				return fmt.Errorf("processes %v do not end: %w", left, context.Cause(ctx))
			}
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(delay):
		}
	}
}

func (t *Tree) stopUnit(n name) error {
	m, err := t.manager(n, newResources())
	if err != nil {
		return err
	}
	return m.Destroy()
}

func existing(dirs []string) []string {
	var have []string
	for _, dir := range dirs {
		if info, err := os.Lstat(dir); err == nil && info.IsDir() {
			have = append(have, dir)
		}
	}
	return have
}

// killAll kills every process in the cgroups and below, and returns those it
// found. It refuses to touch a cgroup that holds the agent itself.
func killAll(dirs []string) ([]int, error) {
	pids := map[int]bool{}
	for _, dir := range dirs {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		err = eachCgroup(fd, 0, func(fd int) { readProcs(fd, pids) })
		unix.Close(fd)
		if err != nil {
			return nil, fmt.Errorf("walk %s: %w", dir, err)
		}
	}
	if pids[os.Getpid()] {
		return nil, fmt.Errorf("the kubelet itself runs in %s", dirs[0])
	}
	if len(pids) == 0 {
		return nil, nil
	}
	for _, dir := range dirs {
		// Nobody new from here on, so that a fork bomb cannot outrun the
		// kill. Either file may be missing.
		_ = cgroups.WriteFile(dir, "pids.max", "0")
		// On v2 since Linux 5.14 the kernel kills the whole subtree at once.
		_ = cgroups.WriteFile(dir, "cgroup.kill", "1")
	}
	left := make([]int, 0, len(pids))
	for pid := range pids {
		// 0 stands for a process of another PID namespace: it cannot be
		// named, and kill(0) would hit our own group.
		if pid > 0 {
			killMember(pid, filepath.Base(dirs[0]))
		}
		left = append(left, pid)
	}
	return left, nil
}

// killMember sends SIGKILL to a process if it still is in the cgroup with
// that (unique) name: the number may have been given to somebody else since
// it was read, and a pidfd cannot change its meaning.
func killMember(pid int, cgroup string) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil && err != unix.ENOSYS {
		return // gone
	}
	if err == nil {
		defer unix.Close(fd)
	}
	membership, readErr := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if readErr != nil || !isMember(membership, cgroup) {
		return
	}
	if err == nil {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	} else { // Linux before 5.3
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// isMember looks for the element in the paths of a /proc/PID/cgroup file.
func isMember(membership []byte, cgroup string) bool {
	for line := range bytes.Lines(membership) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if bytes.Contains(append(line[:len(line):len(line)], '/'), []byte("/"+cgroup+"/")) {
			return true
		}
	}
	return false
}

// readProcs adds the processes that are directly in the cgroup.
func readProcs(dir int, pids map[int]bool) {
	fd, err := unix.Openat(dir, cgroups.CgroupProcesses, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), cgroups.CgroupProcesses)
	defer f.Close()
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(f); err != nil {
		return // a threaded cgroup of v2; its processes are listed above it
	}
	for field := range bytes.FieldsSeq(buf.Bytes()) {
		if pid, err := strconv.Atoi(string(field)); err == nil {
			pids[pid] = true
		}
	}
}

// eachCgroup calls f for an open cgroup directory and all below it.
func eachCgroup(fd, depth int, f func(fd int)) error {
	if depth > maxDepth {
		return fmt.Errorf("cgroups nested more than %d deep", maxDepth)
	}
	f(fd)
	names, err := children(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		child, err := openChild(fd, name)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return err
		}
		err = eachCgroup(child, depth+1, f)
		unix.Close(child)
		if err != nil {
			return err
		}
	}
	return nil
}

// removeAll removes the directories with everything below them.
func removeAll(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		parent, err := unix.Open(filepath.Dir(dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue
		}
		if err == nil {
			err = removeCgroup(parent, filepath.Base(dir), 0)
			unix.Close(parent)
		}
		if err != nil {
			errs = append(errs, &os.PathError{Op: "rmdir", Path: dir, Err: err})
		}
	}
	return errors.Join(errs...)
}

// removeCgroup works from open directories, so that the depth of a path does
// not matter and no link is followed.
func removeCgroup(parent int, name string, depth int) error {
	err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if depth > maxDepth {
		return err
	}
	fd, openErr := openChild(parent, name)
	if openErr == unix.ENOENT {
		return nil
	}
	if openErr != nil {
		return openErr
	}
	defer unix.Close(fd)
	names, listErr := children(fd)
	if listErr != nil {
		return listErr
	}
	if len(names) == 0 {
		return err
	}
	for _, child := range names {
		if err := removeCgroup(fd, child, depth+1); err != nil {
			return err
		}
	}
	err = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	if err == unix.ENOENT {
		return nil
	}
	return err
}

func openChild(parent int, name string) (int, error) {
	return unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// children lists the directories in an open one, which stays open.
func children(fd int) ([]string, error) {
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil, nil // removed meanwhile
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "cgroup")
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
