package subpath_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"kubelet/internal/volume"
	"kubelet/internal/volume/subpath"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("KUBELET_TEST_PRIVILEGED") == "1" {
		t.Fatal("this test needs root, and KUBELET_TEST_PRIVILEGED=1 says it has to run")
	}
	t.Skip("this test mounts and needs root")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is a pod's directory and a volume, with something outside of it.
type site struct {
	t                                    *testing.T
	root, pod, uid, volume, outside, dir string
	binder                               subpath.Binder
}

func newSite(t *testing.T) *site {
	needRoot(t)
	dir := t.TempDir()
	s := &site{t: t, dir: dir, root: filepath.Join(dir, "kubelet"), uid: "u1", volume: filepath.Join(dir, "volume"), outside: filepath.Join(dir, "outside")}
	s.pod = filepath.Join(s.root, "pods", s.uid)
	for _, d := range []string{s.pod, s.volume, s.outside} {
		must(t, os.MkdirAll(d, 0o755))
	}
	must(t, os.WriteFile(filepath.Join(s.outside, "secret"), []byte("secret"), 0o600))
	must(t, os.WriteFile(filepath.Join(s.outside, "marker"), []byte("outside"), 0o600))
	t.Cleanup(func() {
		for _, m := range s.mounts() {
			if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", m.Mountpoint, err)
			}
		}
	})
	return s
}

func (s *site) mounts() []*mountinfo.Info {
	s.t.Helper()
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(s.dir))
	must(s.t, err)
	return list
}

func (s *site) part(path string) subpath.Part {
	return subpath.Part{PodDir: s.pod, Volume: "v", Container: "c", Index: 0, VolumePath: s.volume, SubPath: path}
}

func (s *site) bind(path string) (string, error) {
	return s.binder.Bind(s.t.Context(), s.part(path))
}

// make makes one line of a tree.
func (s *site) make(line string) {
	s.t.Helper()
	kind, rest, _ := strings.Cut(line, " ")
	name, to, _ := strings.Cut(rest, " ")
	path := filepath.Join(s.volume, name)
	if name != "" {
		must(s.t, os.MkdirAll(filepath.Dir(path), 0o755))
	}
	switch kind {
	case "gone":
		must(s.t, os.Remove(s.volume))
		return
	case "instead":
		must(s.t, os.Remove(s.volume))
		must(s.t, os.WriteFile(s.volume, nil, 0o644))
		return
	case "dir":
		must(s.t, os.MkdirAll(path, 0o755))
		must(s.t, os.WriteFile(filepath.Join(path, "marker"), []byte(line), 0o644))
	case "file":
		must(s.t, os.WriteFile(path, []byte(line), 0o644))
	case "link":
		must(s.t, os.Symlink(strings.NewReplacer("OUT", s.outside, "VOL", s.volume).Replace(to), path))
	case "fifo":
		must(s.t, unix.Mkfifo(path, 0o644))
	case "device": // of the console, which would answer to an open
		must(s.t, unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(5, 1))))
	case "socket":
		l, err := net.Listen("unix", path)
		must(s.t, err)
		s.t.Cleanup(func() { l.Close() })
	default:
		s.t.Fatalf("unknown line %q", line)
	}
}

// marker tells what is at a path, in the words of the line that made it.
func (s *site) marker(path string) string {
	s.t.Helper()
	info, err := os.Lstat(path)
	must(s.t, err)
	switch mode := info.Mode(); {
	case mode.IsDir():
		path = filepath.Join(path, "marker")
	case mode&os.ModeNamedPipe != 0:
		return "fifo p"
	case mode&os.ModeSocket != 0:
		return "socket s"
	case mode&os.ModeDevice != 0:
		return "device d"
	}
	text, err := os.ReadFile(path)
	must(s.t, err)
	return string(text)
}

func TestBind(t *testing.T) {
	text, err := os.ReadFile("testdata/cases.yaml")
	must(t, err)
	var cases []struct {
		Name, Path, Found, Made, Error string
		Tree                           []string
	}
	must(t, yaml.UnmarshalStrict(text, &cases))
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			s := newSite(t)
			for _, line := range c.Tree {
				s.make(line)
			}
			path, err := s.bind(c.Path)
			if c.Error != "" {
				if err == nil || !strings.Contains(err.Error(), c.Error) {
					t.Fatalf("error %v, want one with %q", err, c.Error)
				}
				if strings.Contains(err.Error(), s.outside) {
					t.Errorf("the error tells of what is outside: %v", err)
				}
				if m := s.mounts(); len(m) > 0 {
					t.Errorf("%s is mounted all the same", m[0].Mountpoint)
				}
				return
			}
			must(t, err)
			if want := filepath.Join(s.pod, "volume-subpaths/v/c/0"); path != want {
				t.Errorf("bound at %s, want %s", path, want)
			}
			if c.Made != "" {
				must(t, os.WriteFile(filepath.Join(s.volume, c.Made, "marker"), []byte("made"), 0o644))
				c.Found = "made"
			}
			if got := s.marker(path); got != c.Found {
				t.Errorf("bound %q, want %q", got, c.Found)
			}
			// Asked again, it is kept.
			before := s.mounts()
			again, err := s.bind(c.Path)
			must(t, err)
			if after := s.mounts(); len(before) != 1 || len(after) != 1 || after[0].ID != before[0].ID || again != path {
				t.Errorf("mounts before and after a second call: %v, %v", before, after)
			}
		})
	}
}

