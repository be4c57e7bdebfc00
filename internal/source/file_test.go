package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/desired"
	"kubelet/internal/podspec"
)

var _ Sink = (*desired.Table)(nil)

func manifestOf(name, image string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  containers:\n  - name: c\n    image: %s\n", name, image)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// place puts a file into its place complete, as a careful program does.
func place(t *testing.T, path, content string) {
	t.Helper()
	tmp := filepath.Join(filepath.Dir(path), ".tmp-"+filepath.Base(path))
	write(t, tmp, content)
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

// follow runs a File on real inotify. Nothing in these tests waits for the
// recheck.
func follow(t *testing.T, path string, change ...func(*FileConfig, *File)) *sink {
	t.Helper()
	s := newSink()
	cfg := FileConfig{Path: path, Node: "node", Recheck: time.Hour, Features: DefaultFeatures(), Sink: s, Problem: s.problem}
	for _, f := range change {
		f(&cfg, &File{})
	}
	file, err := NewFile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(&cfg, file)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := file.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func TestDirectoryIsFollowed(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), manifestOf("a", "img:1"))
	write(t, filepath.Join(dir, ".hidden.yaml"), manifestOf("hidden", "img:1"))
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "sub", "b.yaml"), manifestOf("b", "img:1"))
	s := follow(t, dir+"/")
	s.awaitPods(t, "a-node img:1")
	first := s.uids()

	write(t, filepath.Join(dir, "c.json"), `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"c"},"spec":{"containers":[{"name":"c","image":"img:1"}]}}`)
	s.awaitPods(t, "a-node img:1, c-node img:1")
	place(t, filepath.Join(dir, "a.yaml"), manifestOf("a", "img:2"))
	s.awaitPods(t, "a-node img:2, c-node img:1")
	for _, uid := range first {
		if s.get(uid) != nil {
			t.Error("a changed manifest kept its UID")
		}
	}
	if err := os.Remove(filepath.Join(dir, "c.json")); err != nil {
		t.Fatal(err)
	}
	s.awaitPods(t, "a-node img:2")
	if err := os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, ".a.yaml")); err != nil {
		t.Fatal(err)
	}
	s.awaitPods(t, "")
	s.awaitNoProblem(t)
}

