package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/observed"
)

// reading is a Read that goes on.
type reading struct {
	t      testing.TB
	mu     sync.Mutex
	text   bytes.Buffer
	found  bool
	grown  chan struct{}
	ended  chan error
	cancel context.CancelFunc
}

func (r *reading) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found = true
	n, err := r.text.Write(b)
	signal(r.grown)
	return n, err
}

func (w *world) follow(opts v1.PodLogOptions) *reading {
	ctx, cancel := context.WithCancel(context.Background())
	r := &reading{t: w.t, grown: make(chan struct{}, 1), ended: make(chan error, 1), cancel: cancel}
	w.t.Cleanup(cancel)
	opts.Follow = true
	go func() { r.ended <- w.r.Read(ctx, testPod(), testID, &opts, r, r) }()
	return r
}

// expect waits until that is all that was read.
func (r *reading) expect(want string) {
	r.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		got, found := r.text.String(), r.found
		r.mu.Unlock()
		if found && got == want {
			return
		}
		select {
		case <-r.grown:
		case <-deadline:
			r.t.Fatalf("read %q, want %q", got, want)
		}
	}
}

// end waits for the reading to end.
func (r *reading) end() (string, error) {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return r.text.String(), err
	case <-time.After(20 * time.Second):
		r.t.Fatalf("following does not end; read %d bytes", r.text.Len())
		return "", nil
	}
}

func (w *world) rename(from, to string) {
	w.t.Helper()
	if err := os.Rename(w.path(from), w.path(to)); err != nil {
		w.t.Fatal(err)
	}
}

func TestFollow(t *testing.T) {
	w := newWorld(t)
	l := newRuntimeLog(t, w.path("0.log"))
	fmt.Fprintln(l, "one")
	r := w.follow(v1.PodLogOptions{})
	r.expect("one\n")
	fmt.Fprintln(l, "two")
	r.expect("one\ntwo\n")

	// Rotation: the old file is read to its end, then the new one.
	w.rename("0.log", "0.log.20260102-030405")
	fmt.Fprint(l, "three\nfo")
	r.expect("one\ntwo\nthree\n")
	if err := l.ReopenContainerLog(t.Context(), testID); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l, "ur")
	r.expect("one\ntwo\nthree\nfour\n")

	// It ends with the container, and not before all was written.
	fmt.Fprint(l, "last")
	w.state(observed.Exited)
	l.close()
	got, err := r.end()
	if want := "one\ntwo\nthree\nfour\nlast"; err != nil || got != want {
		t.Errorf("read %q, %v; want %q", got, err, want)
	}
}

