package cri

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// holder keeps the connection to the runtime open for a while after this
// process was killed.
//
// A runtime cancels the calls of a client whose connection breaks, wherever
// they stand. containerd that is cancelled in the middle of a start takes the
// container for failed and can leave a task behind that it cannot remove any
// more. So a shell holds a copy of the connection's descriptor: the kernel
// closes a socket only when the last copy is closed, and the calls run to
// their end. Nobody reads the answers; the next kubelet finds what the calls
// did.
//
// The shell blocks in read until our end of its pipe is closed, which the
// kernel does for a process that was killed, then sleeps for as long as a call
// may take. It is a shell because a second process of this program would cost
// ten times its memory.
type holder struct {
	// detach, if set, is told the shell's process.
	detach func(pid int)

	mu    sync.Mutex
	shell *exec.Cmd
	alive *os.File
}

// holdScript reads from descriptor 3, the pipe; descriptor 4 is the
// connection. The seconds are a little more than RunPodSandbox may take.
const holdScript = `read _ <&3; exec sleep 300`

// hold lets a shell hold the connection, in place of the one before. Without
// a shell on the machine nothing is held.
func (h *holder) hold(conn net.Conn) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return
	}
	h.release()
	file, err := unix.File()
	if err != nil {
		return
	}
	defer file.Close()
	wait, alive, err := os.Pipe()
	if err != nil {
		return
	}
	defer wait.Close()
	shell := exec.Command("/bin/sh", "-c", holdScript)
	shell.ExtraFiles = []*os.File{wait, file}
	shell.Dir = "/"
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = shell.Start()
	// Handing a file to a process makes its description blocking, ours too:
	// a read of the connection could not be interrupted any more.
	if serr := setNonblock(unix); err != nil || serr != nil {
		alive.Close()
		if err == nil {
			_ = shell.Process.Kill()
			_ = shell.Wait()
		}
		return
	}
	h.mu.Lock()
	h.shell, h.alive = shell, alive
	h.mu.Unlock()
	if h.detach != nil {
		h.detach(shell.Process.Pid)
	}
}

func setNonblock(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = syscall.SetNonblock(int(fd), true) })
	return errors.Join(err, cerr)
}

// release ends the shell.
func (h *holder) release() {
	h.mu.Lock()
	shell, alive := h.shell, h.alive
	h.shell, h.alive = nil, nil
	h.mu.Unlock()
	if shell == nil {
		return
	}
	_ = shell.Process.Kill()
	_ = shell.Wait()
	alive.Close()
}
