package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/observed"
)

const (
	testUID = types.UID("7a0e")
	testID  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

func testPod() *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: testUID}}
}

// world is a directory of logs and what the runtime has.
type world struct {
	t     testing.TB
	root  string
	dir   string // of the one container, "app"
	table *observed.Table
	r     *Reader
	// rotator is woken as well, once there is one.
	rotator atomic.Pointer[Rotator]
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, root: filepath.Join(t.TempDir(), "pods")}
	w.dir = filepath.Join(w.root, "ns_web_"+string(testUID), "app")
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.table = observed.NewTable(func(uid types.UID) {
		if w.r != nil {
			w.r.Wake(uid)
		}
		if r := w.rotator.Load(); r != nil {
			r.Wake(uid)
		}
	})
	var err error
	if w.r, err = NewReader(ReaderConfig{Table: w.table, PodLogsDir: w.root}); err != nil {
		t.Fatal(err)
	}
	w.state(observed.Running)
	w.table.MarkSynced()
	return w
}

// state is what the runtime says of the container.
func (w *world) state(s observed.ContainerState) {
	w.table.Set(observed.Pod{UID: testUID, Name: "web", Namespace: "ns", At: time.Now(),
		Containers: []observed.Container{{ID: testID, Name: "app", State: s, LogPath: w.path("0.log")}}})
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// file writes a file of the log, compressed if its name says so.
func (w *world) file(name string, content []byte) {
	w.t.Helper()
	if strings.HasSuffix(name, ".gz") {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(content); err != nil {
			w.t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			w.t.Fatal(err)
		}
		content = b.Bytes()
	}
	if err := os.WriteFile(w.path(name), content, 0o640); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(opts v1.PodLogOptions) (string, error) {
	var b bytes.Buffer
	err := w.r.Read(context.Background(), testPod(), "containerd://"+testID, &opts, &b, &b)
	return b.String(), err
}

func ptr[T any](v T) *T { return &v }

func at(second int) string { return fmt.Sprintf("2026-01-02T03:04:%02d.123456789Z", second) }

func TestRead(t *testing.T) {
	plain := map[string]string{
		"0.log.20260102-030401.gz": at(1) + " stdout F one\n" + at(2) + " stderr F two\n",
		"0.log.20260102-030405":    at(3) + " stdout F three\n" + at(4) + " stdout P fo\n",
		"0.log":                    at(5) + " stdout F ur\n" + at(6) + " stderr F five\n",
	}
	const whole = "one\ntwo\nthree\nfour\nfive\n"
	since := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 4, 0, time.UTC))
	for _, tc := range []struct {
		name  string
		files map[string]string
		opts  v1.PodLogOptions
		want  string
		err   string
	}{
		{name: "all files are one log", files: plain, want: whole},
		{name: "tail within the newest", files: plain, opts: v1.PodLogOptions{TailLines: ptr[int64](1)}, want: "five\n"},
		{name: "tail counts a line in two files once", files: plain, opts: v1.PodLogOptions{TailLines: ptr[int64](2)}, want: "four\nfive\n"},
		{name: "tail reaches the rotated file", files: plain, opts: v1.PodLogOptions{TailLines: ptr[int64](3)}, want: "three\nfour\nfive\n"},
		{name: "tail reaches the compressed file", files: plain, opts: v1.PodLogOptions{TailLines: ptr[int64](4)}, want: "two\nthree\nfour\nfive\n"},
		{name: "tail of exactly all", files: plain, opts: v1.PodLogOptions{TailLines: ptr[int64](5)}, want: whole},
		{name: "tail of more than there is", files: plain, opts: v1.PodLogOptions{TailLines: ptr[int64](1 << 62)}, want: whole},
		{name: "tail of nothing", files: plain, opts: v1.PodLogOptions{TailLines: ptr[int64](0)}, want: ""},
		{name: "since cuts across files", files: plain, opts: v1.PodLogOptions{SinceTime: &since}, want: "four\nfive\n"},
		{name: "since the future", files: plain, opts: v1.PodLogOptions{SinceTime: ptr(metav1.NewTime(since.Add(time.Hour)))}, want: ""},
		{name: "limit over the whole", files: plain, opts: v1.PodLogOptions{LimitBytes: ptr[int64](10)}, want: "one\ntwo\nth"},
		{name: "limit of all", files: plain, opts: v1.PodLogOptions{LimitBytes: ptr(int64(len(whole)))}, want: whole},
		{name: "limit counts times, too", files: plain, opts: v1.PodLogOptions{LimitBytes: ptr[int64](36), Timestamps: true},
			want: at(1) + " one\n2"},
		{name: "a time at the beginning of each line", files: plain, opts: v1.PodLogOptions{Timestamps: true, TailLines: ptr[int64](2)},
			want: at(4) + " four\n" + at(6) + " five\n"},
		{name: "times of equal width", opts: v1.PodLogOptions{Timestamps: true}, files: map[string]string{"0.log": "" +
			"2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:05.1Z stdout F b\n" +
			"2026-01-02T03:04:05.123456789+02:00 stdout F c\n2026-01-02T03:04:05-05:30 stdout F d\n2026-01-02T03:04:05+00:00 stdout F e\n"},
			want: "2026-01-02T03:04:05.000000000Z a\n2026-01-02T03:04:05.100000000Z b\n" +
				"2026-01-02T03:04:05.123456789+02:00 c\n2026-01-02T03:04:05.000000000-05:30 d\n2026-01-02T03:04:05.000000000Z e\n"},
		{name: "lines that are no entries", files: map[string]string{"0.log": "rubbish\n" + at(1) + " stdout F a\n" +
			"\n\x00\x00\n" + at(2) + " stdin F b\n2026-13-02T03:04:05Z stdout F c\n2026-02-30T03:04:05Z stdout F d\n" +
			at(3) + " stdout F\n" + at(4) + " stdout F:x e\n" + at(5) + " stdout P:y f\n" + at(6) + " stdout F g\n"}, want: "a\ne\nfg\n"},
		{name: "nothing but rubbish", files: map[string]string{"0.log": "root:x:0:0:\n"}, err: "none of its 1 lines is a log entry"},
		{name: "empty lines", files: map[string]string{"0.log": at(1) + " stdout F \n" + at(2) + " stdout F \n"}, want: "\n\n"},
		{name: "last line without its end", files: map[string]string{"0.log": at(1) + " stdout F a\n" + at(2) + " stdout F bc"}, want: "a\nbc"},
		{name: "last header without its end", files: map[string]string{"0.log": at(1) + " stdout F a\n" + at(2) + " std"}, want: "a\n"},
		{name: "rotated file without its last end of line", want: "ab\nc\n", files: map[string]string{
			"0.log.20260102-030405": at(1) + " stdout F ab", "0.log": at(2) + " stdout F c\n"}},
		{name: "an empty log", files: map[string]string{"0.log": ""}, want: ""},
		{name: "no log", err: "no such file"},
		{name: "the newest file is missing for a moment", want: "a\n", files: map[string]string{
			"0.log.20260102-030405": at(1) + " stdout F a\n"}},
		{name: "killed before the plain twin was removed", want: "a\nb\n", files: map[string]string{
			"0.log.20260102-030405.gz": at(1) + " stdout F a\n", "0.log.20260102-030405": at(1) + " stdout F a\n",
			"0.log.20260102-030405.tmp": "half", "0.log": at(2) + " stdout F b\n"}},
		{name: "files of others", want: "a\n", files: map[string]string{"0.log": at(1) + " stdout F a\n",
			"1.log": at(2) + " stdout F no\n", "0.log.1": at(2) + " stdout F no\n", "10.log.20260102-030405": at(2) + " stdout F no\n",
			"0.log.20260102-030405.bak": at(2) + " stdout F no\n"}},
		{name: "Docker's format", opts: v1.PodLogOptions{Timestamps: true}, files: map[string]string{"0.log": "" +
			`{"log":"a\n","stream":"stdout","time":"2026-01-02T03:04:05.5Z"}` + "\n" +
			`{"log":"b","stream":"stderr","time":"2026-01-02T03:04:06Z"}` + "\n" + `{"log":"c\n","stream":"stderr","time":"2026-01-02T03:04:07Z"}` + "\n"},
			want: "2026-01-02T03:04:05.500000000Z a\n2026-01-02T03:04:06.000000000Z bc\n"},
		{name: "tail in Docker's format", opts: v1.PodLogOptions{TailLines: ptr[int64](1)}, want: "bc\n", files: map[string]string{"0.log": "" +
			`{"log":"a\n","stream":"stdout","time":"2026-01-02T03:04:05.5Z"}` + "\n" +
			`{"log":"b","stream":"stderr","time":"2026-01-02T03:04:06Z"}` + "\n" + `{"log":"c\n","stream":"stderr","time":"2026-01-02T03:04:07Z"}` + "\n"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			for name, content := range tc.files {
				w.file(name, []byte(content))
			}
			got, err := w.read(tc.opts)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want %q in it", err, tc.err)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("got %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestStreamsAreTakenApart(t *testing.T) {
	w := newWorld(t)
	w.file("0.log", []byte(at(1)+" stdout F o1\n"+at(2)+" stderr P e\n"+at(3)+" stdout F o2\n"+at(4)+" stderr F 1\n"))
	var out, errs bytes.Buffer
	for _, tc := range []struct {
		name      string
		out, errs *bytes.Buffer
		opts      v1.PodLogOptions
		want      [2]string
	}{
		{"both", &out, &errs, v1.PodLogOptions{}, [2]string{"o1\no2\n", "e1\n"}},
		{"only stdout", &out, nil, v1.PodLogOptions{}, [2]string{"o1\no2\n", ""}},
		{"only stderr", nil, &errs, v1.PodLogOptions{Timestamps: true}, [2]string{"", at(2) + " e1\n"}},
		{"limit counts what is wanted", nil, &errs, v1.PodLogOptions{LimitBytes: ptr[int64](2)}, [2]string{"", "e1"}},
		{"tail counts what is wanted", &out, nil, v1.PodLogOptions{TailLines: ptr[int64](1)}, [2]string{"o2\n", ""}},
		{"tail of a line among others", &out, &errs, v1.PodLogOptions{TailLines: ptr[int64](1)}, [2]string{"", "e1\n"}},
	} {
		out.Reset()
		errs.Reset()
		var err error
		switch { // a nil *bytes.Buffer is no nil io.Writer
		case tc.errs == nil:
			err = w.r.Read(t.Context(), testPod(), testID, &tc.opts, tc.out, nil)
		case tc.out == nil:
			err = w.r.Read(t.Context(), testPod(), testID, &tc.opts, nil, tc.errs)
		default:
			err = w.r.Read(t.Context(), testPod(), testID, &tc.opts, tc.out, tc.errs)
		}
		if got := [2]string{out.String(), errs.String()}; err != nil || got != tc.want {
			t.Errorf("%s: got %q, %v; want %q", tc.name, got, err, tc.want)
		}
	}
}

// A pod that mounts the node's logs can put anything there. Its node's files
// are not to be had through it.
func TestReadStaysInTheLogs(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "shadow")
	if err := os.WriteFile(secret, []byte(at(1)+" stdout F secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(w *world) error{
		"link":            func(w *world) error { return os.Symlink(secret, w.path("0.log")) },
		"link as rotated": func(w *world) error { return os.Symlink(secret, w.path("0.log.20260102-030405")) },
		"relative link":   func(w *world) error { return os.Symlink("../../../../../.."+secret, w.path("0.log")) },
		"link as directory": func(w *world) error {
			if err := os.Rename(secret, filepath.Join(filepath.Dir(secret), "0.log")); err != nil {
				return err
			}
			if err := os.Remove(w.dir); err != nil {
				return err
			}
			return os.Symlink(filepath.Dir(secret), w.dir)
		},
		"directory": func(w *world) error { return os.Mkdir(w.path("0.log"), 0o755) },
		"device":    func(w *world) error { return os.Symlink("/dev/zero", w.path("0.log")) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if err := plant(w); err != nil {
				t.Fatal(err)
			}
			for _, opts := range []v1.PodLogOptions{{}, {TailLines: ptr[int64](5)}, {Follow: true}} {
				got, err := w.read(opts)
				if err == nil || strings.Contains(got, "secret") || strings.Contains(err.Error(), "secret\n") {
					t.Errorf("got %q, %v; want an error", got, err)
				}
			}
		})
	}
}

// cri-dockerd makes the log a link to the file that Docker writes.
func TestLinkToDockersFileIsFollowed(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), testID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, testID+"-json.log")
	if err := os.WriteFile(target, []byte(`{"log":"hi\n","stream":"stdout","time":"2026-01-02T03:04:05Z"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, w.path("0.log")); err != nil {
		t.Fatal(err)
	}
	if got, err := w.read(v1.PodLogOptions{}); err != nil || got != "hi\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestUnknownContainer(t *testing.T) {
	w := newWorld(t)
	w.file("0.log", nil)
	err := w.r.Read(t.Context(), testPod(), "containerd://gone", &v1.PodLogOptions{}, &bytes.Buffer{}, nil)
	if err == nil || !strings.Contains(err.Error(), `"gone"`) {
		t.Errorf("got %v, want an error that names the container", err)
	}
}

// TestReadAgainstModel compares with the obvious way to do it: all entries of
// random files, held in memory.
func TestReadAgainstModel(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t)
		type entry struct {
			sec     int
			stream  string
			partial bool
			text    string
			line    int // counted by ends
		}
		var entries []entry
		for i, n := 0, rnd.IntN(400); i < n; i++ {
			e := entry{sec: i / 8 % 60, stream: [...]string{"stdout", "stderr"}[rnd.IntN(2)], partial: rnd.IntN(4) == 0}
			e.text = strings.Repeat("x", rnd.IntN(1<<rnd.IntN(12))) + fmt.Sprint(i)
			entries = append(entries, e)
		}
		// Each entry belongs to the line of its stream that ends next, and
		// each line ends.
		ended := map[string]bool{}
		lines := 0
		for i := range slices.Backward(entries) {
			e := &entries[i]
			e.partial = e.partial && ended[e.stream]
			ended[e.stream] = true
			if !e.partial {
				lines++
			}
		}
		open := map[string][]int{}
		line := 0
		for i := range entries {
			e := &entries[i]
			open[e.stream] = append(open[e.stream], i)
			if !e.partial {
				for _, j := range open[e.stream] {
					entries[j].line = line
				}
				open[e.stream] = nil
				line++
			}
		}
		// Cut into files.
		files := 1 + rnd.IntN(4)
		content := make([]bytes.Buffer, files)
		file := 0
		for i, e := range entries {
			for file < files-1 && i*files/len(entries) > file {
				file++
			}
			tag := "F"
			if e.partial {
				tag = "P"
			}
			fmt.Fprintf(&content[file], "%s %s %s %s\n", at(e.sec), e.stream, tag, e.text)
		}
		for i := range files {
			name := "0.log"
			if i < files-1 {
				if name = fmt.Sprintf("0.log.20260102-0304%02d", i); i < files-2 {
					name += ".gz"
				}
			}
			w.file(name, content[i].Bytes())
		}

		opts := v1.PodLogOptions{Timestamps: rnd.IntN(2) == 0}
		if rnd.IntN(2) == 0 {
			opts.TailLines = ptr(int64(rnd.IntN(lines + 3)))
		}
		sec := -1
		if rnd.IntN(3) == 0 {
			sec = rnd.IntN(60)
			opts.SinceTime = ptr(metav1.NewTime(time.Date(2026, 1, 2, 3, 4, sec, 0, time.UTC)))
		}
		if rnd.IntN(3) == 0 {
			opts.LimitBytes = ptr(1 + rnd.Int64N(int64(20*len(entries)+1)))
		}
		var want strings.Builder
		begin := true
		for _, e := range entries {
			if opts.TailLines != nil && int64(lines-e.line) > *opts.TailLines || e.sec < sec {
				continue
			}
			if opts.Timestamps && begin {
				want.WriteString(at(e.sec) + " ")
			}
			want.WriteString(e.text)
			if begin = !e.partial; begin {
				want.WriteByte('\n')
			}
		}
		wanted := want.String()
		if opts.LimitBytes != nil && int64(len(wanted)) > *opts.LimitBytes {
			wanted = wanted[:*opts.LimitBytes]
		}
		got, err := w.read(opts)
		if err != nil || got != wanted {
			t.Fatalf("seed %d, options %+v: got %d bytes, %v; want %d\n%s", seed, opts, len(got), err, len(wanted), firstDifference(got, wanted))
		}
	}
}

func firstDifference(got, want string) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	from := max(0, i-100)
	return fmt.Sprintf("at %d: got %q, want %q", i, got[from:min(len(got), i+100)], want[from:min(len(want), i+100)])
}

// The last lines of a large file are found from its end.
func TestTailReadsOnlyTheEnd(t *testing.T) {
	w := newWorld(t)
	f, err := os.Create(w.path("0.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 30 // a hole, which takes no room
	if _, err := f.Seek(size, 0); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f)
	for i := range 200 {
		fmt.Fprintf(f, "%s stdout F %d\n", at(1), i)
	}
	before := readBytes(t)
	got, err := w.read(v1.PodLogOptions{TailLines: ptr[int64](100)})
	read := readBytes(t) - before
	if err != nil || !strings.HasPrefix(got, "100\n") || strings.Count(got, "\n") != 100 {
		t.Errorf("got %q, %v", got, err)
	}
	if read > 1<<20 {
		t.Errorf("%d bytes were read for 100 lines", read)
	}
}

// readBytes is how many bytes this process has read from files.
func readBytes(t *testing.T) (n int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip(err)
	}
	if _, err := fmt.Sscanf(string(text), "rchar: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// What is read costs memory by the buffer, not by the line.
func TestReadAllocatesNothingPerLine(t *testing.T) {
	allocations := func(lines int) float64 {
		w := newWorld(t)
		w.file("0.log", bytes.Repeat([]byte(at(1)+" stdout F some line or other\n"), lines))
		opts := v1.PodLogOptions{Timestamps: true}
		return testing.AllocsPerRun(3, func() {
			if err := w.r.Read(t.Context(), testPod(), testID, &opts, io.Discard, io.Discard); err != nil {
				t.Fatal(err)
			}
		})
	}
	if few, many := allocations(10), allocations(100_000); many > few+20 {
		t.Errorf("10 lines take %v allocations, 100000 take %v", few, many)
	}
}
