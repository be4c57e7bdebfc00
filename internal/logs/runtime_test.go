package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

// runtimeLog writes a container's log as containerd does: a line in two
// entries where the file is changed, the new file made before the last entry
// is written to the old one.
type runtimeLog struct {
	mu      sync.Mutex
	path    string
	file    *os.File
	pending []byte // of a line that is not ended
	fail    error  // of reopen
	after   bool   // fail only after it was done
	reopens int
}

func newRuntimeLog(t testing.TB, path string) *runtimeLog {
	l := &runtimeLog{path: path}
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

func (l *runtimeLog) open() (err error) {
	l.file, err = os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	return err
}

func (l *runtimeLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush(l.file)
	l.file.Close()
}

func (l *runtimeLog) flush(f *os.File) {
	if len(l.pending) > 0 {
		fmt.Fprintf(f, "%s stdout P %s\n", time.Now().Format(time.RFC3339Nano), l.pending)
		l.pending = nil
	}
}

// Write takes what the container writes.
func (l *runtimeLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(b)
	var out []byte
	for len(b) > 0 {
		text, rest, ended := bytes.Cut(b, []byte{'\n'})
		l.pending = append(l.pending, text...)
		if ended {
			out = fmt.Appendf(out, "%s stdout F %s\n", time.Now().Format(time.RFC3339Nano), l.pending)
			l.pending = l.pending[:0]
		}
		b = rest
	}
	_, err := l.file.Write(out)
	return n, err
}

// refuse lets calls fail from now on; with after, after they did their work.
func (l *runtimeLog) refuse(err error, after bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail, l.after = err, after
}

// count is how often the runtime was asked.
func (l *runtimeLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reopens
}

// ReopenContainerLog is the runtime's.
func (l *runtimeLog) ReopenContainerLog(_ context.Context, id string) error {
	if id != testID {
		return errors.New("no such container")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reopens++; l.fail != nil && !l.after {
		return l.fail
	}
	old := l.file
	if err := l.open(); err != nil {
		return err
	}
	l.flush(old)
	old.Close()
	return l.fail
}
