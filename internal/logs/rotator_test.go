package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/observed"
)

// links records whose links were to be removed.
type links struct {
	mu      sync.Mutex
	targets []string
}

func (l *links) UnlinkTarget(_, _, _, target string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.targets = append(l.targets, filepath.Base(target))
	return nil
}

// rotate runs a Rotator until the test ends, or stop is called.
func (w *world) rotate(c RotatorConfig) (r *Rotator, stop func()) {
	w.t.Helper()
	c.Table, c.PodLogsDir = w.table, w.root
	if c.Links == nil {
		c.Links = &links{}
	}
	if c.MaxFiles == 0 {
		c.MaxFiles = 5
	}
	c.Workers, c.MonitorInterval = 1, time.Second
	r, err := NewRotator(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.rotator.Store(r)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
		ended <- nil
	}
	w.t.Cleanup(stop)
	return r, stop
}

// eventually waits for what another goroutine does to files.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// names lists the files, oldest first, with the times taken off.
func (w *world) names() (names []string) {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		n := e.Name()
		if stamp := stampOf("0.log", n); stamp != "" {
			n = strings.Replace(n, stamp, "T", 1)
		}
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) })
	return names
}

func (w *world) has(want ...string) func() bool {
	return func() bool { return slices.Equal(w.names(), want) }
}

