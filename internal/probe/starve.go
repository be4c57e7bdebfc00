package probe

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// On a node without CPU to spare, a container may be well and not get to
// answer. To restart it would cost more CPU still and mend nothing. So when a
// liveness or startup probe is about to time out, the container's threads are
// looked at: whether they wait for an event, as one that hangs does, or for a
// CPU.

// threadTime is what a thread has had of the CPUs since it began
// (/proc/PID/schedstat, Documentation/scheduler/sched-stats.rst).
type threadTime struct {
	ran, waited time.Duration
	turns       uint64 // how often it got a CPU
	runnable    bool   // it runs or waits for a CPU now
}

// census is what the threads of a container had at one time.
type census struct {
	at      time.Time
	threads map[int]threadTime
}

// starved says whether between two censuses the container wanted a CPU for
// long and got next to nothing. One that got more is slow by itself.
func starved(a, b census) bool {
	window := b.at.Sub(a.at)
	var ran, waited time.Duration
	for id, now := range b.threads {
		then, ok := a.threads[id]
		if !ok {
			continue // it cannot have waited for long
		}
		w := now.waited - then.waited
		if now.runnable && then.runnable && now.turns == then.turns {
			w = window // a wait is counted when it is over
		}
		ran += now.ran - then.ran
		waited = max(waited, w)
	}
	return window > 0 && waited >= window/4 && ran < window/4
}

// maxThreads bounds what a census costs: about 10 µs for each.
const maxThreads = 512

// takeCensus reads the threads in a cgroup.
func takeCensus(dir string) (census, error) {
	c := census{at: time.Now(), threads: map[int]threadTime{}}
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.threads"))
	if err != nil { // version 1 of cgroups
		text, err = os.ReadFile(filepath.Join(dir, "tasks"))
	}
	if err != nil {
		return census{}, fmt.Errorf("list the container's threads: %w", err)
	}
	for line := range bytes.Lines(text) {
		id, err := strconv.Atoi(string(bytes.TrimSpace(line)))
		if err != nil || id <= 0 {
			continue
		}
		if len(c.threads) == maxThreads {
			break
		}
		if t, err := readThread(id); err == nil {
			c.threads[id] = t
		}
	}
	return c, nil
}

func readThread(id int) (threadTime, error) {
	dir := fmt.Sprintf("/proc/%d/task/%d/", id, id)
	text, err := os.ReadFile(dir + "schedstat")
	if err != nil {
		return threadTime{}, err
	}
	t, err := parseSchedstat(text)
	if err != nil {
		return threadTime{}, err
	}
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return threadTime{}, err
	}
	_, state, _ := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(" "))
	t.runnable = bytes.HasPrefix(state, []byte("R"))
	return t, nil
}

func parseSchedstat(text []byte) (threadTime, error) {
	var ran, waited, turns uint64
	if _, err := fmt.Sscan(string(text), &ran, &waited, &turns); err != nil {
		return threadTime{}, fmt.Errorf("parse schedstat %q: %w", text, err)
	}
	return threadTime{ran: time.Duration(ran), waited: time.Duration(waited), turns: turns}, nil
}