func TestFileIsReadOnlyOnceItsWriterIsDone(t *testing.T) {
	dir := t.TempDir()
	s := follow(t, dir, func(_ *FileConfig, f *File) { f.writing = time.Hour })
	s.awaitPods(t, "")
	path := filepath.Join(dir, "a.yaml")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	// The first half is a good pod, too: without its second container.
	if _, err := f.WriteString(manifestOf("a", "img:1")); err != nil {
		t.Fatal(err)
	}
	// Something else happens meanwhile and makes the source look.
	place(t, filepath.Join(dir, "b.yaml"), manifestOf("b", "img:1"))
	s.awaitPods(t, "b-node img:1")
	if _, err := f.WriteString("  - name: d\n    image: img:2\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s.awaitPods(t, "a-node img:1 img:2, b-node img:1")
}

func TestWriterThatNeverClosesIsNotWaitedForForEver(t *testing.T) {
	dir := t.TempDir()
	s := follow(t, dir, func(_ *FileConfig, f *File) { f.writing = 50 * time.Millisecond })
	s.awaitPods(t, "")
	f, err := os.Create(filepath.Join(dir, "a.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(manifestOf("a", "img:1")); err != nil {
		t.Fatal(err)
	}
	s.awaitPods(t, "a-node img:1")
}

func TestBrokenManifestTouchesNothing(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	write(t, a, manifestOf("a", "img:1"))
	write(t, b, "apiVersion: v1\nkind: Pod\nspec: [")
	s := follow(t, dir)
	s.awaitPods(t, "a-node img:1")
	s.awaitProblem(t, b+": read YAML")

	write(t, a, "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: \"\"}]}\n")
	s.awaitProblem(t, a+": the pod goes on as its last good version says: line 4: spec.containers[0].image: Required value")
	write(t, filepath.Join(dir, "d.yaml"), manifestOf("d", "img:1"))
	s.awaitPods(t, "a-node img:1, d-node img:1")

	write(t, b, manifestOf("b", "img:1"))
	write(t, a, manifestOf("a", "img:2"))
	s.awaitPods(t, "a-node img:2, b-node img:1, d-node img:1")
	s.awaitNoProblem(t)

	write(t, b, "")
	s.awaitProblem(t, "b.yaml: the pod goes on as its last good version says: is empty")
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	s.awaitPods(t, "a-node img:2, d-node img:1")
	s.awaitNoProblem(t)
}

func TestManifestPutBackAtOnceIsTheSamePod(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	write(t, path, manifestOf("a", "img:1"))
	s := follow(t, dir, func(_ *FileConfig, f *File) { f.missing = time.Hour })
	s.awaitPods(t, "a-node img:1")
	// As an editor does: away, and a new one in its place.
	if err := os.Rename(path, path+"~"); err != nil {
		t.Fatal(err)
	}
	s.awaitProblem(t, "a.yaml~: pod default/a-node is defined by "+path+" already")
	write(t, path, manifestOf("a", "img:1"))
	if err := os.Remove(path + "~"); err != nil {
		t.Fatal(err)
	}
	s.awaitNoProblem(t)
	if s.has() != "a-node img:1" || s.count() != 1 {
		t.Errorf("pods %q, handed over %d times", s.has(), s.count())
	}
}

func TestTouchingAManifestChangesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	write(t, path, manifestOf("a", "img:1"))
	s := follow(t, dir)
	s.awaitPods(t, "a-node img:1")
	write(t, path, "# a comment\n"+manifestOf("a", "img:1"))
	write(t, filepath.Join(dir, "b.yaml"), manifestOf("b", "img:1"))
	s.awaitPods(t, "a-node img:1, b-node img:1")
	if s.count() != 2 {
		t.Errorf("handed over %d times", s.count())
	}
}

func TestFirstFileOfANameCounts(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "2.yaml"), manifestOf("a", "img:2"))
	write(t, filepath.Join(dir, "1.yaml"), manifestOf("a", "img:1"))
	s := follow(t, dir)
	s.awaitPods(t, "a-node img:1")
	s.awaitProblem(t, "2.yaml: pod default/a-node is defined by "+filepath.Join(dir, "1.yaml")+" already, which counts")
	if err := os.Remove(filepath.Join(dir, "1.yaml")); err != nil {
		t.Fatal(err)
	}
	s.awaitPods(t, "a-node img:2")
	s.awaitNoProblem(t)
}

func TestTwoFilesOfOneUID(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		write(t, filepath.Join(dir, name), strings.Replace(manifestOf(name, "img"), "{name: "+name+"}", "{name: "+name+", uid: mine}", 1))
	}
	s := follow(t, dir)
	s.awaitPods(t, "a-node img")
	s.awaitProblem(t, "b: uid mine is in use by "+filepath.Join(dir, "a")+" already; remove metadata.uid")
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"null": "/dev/null", "nothing": "/nonexistent", "dir": "/", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	large, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		t.Fatal(err)
	}
	if err := large.Truncate(maxManifest + 1); err != nil {
		t.Fatal(err)
	}
	large.Close()
	write(t, filepath.Join(dir, "z.yaml"), manifestOf("z", "img:1"))
	s := follow(t, dir)
	s.awaitPods(t, "z-node img:1")
	for _, want := range []string{"pipe: is a named pipe", "null: is a device", "nothing: is a link to nothing", "dir: links to a directory", "loop: stat", "large: has 10485761 bytes"} {
		s.awaitProblem(t, want)
	}
	for _, name := range []string{"pipe", "null", "nothing", "dir", "loop", "large"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.awaitNoProblem(t)
}