// Directories get the mode of the volume's root, whatever the umask is, and
// the group by the set-group-ID bit, as fsGroup has set it.
func TestModeOfNewDirectories(t *testing.T) {
	s := newSite(t)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	must(t, os.Chown(s.volume, 0, 4711))
	must(t, os.Chmod(s.volume, 0o775|os.ModeSetgid))
	if _, err := s.bind("a/b"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"a", "a/b"} {
		info, err := os.Stat(filepath.Join(s.volume, dir))
		must(t, err)
		if info.Mode() != os.ModeDir|os.ModeSetgid|0o775 || info.Sys().(*syscall.Stat_t).Gid != 4711 {
			t.Errorf("%s: %v, group %d", dir, info.Mode(), info.Sys().(*syscall.Stat_t).Gid)
		}
	}
	// No other thread has got the umask of the one that made them.
	var wg sync.WaitGroup
	for range 2 * runtime.NumCPU() {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if got := syscall.Umask(0o077); got != 0o077 {
				t.Errorf("a thread has umask %o", got)
			}
		})
	}
	wg.Wait()
}

// A read-only volume cannot get new directories, and what it has is bound.
func TestReadOnlyVolume(t *testing.T) {
	s := newSite(t)
	s.make("dir a")
	must(t, unix.Mount(s.volume, s.volume, "", unix.MS_BIND, ""))
	must(t, unix.Mount("", s.volume, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	path, err := s.bind("a")
	must(t, err)
	if got := s.marker(path); got != "dir a" {
		t.Errorf("bound %q", got)
	}
	if _, err := s.bind("b"); !errors.Is(err, unix.EROFS) {
		t.Errorf("error %v, want one that says that it is read-only", err)
	}
}

// What the path leads to changes between two starts of a container: a new one
// gets the new part, also where a file has taken the place of a directory.
func TestReplacedWhenItLeadsElsewhere(t *testing.T) {
	s := newSite(t)
	s.make("dir one")
	s.make("file two")
	s.make("dir three")
	for _, name := range []string{"one", "two", "three"} {
		link := filepath.Join(s.volume, "current")
		os.Remove(link)
		must(t, os.Symlink(name, link))
		path, err := s.bind("current")
		must(t, err)
		if got := s.marker(path); !strings.HasSuffix(got, name) {
			t.Errorf("bound %q, want %s", got, name)
		}
		if n := len(s.mounts()); n != 1 {
			t.Errorf("%d mounts", n)
		}
	}
	// One that is deleted is not what the path leads to any more.
	must(t, os.RemoveAll(filepath.Join(s.volume, "three")))
	s.make("dir three")
	path, err := s.bind("current")
	must(t, err)
	if got := s.marker(path); got != "dir three" {
		t.Errorf("bound %q", got)
	}
}

// A mount of a file system that is gone under it, or somebody else's, makes
// room; several one over the other do, too.
func TestForeignMountsMakeRoom(t *testing.T) {
	s := newSite(t)
	s.make("dir a")
	place := filepath.Join(s.pod, "volume-subpaths/v/c/0")
	must(t, os.MkdirAll(place, 0o750))
	for range 3 {
		must(t, unix.Mount("tmpfs", place, "tmpfs", 0, ""))
	}
	path, err := s.bind("a")
	must(t, err)
	if got := s.marker(path); got != "dir a" || len(s.mounts()) != 1 {
		t.Errorf("bound %q, %d mounts", got, len(s.mounts()))
	}
}

// A container swaps a directory for a link that leads out, and back, as fast
// as it can, while its part is being bound: it never gets what is outside.
func TestSwappedMeanwhile(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct{ name, path string }{{"last name", "x"}, {"name on the way", "x/y"}, {"new directories", "x/new"}} {
		t.Run(c.name, func(t *testing.T) {
			must(t, os.RemoveAll(s.volume))
			must(t, os.RemoveAll(filepath.Join(s.outside, "new")))
			s.make("dir x")
			s.make("dir x/y")
			os.Mkdir(filepath.Join(s.outside, "y"), 0o755)
			must(t, os.WriteFile(filepath.Join(s.outside, "y/marker"), []byte("outside"), 0o644))
			must(t, os.Symlink(s.outside, filepath.Join(s.volume, "evil")))
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					select {
					case <-stop:
						return
					default:
						_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(s.volume, "x"), unix.AT_FDCWD, filepath.Join(s.volume, "evil"), unix.RENAME_EXCHANGE)
					}
				}
			}()
			good, bad := 0, 0
			for i := 0; i < 3000 && (i < 500 || good == 0 || bad == 0); i++ {
				path, err := s.bind(c.path)
				if err != nil {
					bad++
					continue
				}
				good++
				if text, err := os.ReadFile(filepath.Join(path, "marker")); err == nil && string(text) == "outside" {
					t.Fatal("a part outside of the volume was bound")
				}
				must(t, unix.Unmount(path, 0))
			}
			close(stop)
			<-stopped
			t.Logf("%d bound, %d refused", good, bad)
			if _, err := os.Lstat(filepath.Join(s.outside, "new")); err == nil {
				t.Error("a directory was made outside of the volume")
			}
		})
	}
}

