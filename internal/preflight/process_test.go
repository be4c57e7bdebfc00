package preflight

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func execMissing(_ context.Context, name string, _ ...string) (string, error) {
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

// writeRefused sets a setting whose file cannot be written, not even by root,
// because it has turned into a directory.
func writeRefused(t *testing.T, root string, values map[string]string, gate bool, r *Report, s kernelSetting) error {
	t.Helper()
	path := filepath.Join(root, "proc/sys", s.path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := &Config{Root: root, TolerateUserNamespace: gate}
	return setKernelSetting(cfg, r, s, values["proc/sys/"+s.path])
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubelet.lock")
	first, err := AcquireLock(t.Context(), path, true)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.Contended():
		t.Fatal("contended before anybody came")
	default:
	}

	got := make(chan error, 1)
	go func() {
		second, err := AcquireLock(t.Context(), path, false)
		if err == nil {
			second.Close()
		}
		got <- err
	}()
	<-first.Contended() // the second one's open
	select {
	case err := <-got:
		t.Fatalf("two holders (%v)", err)
	default:
	}
	first.Close()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

func TestLockWaitEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubelet.lock")
	holder, err := AcquireLock(t.Context(), path, false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := AcquireLock(ctx, path, false); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	holder.Close()
}

// Also somebody who only opens the file, without locking, is seen.
func TestLockContentionByOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubelet.lock")
	l, err := AcquireLock(t.Context(), path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	<-l.Contended()
}

func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent, checks atomic.Int32
		var alive atomic.Pointer[func() error]
		answer := func(f func() error) { alive.Store(&f) }
		answer(func() error { return nil })
		w, err := NewWatchdog(WatchdogConfig{
			Alive:   func(context.Context) error { checks.Add(1); return (*alive.Load())() },
			send:    func(string) error { sent.Add(1); return nil },
			timeout: func() (time.Duration, error) { return 20 * time.Second, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()

		time.Sleep(25 * time.Second) // at 0, 10, 20 s
		synctest.Wait()
		if n := sent.Load(); n != 3 {
			t.Errorf("sent %d times in 25 s, want 3", n)
		}
		answer(func() error { return errors.New("a worker hangs") })
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if sent.Load() != 3 {
			t.Error("sent although the kubelet is not alive")
		}
		// A check that ignores its deadline neither counts as alive nor piles up.
		hung := make(chan struct{})
		answer(func() error { <-hung; return nil })
		before := checks.Load()
		time.Sleep(60 * time.Second)
		synctest.Wait()
		if sent.Load() != 3 || checks.Load() != before+1 {
			t.Errorf("hung check: sent %d (want 3), %d checks at once (want 1)", sent.Load(), checks.Load()-before)
		}
		close(hung)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := sent.Load(); n != 4 {
			t.Errorf("sent %d times after the check came back, want 4", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestWatchdogRefusesShortTimeouts(t *testing.T) {
	for timeout, ok := range map[time.Duration]bool{0: true, time.Second: false, time.Second + 1: true} {
		w, err := NewWatchdog(WatchdogConfig{
			Alive:   func(context.Context) error { return nil },
			timeout: func() (time.Duration, error) { return timeout, nil },
		})
		if (err == nil) != ok {
			t.Errorf("%s: %v", timeout, err)
		} else if ok && w.Enabled() != (timeout > 0) {
			t.Errorf("%s: enabled is %t", timeout, w.Enabled())
		}
	}
}
