package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// Lock is a file that only one kubelet of the machine holds at a time.
type Lock struct {
	file      *os.File
	events    *os.File // inotify; nil if contention does not matter
	contended chan struct{}
	once      sync.Once
}

// AcquireLock takes the lock of the file at path, which is created if it is
// missing, and waits until its holder lets it go or ctx ends. With
// watchContention, Contended is closed when somebody else opens the file or
// removes it: the holder is then expected to end and make room.
func AcquireLock(ctx context.Context, path string, watchContention bool) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err := flock(ctx, file); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	l := &Lock{file: file, contended: make(chan struct{})}
	if !watchContention {
		return l, nil
	}
	// Our own open lies before the watch and is not seen.
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("watch lock file: %w", err)
	}
	l.events = os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_OPEN|unix.IN_DELETE_SELF); err != nil {
		l.Close()
		return nil, fmt.Errorf("watch lock file %s: %w", path, err)
	}
	go func() {
		var event [unix.SizeofInotifyEvent + unix.NAME_MAX + 1]byte
		if _, err := l.events.Read(event[:]); err == nil {
			close(l.contended)
		}
	}()
	return l, nil
}

// flock takes the lock. flock(2) cannot be interrupted from another goroutine,
// so if ctx ends first the call goes on, and the file is closed after it.
func flock(ctx context.Context, file *os.File) error {
	fd := int(file.Fd())
	err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		file.Close()
		return err
	}
	klog.FromContext(ctx).Info("Waiting for the lock file, another process holds it", "path", file.Name())
	done := make(chan error, 1)
	go func() {
		for {
			if err := unix.Flock(fd, unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		if err != nil {
			file.Close()
		}
		return err
	case <-ctx.Done():
		go func() {
			<-done
			file.Close()
		}()
		return ctx.Err()
	}
}

// Contended is closed when somebody else wants the lock. It stays open if
// contention is not watched.
func (l *Lock) Contended() <-chan struct{} { return l.contended }

// Close lets the lock go. The file stays, so that everybody locks the same one.
func (l *Lock) Close() {
	l.once.Do(func() {
		if l.events != nil {
			l.events.Close()
		}
		l.file.Close()
	})
}