// A config map that is mounted as the directory: links through ..data, which
// is swapped as a whole.
func TestSwappedLinkIsFollowed(t *testing.T) {
	dir := t.TempDir()
	version := func(n string, manifests map[string]string) {
		if err := os.Mkdir(filepath.Join(dir, "..v"+n), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, m := range manifests {
			write(t, filepath.Join(dir, "..v"+n, name), m)
		}
		if err := os.Symlink("..v"+n, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("1", map[string]string{"a.yaml": manifestOf("a", "img:1")})
	if err := os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	s := follow(t, dir)
	s.awaitPods(t, "a-node img:1")
	version("2", map[string]string{"a.yaml": manifestOf("a", "img:2")})
	s.awaitPods(t, "a-node img:2")
	version("3", nil)
	s.awaitPods(t, "")
	s.awaitProblem(t, "a.yaml: is a link to nothing")
}

func TestDirectoryThatComesAndGoes(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "etc", "manifests")
	s := follow(t, dir)
	s.awaitPods(t, "") // known: there are none
	s.awaitProblem(t, "does not exist: no static pods until it does")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s.awaitNoProblem(t)
	write(t, filepath.Join(dir, "a.yaml"), manifestOf("a", "img:1"))
	s.awaitPods(t, "a-node img:1")
	if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	s.awaitPods(t, "")
	s.awaitProblem(t, "does not exist")
	// Another directory takes its place.
	if err := os.MkdirAll(filepath.Join(root, "new", "manifests"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "new", "manifests", "b.yaml"), manifestOf("b", "img:1"))
	if err := os.Rename(filepath.Join(root, "new"), filepath.Join(root, "etc")); err != nil {
		t.Fatal(err)
	}
	s.awaitPods(t, "b-node img:1")
	s.awaitNoProblem(t)
}

func TestPathThatCannotBeReadSaysNothing(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "manifests")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "a.yaml"), manifestOf("a", "img:1"))
	s := follow(t, dir)
	s.awaitPods(t, "a-node img:1")
	// A link to itself in the place of the directory: neither there nor not.
	if err := os.Rename(dir, filepath.Join(root, "kept")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("manifests", filepath.Join(root, ".loop")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, ".loop"), dir); err != nil {
		t.Fatal(err)
	}
	s.awaitProblem(t, "static pods stay as they are until it can be read")
	if s.has() != "a-node img:1" {
		t.Errorf("pods %q", s.has())
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, "kept"), dir); err != nil {
		t.Fatal(err)
	}
	s.awaitNoProblem(t)
	if s.has() != "a-node img:1" || s.count() != 1 {
		t.Errorf("pods %q, handed over %d times", s.has(), s.count())
	}

	unreadable := follow(t, filepath.Join(root, "manifests", "a.yaml", "x"))
	unreadable.awaitProblem(t, "until it can be read")
	if unreadable.count() != 0 {
		t.Error("reported although nothing could be read")
	}
}

func TestSingleFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pod.yaml")
	s := follow(t, path)
	s.awaitPods(t, "")
	write(t, filepath.Join(filepath.Dir(path), "other.yaml"), manifestOf("other", "img:1"))
	write(t, path, manifestOf("a", "img:1"))
	s.awaitPods(t, "a-node img:1")
	s.awaitNoProblem(t)
	place(t, path, manifestOf("a", "img:2"))
	s.awaitPods(t, "a-node img:2")
	write(t, path, "x")
	s.awaitProblem(t, path+": the pod goes on")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s.awaitPods(t, "")
}

func TestRecheckFindsWhatNobodyTold(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "a.yaml")
	write(t, outside, manifestOf("a", "img:1"))
	if err := os.Symlink(outside, filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	s := follow(t, dir, func(cfg *FileConfig, _ *File) { cfg.Recheck = 20 * time.Millisecond })
	s.awaitPods(t, "a-node img:1")
	write(t, outside, manifestOf("a", "img:2")) // no event in dir
	s.awaitPods(t, "a-node img:2")
}