// The directory that the walk is in is moved out of the volume: ".." in a link
// below it goes where the walk came from, not to the new parent.
func TestMovedMeanwhile(t *testing.T) {
	s := newSite(t)
	s.make("dir a/b")
	s.make("file f")
	s.make("link a/b/up ../../f")
	must(t, os.WriteFile(filepath.Join(s.dir, "f"), []byte("outside"), 0o644))
	inside, outside := filepath.Join(s.volume, "a/b"), filepath.Join(s.outside, "b")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.Rename(inside, outside)
				_ = os.Rename(outside, inside)
			}
		}
	}()
	for range 200 {
		path, err := s.bind("a/b/up")
		if err != nil {
			continue
		}
		// While a/b is away, it is made anew, and so is up.
		if text, err := os.ReadFile(path); err == nil && string(text) != "file f" {
			t.Fatalf("bound %q", text)
		}
		must(t, unix.Unmount(path, 0))
	}
	close(stop)
	<-stopped
}

// The end of the pod undoes the mounts and deletes nothing of the volume.
func TestUnmountedWithThePod(t *testing.T) {
	s := newSite(t)
	s.make("dir a")
	s.make("file f")
	for i, name := range []string{"a", "f", "a"} {
		p := s.part(name)
		p.Index, p.Container = i, []string{"c1", "c1", "c2"}[i]
		if _, err := s.binder.Bind(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	r, err := volume.New(volume.Config{Root: s.root, Objects: volume.Standalone{}})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, r.Unmount(ctx, "u1"))
	if m := s.mounts(); len(m) > 0 {
		t.Errorf("%s is still mounted", m[0].Mountpoint)
	}
	if _, err := os.Lstat(s.pod); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pod's directory is still there: %v", err)
	}
	if s.marker(filepath.Join(s.volume, "a")) != "dir a" || s.marker(filepath.Join(s.volume, "f")) != "file f" {
		t.Error("the volume's content was touched")
	}
	// A pod that is gone gets nothing any more.
	if _, err := s.bind("a"); err == nil {
		t.Error("bound for a pod that has no directory")
	}
}

// deadServer mounts a FUSE file system whose server never answers. end is the
// server's end, after which each call fails at once.
func (s *site) deadServer(dir string) (end func()) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		s.t.Skipf("no FUSE here: %v", err)
	}
	must(s.t, unix.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)))
	end = sync.OnceFunc(func() { unix.Close(fd) })
	s.t.Cleanup(end)
	return end
}

// A volume that hangs holds up its container and says so; when it lets go
// after the pod has ended, nothing comes back.
func TestHungVolume(t *testing.T) {
	s := newSite(t)
	end := s.deadServer(s.volume)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.binder.Bind(ctx, s.part("a"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `looking up subPath "a" hangs`) {
		t.Fatalf("error %v, want one that says what hangs", err)
	}
	must(t, os.RemoveAll(s.pod))
	end()
	if _, err := s.bind("a"); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v after the server's end", err)
	}
	if _, err := os.Lstat(s.pod); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of the pod that has ended: %v", err)
	}
}

// A mount whose server has ended cannot even be looked at; the next start of
// the container gets a new one.
func TestDeadMountIsReplaced(t *testing.T) {
	s := newSite(t)
	s.make("dir a")
	place := filepath.Join(s.pod, "volume-subpaths/v/c/0")
	must(t, os.MkdirAll(place, 0o750))
	s.deadServer(place)()
	var stat unix.Stat_t
	if err := unix.Lstat(place, &stat); err != unix.ENOTCONN {
		t.Fatalf("the dead mount says %v", err)
	}
	path, err := s.bind("a")
	must(t, err)
	if got := s.marker(path); got != "dir a" || len(s.mounts()) != 1 {
		t.Errorf("bound %q, %d mounts", got, len(s.mounts()))
	}
}
