package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// inside runs fn on a thread that has entered the node's namespaces. A process
// that fn starts runs in the node, and a socket that it opens is the node's;
// both stay so for their lifetime. The thread ends with fn.
func (n *Node) inside(fn func() error) error {
	if n.bare {
		return fn()
	}
	errs := make(chan error, 1)
	go func() {
		// Never unlocked: a thread whose namespaces were changed must not
		// serve other goroutines, so the runtime ends it with this one.
		runtime.LockOSThread()
		errs <- func() error {
			// A mount namespace can be entered only by a thread that shares
			// its root and working directory with no other (setns(2)).
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare working directory: %w", err)
			}
			for _, ns := range n.namespaces {
				if err := unix.Setns(int(ns.Fd()), 0); err != nil {
					return fmt.Errorf("enter %s: %w", ns.Name(), err)
				}
			}
			return fn()
		}()
	}()
	return <-errs
}

// Inside runs fn on a thread that has entered the node's namespaces, for what
// has no path or address outside of them: mounts, links, signals.
func (n *Node) Inside(fn func() error) error { return n.inside(fn) }

// Dial opens a connection as a program on the node would. The address of a
// TCP connection must be a literal IP address and port; that of a unix socket
// is its path on the node.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if network == "unix" {
		// The path leads through the node's root, since a unix socket's
		// address is looked up by path.
		var d net.Dialer
		return d.DialContext(ctx, network, n.Path(address))
	}
	var conn net.Conn
	err := n.inside(func() (err error) {
		d := net.Dialer{Timeout: 10 * time.Second}
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen opens a TCP listener on the node, for servers that a test provides.
func (n *Node) Listen(address string) (net.Listener, error) {
	var l net.Listener
	err := n.inside(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

// Process is a program that runs on the node.
type Process struct {
	Name string
	// Log is the file on the machine that has the output.
	Log string

	cmd  *exec.Cmd
	done chan struct{}
}

// Command says how a program is started on a node.
type Command struct {
	Name string
	Path string
	Args []string
	Env  []string // added to the node's environment
}

// Start starts a program on the node. Its output is appended to a file in the
// artifacts folder.
func (n *Node) Start(c Command) (*Process, error) {
	logPath := filepath.Join(n.artifacts, c.Name+".log")
	out, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", c.Name, err)
	}
	defer out.Close()
	p := &Process{Name: c.Name, Log: logPath, done: make(chan struct{})}
	p.cmd = &exec.Cmd{Path: c.Path, Args: append([]string{c.Path}, c.Args...), Env: n.environ(c.Env), Dir: "/", Stdout: out, Stderr: out}
	if err := n.inside(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	if err := n.account(p.Pid()); err != nil {
		_ = p.cmd.Process.Kill()
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	go func() {
		_ = p.cmd.Wait() // the state tells how it ended
		close(p.done)
	}()
	return p, nil
}

// Run runs a program on the node to its end and returns its combined output.
func (n *Node) Run(ctx context.Context, path string, args ...string) (string, error) {
	file, err := os.CreateTemp(n.artifacts, "run-*.out")
	if err != nil {
		return "", fmt.Errorf("make output file: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	cmd := &exec.Cmd{Path: path, Args: append([]string{path}, args...), Env: n.environ(nil), Dir: "/", Stdout: file, Stderr: file}
	if err := n.inside(cmd.Start); err != nil {
		return "", fmt.Errorf("start %s: %w", path, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	waitErr := cmd.Wait()
	out, err := os.ReadFile(file.Name())
	return string(out), errors.Join(waitErr, err, ctx.Err())
}

func (n *Node) environ(extra []string) []string {
	return append([]string{
		"PATH=" + n.containerdBin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root",
		"HOSTNAME=" + n.Name,
	}, extra...)
}

// Pid is the process's id as the test sees it, which is not the one that it
// has on the node.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal; one that comes too late is not an error.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL)
	<-p.done
}

// Stop ends the process with SIGTERM, or with SIGKILL if it still runs after
// the grace time. It returns whether SIGTERM was enough.
func (p *Process) Stop(grace time.Duration) bool {
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return true
	case <-time.After(grace):
		p.Kill()
		return false
	}
}

// ExitCode of an ended process; -1 if a signal ended it.
func (p *Process) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}