func TestRunningPodKeepsItsUID(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), manifestOf("a", "img:1"))
	write(t, filepath.Join(dir, "b.yaml"), manifestOf("b", "img:1"))
	later := time.Now().Add(time.Minute).Format(time.RFC3339Nano)
	var asked atomic.Int32
	s := follow(t, dir, func(cfg *FileConfig, _ *File) {
		cfg.Running = func(context.Context) ([]Running, error) {
			if asked.Add(1) == 1 {
				return nil, errors.New("the runtime is not up yet")
			}
			c := v1.Container{Name: "c", Image: "img:1"}
			return []Running{{
				UID: "of-another-version", Name: "a-node", Namespace: "default",
				Annotations: map[string]string{podspec.SourceAnnotation: "file", podspec.SeenAnnotation: later},
				Containers:  map[string]string{"c": podspec.ContainerHash(&c)},
			}}, nil
		}
	})
	s.awaitPods(t, "a-node img:1, b-node img:1")
	adopted := s.get("of-another-version")
	if adopted == nil || adopted.Name != "a-node" || adopted.Annotations[podspec.HashAnnotation] != "of-another-version" || adopted.Annotations[podspec.SeenAnnotation] != later {
		t.Fatalf("not adopted: %s", s.has())
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	// Removed for a moment and put back, unchanged: the UID stays.
	write(t, filepath.Join(dir, "a.yaml"), "# touched\n"+manifestOf("a", "img:1"))
	write(t, filepath.Join(dir, "c.yaml"), manifestOf("c", "img:1"))
	s.awaitPods(t, "a-node img:1, b-node img:1, c-node img:1")
	if s.get("of-another-version") == nil {
		t.Error("the UID changed with a comment")
	}
	write(t, filepath.Join(dir, "a.yaml"), manifestOf("a", "img:2"))
	s.awaitPods(t, "a-node img:2, b-node img:1, c-node img:1")
	if s.get("of-another-version") != nil {
		t.Error("a changed manifest kept its UID")
	}
}

func TestBadConfigurationsAreRefused(t *testing.T) {
	s := newSink()
	for _, cfg := range []FileConfig{{}, {Path: "relative", Node: "n", Sink: s}, {Path: "/a", Sink: s}, {Path: "/a", Node: "n"}} {
		if _, err := NewFile(cfg); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
	for _, cfg := range []HTTPConfig{{}, {URL: "ftp://x", Node: "n", Sink: s}, {URL: "http://", Node: "n", Sink: s}, {URL: "http://x", Sink: s}, {URL: "http://x", Node: "n"}, {URL: ":", Node: "n", Sink: s}} {
		if _, err := NewHTTP(cfg); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
	if _, err := NewAPI(APIConfig{}); err == nil {
		t.Error("accepted an empty API config")
	}
}

func TestPodsGoIntoTheTable(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), manifestOf("a", "img:1"))
	changed := make(chan types.UID, 10)
	table := desired.NewTable(func(uid types.UID) { changed <- uid }, podspec.SourceFile)
	file, err := NewFile(FileConfig{Path: dir, Node: "node", Features: DefaultFeatures(), Sink: table})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- file.Run(ctx) }()
	<-table.SyncedC()
	p, ok := table.Get(<-changed)
	if !ok || p.Pod.Name != "a-node" || p.Source != podspec.SourceFile || !podspec.IsStatic(p.Pod) {
		t.Errorf("%+v", p)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzParseEvents(f *testing.F) {
	f.Add([]byte("0123456789abcdef"))
	f.Add(append(make([]byte, 12), 4, 0, 0, 0, 'a', 0, 0, 0))
	f.Fuzz(func(t *testing.T, data []byte) { parseEvents(data) })
}
