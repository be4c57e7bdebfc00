package probe

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// runtimeContainer is a container as the node's kernel sees it. It is found
// when a probe takes long for the first time, and never changes.
type runtimeContainer struct {
	id  string
	pid func(ctx context.Context, id string) (int, error)

	mu    sync.Mutex
	first int    // process
	dir   string // cgroup
	// commands that run in it and were found.
	commands map[session]bool
}

var errNoAnswer = errors.New("the runtime does not answer")

// cgroup returns the container's first process and its cgroup folder.
func (c *runtimeContainer) cgroup(ctx context.Context) (pid int, dir string, err error) {
	c.mu.Lock()
	pid, dir = c.first, c.dir
	c.mu.Unlock()
	if dir != "" {
		return pid, dir, nil
	}
	if pid, err = c.pid(ctx, c.id); err != nil {
		return 0, "", fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if dir, err = cgroupOf(pid, c.id); err != nil {
		return 0, "", err
	}
	c.mu.Lock()
	c.first, c.dir = pid, dir
	c.mu.Unlock()
	return pid, dir, nil
}

// census counts the container's threads.
func (c *runtimeContainer) census(ctx context.Context) (census, error) {
	_, dir, err := c.cgroup(ctx)
	if err != nil {
		return census{}, err
	}
	return takeCensus(dir)
}
