package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU times in /proc: USER_HZ is 100 on every Linux that
// containers run on.
const tick = 10 * time.Millisecond

// cpuTime is what a process and its children, ended ones that it waited for
// included, have used.
func cpuTime(pid int) (total time.Duration, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // the first is the third of proc(5)
	if len(fields) < 20 {
		return 0, fmt.Errorf("read CPU time: %q", text)
	}
	for _, i := range []int{11, 12, 13, 14} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		total += time.Duration(n) * tick
	}
	for _, child := range children(pid) {
		if t, err := cpuTime(child); err == nil {
			total += t
		}
	}
	return total, nil
}

func children(pid int) (pids []int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		for _, f := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(f); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// memory of a process and its children, in bytes.
type memory struct{ rss, anonymous int64 }

func memoryOf(pid int) (m memory, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "VmRSS:":
			m.rss = n << 10
		case "RssAnon:":
			m.anonymous = n << 10
		}
	}
	for _, child := range children(pid) {
		if c, err := memoryOf(child); err == nil {
			m.rss += c.rss
			m.anonymous += c.anonymous
		}
	}
	return m, nil
}
