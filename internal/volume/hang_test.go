package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/volume"
)

// deadServer mounts a FUSE file system whose server never answers, as a dead
// NFS server does. stop ends all waiting for it.
func deadServer(t *testing.T, dir string) (stop func()) {
	must(t, os.MkdirAll(dir, 0o755))
	// Not by os.Open, whose file Go's poller would read from.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	must(t, unix.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)))
	stop = sync.OnceFunc(func() { unix.Close(fd) })
	t.Cleanup(func() {
		stop()
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	return stop
}

// One dead file system holds up the one pod that asks for it, says so, and
// does not pile up waiting goroutines.
func TestHostPathOnDeadServer(t *testing.T) {
	needRoot(t)
	n := newNode(t)
	dead := filepath.Join(n.base, "nfs")
	stop := deadServer(t, dead)
	pod := newPod("uid-1", hostPath("data", filepath.Join(dead, "x"), v1.HostPathDirectory), emptyDir("scratch", ""))
	r := n.start()
	mount := func() error {
		ctx, cancel := context.WithTimeout(quiet(), 30*time.Millisecond)
		defer cancel()
		_, err := r.Mount(ctx, pod)
		return err
	}
	err := mount()
	if err == nil || !errors.Is(err, context.DeadlineExceeded) ||
		!strings.Contains(err.Error(), `volume "data"`) || !strings.Contains(err.Error(), dead) || !strings.Contains(err.Error(), "hangs") {
		t.Fatalf("error %v, want one that says that looking at %s for volume data hangs", err, dead)
	}
	before := runtime.NumGoroutine()
	for range 10 {
		_ = mount()
	}
	if after := runtime.NumGoroutine(); after > before+3 { // some are just ending
		t.Errorf("%d goroutines, %d after ten more tries", before, after)
	}

	_, err = r.Mount(quiet(), newPod("uid-2", emptyDir("scratch", "")))
	must(t, err)
	// The pod can be deleted although its volume hangs.
	must(t, r.Unmount(quiet(), pod.UID))
	n.clean(pod.UID)

	stop()
	if err := mount(); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v after the server's end, want its last word", err)
	}
}

// slow is a volume type whose calls take until they are let go.
type slow struct {
	running, overlaps atomic.Int32
	hold              chan struct{}
}

func (*slow) Name() string              { return "example.com/slow" }
func (*slow) Supports(*v1.Volume) bool  { return true }
func (*slow) Immediate(*v1.Volume) bool { return false }

func (s *slow) work(step volume.Step) error {
	if s.running.Add(1) > 1 {
		s.overlaps.Add(1)
	}
	defer s.running.Add(-1)
	if err := step("stage", "/dev/x"); err != nil {
		return err
	}
	<-s.hold
	return nil
}

func (s *slow) Mount(_ context.Context, spec volume.Spec) (volume.Mount, error) {
	if spec.Volume.Name == "quick" {
		return volume.Mount{Path: spec.Dir}, nil
	}
	if err := os.MkdirAll(spec.Dir, 0o750); err != nil {
		return volume.Mount{}, err
	}
	return volume.Mount{Path: spec.Dir}, s.work(spec.Step)
}

func (s *slow) Unmount(_ context.Context, target volume.Target) error {
	return s.work(target.Step)
}

func newSlow(t *testing.T) (*slow, *volume.Reconciler) {
	s := &slow{hold: make(chan struct{})}
	r, err := volume.New(volume.Config{Root: t.TempDir(), Plugins: []volume.Plugin{s}, Objects: volume.Standalone{}})
	must(t, err)
	return s, r
}

func TestHangIsNamedAndStaysInItsPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newSlow(t)
		ctx, cancel := context.WithTimeout(quiet(), time.Second)
		defer cancel()
		_, err := r.Mount(ctx, newPod("uid-1", emptyDir("data", ""), emptyDir("quick", "")))
		var ve *volume.Error
		if !errors.As(err, &ve) || ve.Volume != "data" || !strings.Contains(err.Error(), "stage /dev/x, for 1.1s now") {
			t.Errorf("error %v, want that volume data hangs in stage /dev/x", err)
		}

		// Others go on, the pod itself waits its turn and says for what.
		_, err = r.Mount(quiet(), newPod("uid-2", emptyDir("quick", "")))
		must(t, err)
		ctx, cancel = context.WithTimeout(quiet(), time.Second)
		defer cancel()
		if err := r.Unmount(ctx, "uid-1"); err == nil || !strings.Contains(err.Error(), "stage /dev/x") {
			t.Errorf("Unmount meanwhile: %v, want that stage /dev/x is under way", err)
		}
		close(s.hold)
		must(t, r.Unmount(quiet(), "uid-1"))
	})
}

func TestCallsOfOnePodNeverOverlap(t *testing.T) {
	s, r := newSlow(t)
	close(s.hold)
	pod := newPod("uid-1", emptyDir("data", ""))
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			if i%2 == 0 {
				if _, err := r.Mount(quiet(), pod); err != nil {
					t.Error(err)
				}
			} else if err := r.Unmount(quiet(), pod.UID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s.overlaps.Load() > 0 {
		t.Errorf("%d calls overlapped", s.overlaps.Load())
	}
	must(t, r.Unmount(quiet(), types.UID("uid-1")))
}
