package cri

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// The peer of a held connection must not see its end when our side is gone,
// and our side must stay interruptible.
func TestHeldConnectionOutlivesItsClient(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	var h holder
	h.hold(client)
	if h.shell == nil {
		t.Fatal("no shell holds the connection")
	}
	defer h.release()

	// A read under way ends when the connection is closed.
	read := make(chan error, 1)
	go func() {
		_, err := client.Read(make([]byte, 1))
		read <- err
	}()
	client.Close()
	if err := <-read; err == nil {
		t.Error("the read ended without an error")
	}

	// The peer sees nothing of it until the shell ends.
	if err := peer.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Fatalf("the peer reads %v while the connection is held, want nothing", err)
	}
	if err := peer.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	pid := h.shell.Process.Pid
	h.release()
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer reads %v after the release, want the end", err)
	}
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("shell %d is left", pid)
	}
}