func TestFollowBegins(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts v1.PodLogOptions
		want string
	}{
		{"at the beginning", v1.PodLogOptions{}, "a\nb\nc\nnew\n"},
		{"with a tail", v1.PodLogOptions{TailLines: ptr[int64](2)}, "b\nc\nnew\n"},
		{"at the end", v1.PodLogOptions{TailLines: ptr[int64](0)}, "new\n"},
		{"until the limit", v1.PodLogOptions{LimitBytes: ptr[int64](7)}, "a\nb\nc\nn"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.file("0.log.20260102-030405.gz", []byte(at(1)+" stdout F a\n"))
			l := newRuntimeLog(t, w.path("0.log"))
			fmt.Fprint(l, "b\nc\n")
			r := w.follow(tc.opts)
			r.expect(tc.want[:strings.Index(tc.want, "n")])
			fmt.Fprintln(l, "new")
			r.expect(tc.want)
			w.state(observed.Exited)
			l.close()
			if _, err := r.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A line of which the runtime has written only the beginning is not lost.
func TestFollowFromTheMiddleOfALine(t *testing.T) {
	w := newWorld(t)
	w.file("0.log", []byte(at(1)+" stdout F a\n"+at(2)+" std"))
	r := w.follow(v1.PodLogOptions{TailLines: ptr[int64](0)})
	f, err := os.OpenFile(w.path("0.log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "out F b")
	r.expect("b")
	fmt.Fprint(f, "c\n")
	r.expect("bc\n")
	w.state(observed.Exited)
	f.Close()
	if _, err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestFollowEnds(t *testing.T) {
	for name, end := range map[string]func(w *world, r *reading, l *runtimeLog){
		"container exited": func(w *world, r *reading, l *runtimeLog) {
			w.state(observed.Exited)
			l.close()
		},
		"closed before anybody knew of the exit": func(w *world, r *reading, l *runtimeLog) {
			l.close()
			w.state(observed.Exited)
		},
		"container removed": func(w *world, r *reading, l *runtimeLog) {
			l.close()
			w.table.Set(observed.Pod{UID: testUID, At: time.Now()})
		},
		"log removed": func(w *world, r *reading, l *runtimeLog) {
			l.close()
			if err := os.RemoveAll(w.dir); err != nil {
				w.t.Fatal(err)
			}
			w.table.Set(observed.Pod{UID: testUID, At: time.Now()})
		},
		"rotated and never opened anew": func(w *world, r *reading, l *runtimeLog) {
			w.rename("0.log", "0.log.20260102-030405")
			l.close()
			w.state(observed.Exited)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			l := newRuntimeLog(t, w.path("0.log"))
			fmt.Fprintln(l, "a")
			r := w.follow(v1.PodLogOptions{})
			r.expect("a\n")
			end(w, r, l)
			if got, err := r.end(); err != nil || got != "a\n" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	t.Run("reader left", func(t *testing.T) {
		w := newWorld(t)
		newRuntimeLog(t, w.path("0.log"))
		before := runtime.NumGoroutine()
		r := w.follow(v1.PodLogOptions{})
		r.cancel()
		if _, err := r.end(); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if len(w.r.followers) != 0 || w.r.watch.users != 0 {
			t.Errorf("left behind: %v, %d", w.r.followers, w.r.watch.users)
		}
		for i := 0; runtime.NumGoroutine() > before; i++ {
			if i == 1000 {
				t.Fatal("goroutine left behind")
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// A follower that is too slow for the retention goes on with the oldest file
// that is left, and shows nothing twice.
func TestFollowSlowly(t *testing.T) {
	w := newWorld(t)
	l := newRuntimeLog(t, w.path("0.log"))
	var got bytes.Buffer
	proceed, ended := make(chan struct{}), make(chan error, 1)
	first := true
	go func() {
		ended <- w.r.Read(context.Background(), testPod(), testID, &v1.PodLogOptions{Follow: true}, writerFunc(func(b []byte) (int, error) {
			if len(b) > 0 && first {
				first = false
				proceed <- struct{}{}
				<-proceed
			}
			return got.Write(b)
		}), nil)
	}()
	fmt.Fprintln(l, "0")
	<-proceed
	for i := 1; i <= 5; i++ {
		name := fmt.Sprintf("0.log.20260102-03040%d", i)
		w.rename("0.log", name)
		if err := l.ReopenContainerLog(t.Context(), testID); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(l, i)
		if i > 3 {
			if err := os.Remove(w.path(fmt.Sprintf("0.log.20260102-03040%d", i-3))); err != nil {
				t.Fatal(err)
			}
		}
	}
	// 1 and 2 are in files that are gone; the one of 0 is gone, but open.
	proceed <- struct{}{}
	w.state(observed.Exited)
	l.close()
	if err := <-ended; err != nil || got.String() != "0\n2\n3\n4\n5\n" {
		t.Errorf("got %q, %v", got.String(), err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Lines come as fast as they do through a pipe, and one inotify instance
// serves any number of followers.
func TestManyFollowersShareOneInstance(t *testing.T) {
	w := newWorld(t)
	l := newRuntimeLog(t, w.path("0.log"))
	var rs []*reading
	for range 300 { // fs.inotify.max_user_instances is 128 by default
		rs = append(rs, w.follow(v1.PodLogOptions{}))
	}
	fmt.Fprintln(l, "a")
	for _, r := range rs {
		r.expect("a\n")
	}
	fmt.Fprintln(l, "b")
	for _, r := range rs {
		r.expect("a\nb\n")
	}
	if n := inotifyInstances(t); n > 2 {
		t.Errorf("%d inotify instances are open", n)
	}
	w.state(observed.Exited)
	l.close()
	for _, r := range rs {
		if _, err := r.end(); err != nil {
			t.Error(err)
		}
	}
}

func inotifyInstances(t *testing.T) (n int) {
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); strings.Contains(to, "inotify") {
			n++
		}
	}
	return n
}
