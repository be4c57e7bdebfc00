package removal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// needRoot stops a test that mounts: it fails where privileges are promised,
// and says why it did not run elsewhere.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("KUBELET_TEST_PRIVILEGED") == "1" {
		t.Fatal("this test needs root, and KUBELET_TEST_PRIVILEGED=1 says it has to run")
	}
	t.Skip("this test mounts file systems and needs root")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte("data"), 0o644))
}

func gone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", path, err)
	}
}

func there(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("%s is lost: %v", path, err)
	}
}

// each runs a test with openat2 and with what stands in for it on old kernels.
func each(t *testing.T, f func(t *testing.T, tree func(path string) error)) {
	t.Run("openat2", func(t *testing.T) {
		f(t, func(path string) error { return Tree(context.Background(), path) })
	})
	t.Run("openat", func(t *testing.T) {
		f(t, func(path string) error {
			parent, err := os.Open(filepath.Dir(path))
			must(t, err)
			defer parent.Close()
			r := &remover{ctx: context.Background(), top: -1, buf: make([]byte, 8<<10), noOpenat2: true}
			r.remove(int(parent.Fd()), filepath.Dir(path), filepath.Base(path), 0)
			return r.err()
		})
	})
}

func TestRemovesEverythingAndFollowsNothing(t *testing.T) {
	each(t, func(t *testing.T, tree func(string) error) {
		base := t.TempDir()
		outside := filepath.Join(base, "outside/keep")
		write(t, outside)
		top := filepath.Join(base, "pod")
		write(t, filepath.Join(top, "a/b/c/file"))
		write(t, filepath.Join(top, "new\nline"))
		write(t, filepath.Join(top, "\xff\xfe not utf-8"))
		write(t, filepath.Join(top, "..removing-1/of an earlier attempt"))
		must(t, os.Symlink(filepath.Dir(outside), filepath.Join(top, "a/link")))
		must(t, os.Symlink("../../../outside", filepath.Join(top, "a/b/up")))
		must(t, os.Symlink("/etc", filepath.Join(top, "etc")))
		must(t, unix.Mkfifo(filepath.Join(top, "fifo"), 0o600))
		if os.Getuid() == 0 { // others cannot look into it
			must(t, os.Chmod(filepath.Join(top, "a/b"), 0))
		}
		for i := range 500 { // more than one buffer of names
			write(t, filepath.Join(top, "many", strings.Repeat("n", 40)+string(rune('a'+i%26))+filepath.Base(os.DevNull)+string(rune('0'+i%10))+strings.Repeat("m", i%50)))
		}
		must(t, tree(top))
		gone(t, top)
		there(t, outside)
		must(t, tree(top)) // idempotent
	})
}

func TestLinkInPlaceOfTheTree(t *testing.T) {
	each(t, func(t *testing.T, tree func(string) error) {
		base := t.TempDir()
		write(t, filepath.Join(base, "outside/keep"))
		must(t, os.Symlink("outside", filepath.Join(base, "pod")))
		must(t, tree(filepath.Join(base, "pod")))
		gone(t, filepath.Join(base, "pod"))
		there(t, filepath.Join(base, "outside/keep"))
	})
}

func TestHugeDepth(t *testing.T) {
	each(t, func(t *testing.T, tree func(string) error) {
		base, err := os.MkdirTemp("/dev/shm", "removal-test-") // on disk it takes long
		if err != nil {
			base = t.TempDir()
		}
		top := filepath.Join(base, "pod")
		must(t, os.Mkdir(top, 0o755))
		fd, err := unix.Open(top, unix.O_DIRECTORY|unix.O_RDONLY, 0)
		must(t, err)
		for range 600 { // a path longer than PATH_MAX
			must(t, unix.Mkdirat(fd, "directory", 0o755))
			must(t, unix.Mkdirat(fd, "e", 0o755))
			next, err := unix.Openat(fd, "directory", unix.O_DIRECTORY|unix.O_RDONLY, 0)
			must(t, err)
			unix.Close(fd)
			fd = next
		}
		unix.Close(fd)
		must(t, tree(top))
		gone(t, top)
		must(t, os.Remove(base))
	})
}

func TestCancelled(t *testing.T) {
	top := filepath.Join(t.TempDir(), "pod")
	write(t, filepath.Join(top, "a/b/c"))
	ctx, cancel := context.WithCancelCause(context.Background())
	cause := errors.New("enough")
	cancel(cause)
	if err := Tree(ctx, top); !errors.Is(err, cause) || !strings.Contains(err.Error(), top) {
		t.Errorf("error %v, want one that names %s and the cause", err, top)
	}
	must(t, Tree(context.Background(), top))
	gone(t, top)
}

func TestStopsAtMounts(t *testing.T) {
	needRoot(t)
	each(t, func(t *testing.T, tree func(string) error) {
		base := t.TempDir()
		data := filepath.Join(base, "data")
		write(t, filepath.Join(data, "precious"))
		top := filepath.Join(base, "pod")
		dir, file := filepath.Join(top, "v/bind"), filepath.Join(top, "v/file")
		must(t, os.MkdirAll(dir, 0o755))
		write(t, file)
		write(t, filepath.Join(top, "v/ordinary"))
		must(t, unix.Mount(data, dir, "", unix.MS_BIND, ""))
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		must(t, unix.Mount(filepath.Join(data, "precious"), file, "", unix.MS_BIND, ""))
		t.Cleanup(func() { _ = unix.Unmount(file, unix.MNT_DETACH) })

		err := tree(top)
		if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), file) {
			t.Errorf("error %v, want one that names %s and %s", err, dir, file)
		}
		there(t, filepath.Join(data, "precious"))
		gone(t, filepath.Join(top, "v/ordinary"))

		must(t, unix.Unmount(dir, 0))
		must(t, unix.Unmount(file, 0))
		must(t, tree(top))
		gone(t, top)
		there(t, filepath.Join(data, "precious"))
	})
}

func TestImmutable(t *testing.T) {
	needRoot(t)
	const immutable, appendOnly = 0x10, 0x20
	set := func(t *testing.T, path string, flag int) {
		t.Helper()
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		had, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if err == nil {
			err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, had|flag)
		}
		if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
			t.Skipf("the file system of %s has no file flags: %v", path, err)
		} else if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if f, err := os.Open(path); err == nil {
				defer f.Close()
				_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, had)
			}
		})
	}
	each(t, func(t *testing.T, tree func(string) error) {
		base := t.TempDir()
		top := filepath.Join(base, "pod")
		write(t, filepath.Join(top, "file"))
		write(t, filepath.Join(top, "log"))
		write(t, filepath.Join(top, "dir/child"))
		write(t, filepath.Join(top, "dir/sub/child"))
		set(t, filepath.Join(top, "file"), immutable)
		set(t, filepath.Join(top, "log"), appendOnly)
		set(t, filepath.Join(top, "dir/sub"), immutable)
		set(t, filepath.Join(top, "dir"), immutable)
		must(t, tree(top))
		gone(t, top)

		// The flags of what is outside stay as they are.
		write(t, filepath.Join(base, "outside"))
		must(t, os.Mkdir(top, 0o755))
		must(t, os.Link(filepath.Join(base, "outside"), filepath.Join(top, "second name")))
		set(t, filepath.Join(base, "outside"), immutable)
		if err := tree(top); err == nil || !strings.Contains(err.Error(), "second name") {
			t.Errorf("error %v, want one that names the file", err)
		}
		there(t, filepath.Join(base, "outside"))
	})
}