// whole is the log as it can be read.
func (w *world) whole() string {
	w.t.Helper()
	got, err := w.read(v1.PodLogOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

func TestRotate(t *testing.T) {
	w := newWorld(t)
	l := newRuntimeLog(t, w.path("0.log"))
	w.rotate(RotatorConfig{Runtime: l, MaxSize: 100, MaxFiles: 4})
	var want string
	write := func(i int) {
		text := fmt.Sprintf("%d %s\n", i, strings.Repeat("x", 100))
		want += text
		fmt.Fprint(l, text)
	}
	for i, names := range [][]string{
		{"0.log.T", "0.log"},
		{"0.log.T.gz", "0.log.T", "0.log"},
		{"0.log.T.gz", "0.log.T.gz", "0.log.T", "0.log"},
		{"0.log.T.gz", "0.log.T.gz", "0.log.T", "0.log"}, // the oldest goes
	} {
		before := l.count()
		write(i)
		eventually(t, fmt.Sprintf("rotation %d", i+1), func() bool { return l.count() > before && w.has(names...)() })
	}
	if got := w.whole(); got != want[strings.Index(want, "1 "):] {
		t.Errorf("read %q of %q", got, want)
	}
	// The files are what other tools expect: gzip, permissions and times kept.
	zips, _ := filepath.Glob(w.path("*.gz"))
	f, err := os.Open(zips[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if content, err := io.ReadAll(z); err != nil || !bytes.Contains(content, []byte(" stdout F 1 ")) {
		t.Errorf("oldest file holds %q, %v", content, err)
	}
	if info, _ := f.Stat(); info.Mode().Perm() != 0o640 {
		t.Errorf("compressed file has mode %v", info.Mode())
	}
}

// A log that nobody writes to is left to inotify: no timer, no look.
// still makes a Rotator whose loop the test itself is.
func (w *world) still(runtime Runtime) *Rotator {
	w.t.Helper()
	r, err := NewRotator(RotatorConfig{Runtime: runtime, Table: w.table, Links: &links{}, PodLogsDir: w.root,
		MaxSize: 1 << 20, MaxFiles: 5, Workers: 1, MonitorInterval: 10 * time.Second})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := r.watch.join(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.watch.leave)
	r.ctx, r.shutdown = w.t.Context(), context.Background()
	return r
}

func TestStillLogIsNotLookedAt(t *testing.T) {
	w := newWorld(t)
	l := newRuntimeLog(t, w.path("0.log"))
	fmt.Fprintln(l, "a")
	r := w.still(l)
	now := time.Unix(1e9, 0)
	r.now = func() time.Time { return now }
	r.pod(testUID)
	(<-r.results)() // mended
	looks := 0
	settle := func() {
		for {
			next := r.lookAtDue()
			if next.IsZero() {
				return
			}
			if looks++; looks > 100 {
				t.Fatal("it is looked at for ever")
			}
			now = next
		}
	}
	settle()
	if looks == 0 || looks > 3 {
		t.Errorf("%d looks at a still log", looks)
	}
	// A write wakes the loop, which looks, and rests again.
	fmt.Fprintln(l, "b")
	<-r.wake
	r.mail()
	if next := r.lookAtDue(); next.IsZero() {
		t.Error("not looked at after a write")
	}
	looks = 0
	settle()
	if looks == 0 || looks > 3 {
		t.Errorf("%d looks after a write", looks)
	}
}

// elsewhere is a runtime that opens logs anew, but not where the kubelet looks.
type elsewhere struct{ asked int }

func (e *elsewhere) ReopenContainerLog(context.Context, string) error { e.asked++; return nil }

func TestLogThatIsElsewhereIsAskedForOnce(t *testing.T) {
	w := newWorld(t)
	runtime := &elsewhere{}
	r := w.still(runtime)
	r.pod(testUID)
	(<-r.results)()
	if next := r.lookAtDue(); !next.IsZero() || runtime.asked != 1 {
		t.Errorf("asked %d times to open it anew, next look at %v; want once and never", runtime.asked, next)
	}
}

// However fast a log grows, up to the assumed burst, it is found within the
// margin of its limit, give or take what it grows between two looks.
func TestForecast(t *testing.T) {
	for _, limit := range []int64{1 << 20, 10 << 20, 100 << 20, 1 << 30} {
		for _, speed := range []float64{100, 10e3, 1e6, 10e6, 50e6, burst} {
			for _, change := range []float64{1, 1.4, 0.5, 50e6 / speed} { // after half of the way
				f := forecast{limit: limit}
				now := time.Unix(1e9, 0)
				size := float64(0)
				looks := 0
				for wait := f.begin(now, 0); ; wait = f.look(now, int64(size)) {
					if wait == 0 { // grew by less than a byte: at rest until the next write
						wait = time.Duration(float64(time.Second) / speed)
					}
					s := speed
					if size > float64(limit)/2 {
						s = min(speed*change, burst)
					}
					size += s * wait.Seconds()
					now = now.Add(wait)
					if looks++; size >= float64(limit) || looks > 1e5 {
						break
					}
				}
				if size > 1.1*float64(limit)+burst*nextLook.Seconds() {
					t.Errorf("limit %d, %.0f B/s, then times %.1f: found at %.2f of the limit", limit, speed, change, size/float64(limit))
				}
			}
		}
	}
}

func TestNextStamp(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	for _, tc := range []struct{ newest, want string }{
		{"", "20260102-030405"},
		{"0.log.20260102-030404", "20260102-030405"},
		{"0.log.20260102-030405.gz", "20260102-030406"}, // twice in a second
		{"0.log.20260102-035959", "20260102-040000"},    // the clock was set back
	} {
		var names []string
		if tc.newest != "" {
			names = []string{"0.log.20250101-000000.gz", tc.newest}
		}
		if got := nextStamp("0.log", names, now); got != tc.want {
			t.Errorf("after %q: %s, want %s", tc.newest, got, tc.want)
		}
	}
}

// A runtime that refuses gets its file back under its name, and nothing is
// lost; nor is it when the runtime did what it said it did not.
func TestRuntimeRefuses(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after it was done: %v", after), func(t *testing.T) {
			w := newWorld(t)
			l := newRuntimeLog(t, w.path("0.log"))
			l.refuse(errors.New("busy"), after)
			w.rotate(RotatorConfig{Runtime: l, MaxSize: 10})
			fmt.Fprintln(l, "one, which is long enough")
			eventually(t, "attempts", func() bool { return l.count() > 1 })
			fmt.Fprint(l, "two, ")
			l.refuse(nil, false)
			eventually(t, "rotation", func() bool {
				names := w.names()
				return len(names) > 1 && names[len(names)-1] == "0.log"
			})
			fmt.Fprintln(l, "and three")
			eventually(t, "all lines", func() bool { return w.whole() == "one, which is long enough\ntwo, and three\n" })
		})
	}
}

// Whatever a kubelet that was killed left half done, the next one gets on
// with it, and no line is lost or shown twice.
func TestRepair(t *testing.T) {
	const a, b, c = "a is the oldest\n", "b is next\n", "c is the newest\n"
	entries := func(text string) []byte { return []byte(at(1) + " stdout F " + text) }
	for _, tc := range []struct {
		name string
		// prepare leaves the files as they are when the kubelet is killed;
		// the runtime has written c and writes on to the file that it has.
		prepare func(w *world)
		reopens int // that the next kubelet has to ask for
		names   []string
		read    string
	}{
		{"nothing to mend", func(w *world) {}, 0, []string{"0.log"}, c},
		{"renamed and not opened anew", func(w *world) {
			w.file("0.log.20200102-030401", entries(b))
			w.rename("0.log", "0.log.20200102-030402")
		}, 1, []string{"0.log.T.gz", "0.log.T", "0.log"}, b + c},
		{"opened anew, and the runtime does not know", func(w *world) {
			w.rename("0.log", "0.log.20200102-030402")
			w.file("0.log", nil)
		}, 1, []string{"0.log.T", "0.log"}, c},
		{"too many left", func(w *world) {
			for i := range 5 {
				w.file(fmt.Sprintf("0.log.20200102-03040%d.gz", i), entries(a))
			}
			w.file("0.log.20200102-030409", entries(b))
		}, 0, []string{"0.log.T.gz", "0.log.T.gz", "0.log.T", "0.log"}, a + a + b + c},
		{"half compressed", func(w *world) {
			w.file("0.log.20200102-030400", entries(a))
			w.file("0.log.20200102-030400.tmp", []byte("\x1f\x8bhalf"))
			w.file("0.log.20200102-030401", entries(b))
		}, 0, []string{"0.log.T.gz", "0.log.T", "0.log"}, a + b + c},
		{"compressed, and the plain one still there", func(w *world) {
			w.file("0.log.20200102-030400", entries(a))
			w.file("0.log.20200102-030400.gz", entries(a))
			w.file("0.log.20200102-030401", entries(b))
		}, 0, []string{"0.log.T.gz", "0.log.T", "0.log"}, a + b + c},
		{"files of other attempts and of others", func(w *world) {
			w.file("1.log.20200102-030400.tmp", nil)
			w.file("0.log.old", nil)
			w.file("notes", nil)
		}, 0, []string{"notes", "1.log.20200102-030400.tmp", "0.log.old", "0.log"}, c},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			l := newRuntimeLog(t, w.path("0.log"))
			fmt.Fprint(l, c)
			tc.prepare(w)
			w.rotate(RotatorConfig{Runtime: l, MaxSize: 1 << 20, MaxFiles: 4})
			eventually(t, "the runtime is asked", func() bool { return l.count() >= tc.reopens })
			eventually(t, fmt.Sprintf("files %v; they are %v", tc.names, w.names()), w.has(tc.names...))
			fmt.Fprint(l, "d\n")
			eventually(t, "the line written after the repair, in the right file", func() bool {
				newest, err := os.ReadFile(w.path("0.log"))
				return err == nil && bytes.HasSuffix(newest, []byte(" stdout F d\n"))
			})
			if got := w.whole(); got != tc.read+"d\n" {
				t.Errorf("read %q, want %q", got, tc.read+"d\n")
			}
		})
	}
}

// Every byte of a fast writer arrives once, in order, across rotations, in a
// follower and in what is read later.
func TestNothingIsLostAcrossRotations(t *testing.T) {
	w := newWorld(t)
	l := newRuntimeLog(t, w.path("0.log"))
	r, _ := w.rotate(RotatorConfig{Runtime: l, MaxSize: 1 << 20, MaxFiles: 1000})
	follower := w.follow(v1.PodLogOptions{})
	tail := w.follow(v1.PodLogOptions{TailLines: ptr[int64](0)})
	eventually(t, "followers", func() bool {
		tail.mu.Lock()
		defer tail.mu.Unlock()
		return tail.found
	})
	rnd := rand.New(rand.NewPCG(1, 2))
	var want bytes.Buffer
	for i := 0; want.Len() < 40<<20; i++ {
		// Pieces that do not end with lines, as a pipe delivers them.
		piece := bytes.Repeat([]byte{byte('a' + i%26)}, 1+rnd.IntN(8<<10))
		for range rnd.IntN(20) {
			piece[rnd.IntN(len(piece))] = '\n'
		}
		want.Write(piece)
		if _, err := l.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	l.close()
	w.state(observed.Exited)
	for name, f := range map[string]*reading{"from the beginning": follower, "from the end": tail} {
		got, err := f.end()
		if err != nil || got != want.String() {
			t.Errorf("followed %s: %d bytes of %d, %v; %s", name, len(got), want.Len(), err, firstDifference(got, want.String()))
		}
	}
	if l.count() < 3 {
		t.Errorf("only %d rotations", l.count())
	}
	_ = r
	if got := w.whole(); got != want.String() {
		t.Errorf("read afterwards: %d bytes of %d; %s", len(got), want.Len(), firstDifference(got, want.String()))
	}
	t.Logf("%d rotations", l.count())
}

func TestLogsOfDeadContainersGo(t *testing.T) {
	w := newWorld(t)
	for _, n := range []string{"0.log", "0.log.20260102-030405.gz", "0.log.20260102-030406", "1.log", "2.log", "2.log.20260102-030405", "3.log", "notes"} {
		w.file(n, nil)
	}
	gone := &links{}
	w.rotate(RotatorConfig{Runtime: newRuntimeLog(t, w.path("2.log")), MaxSize: -1, Links: gone})
	have := func(attempts ...uint32) {
		p := observed.Pod{UID: testUID, Name: "web", Namespace: "ns", At: time.Now()}
		for _, a := range attempts {
			p.Containers = append(p.Containers, observed.Container{ID: fmt.Sprint(a), Name: "app", Attempt: a, State: observed.Exited})
		}
		w.table.Set(p)
	}
	have(2, 1)
	eventually(t, "0 goes; 3 may be about to come", w.has("notes", "3.log", "2.log.20260102-030405", "2.log", "1.log"))
	have(3, 2)
	eventually(t, "1 goes", w.has("notes", "3.log", "2.log.20260102-030405", "2.log"))
	have(3)
	eventually(t, "2 goes", func() bool {
		gone.mu.Lock()
		defer gone.mu.Unlock()
		return w.has("notes", "3.log")() && len(gone.targets) == 3
	})
	gone.mu.Lock()
	defer gone.mu.Unlock()
	if want := []string{"0.log", "1.log", "2.log"}; !slices.Equal(gone.targets, want) {
		t.Errorf("links to %v went, want %v", gone.targets, want)
	}
}
