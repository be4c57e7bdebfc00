package stats

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t *testing.T, name string, size int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A tree with everything that a pod may leave in a volume is as large as du
// says.
func TestUsedBelow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volume")
	write(t, filepath.Join(dir, "file"), 10_000)
	write(t, filepath.Join(dir, "a/b/c/file"), 100)
	write(t, filepath.Join(dir, "a/other"), 70_000)
	outside := filepath.Join(t.TempDir(), "outside")
	write(t, outside, 1<<20)
	for _, err := range []error{
		os.Link(filepath.Join(dir, "file"), filepath.Join(dir, "a/again")),
		os.Symlink(outside, filepath.Join(dir, "link")),
		os.Symlink("/", filepath.Join(dir, "root")),
		os.Symlink("..", filepath.Join(dir, "a/up")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644),
		os.Truncate(filepath.Join(dir, "file"), 1<<30), // sparse
		os.Mkdir(filepath.Join(dir, "empty"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := usedBelow(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := du(t, dir); got != want {
		t.Errorf("got %+v, du says %+v", got, want)
	}
	if _, err := usedBelow(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if _, err := usedBelow(filepath.Join(dir, "root")); err == nil {
		t.Error("a link in place of the volume is followed")
	}
}

func du(t *testing.T, dir string) (s size) {
	t.Helper()
	number := func(flags ...string) uint64 {
		out, err := exec.Command("du", append(flags, "-sx", dir)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.ParseUint(strings.Fields(string(out))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return size{number("--block-size=1"), number("--inodes")}
}

// Directories deeper than there are descriptors, or than a path may be long.
func TestUsedBelowDeep(t *testing.T) {
	dir := t.TempDir()
	fd, err := openDir(unix.AT_FDCWD, dir)
	if err != nil {
		t.Fatal(err)
	}
	const depth = 3000
	for range depth {
		if err := unix.Mkdirat(fd, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		below, err := openDir(fd, "d")
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = below
	}
	unix.Close(fd)
	got, err := usedBelow(dir)
	if err != nil || got.inodes != depth+1 {
		t.Errorf("%+v, %v; want %d directories", got, err, depth+1)
	}
}

// What is mounted inside a volume is not its own.
func TestUsedBelowStaysOnTheFileSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("KUBELET_TEST_PRIVILEGED") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), 1000)
	write(t, filepath.Join(dir, "mnt/hidden"), 0)
	if err := unix.Mount("tmpfs", filepath.Join(dir, "mnt"), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(filepath.Join(dir, "mnt"), unix.MNT_DETACH)
	write(t, filepath.Join(dir, "mnt/file"), 100_000)
	got, err := usedBelow(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.inodes != 2 || got.bytes > 50_000 {
		t.Errorf("%+v", got)
	}
}

func TestPodFiles(t *testing.T) {
	dir := t.TempDir()
	logs, hosts := filepath.Join(dir, "ns_pod_uid"), filepath.Join(dir, "etc-hosts")
	if u, err := podFiles(logs, hosts); err != nil || u.size != (size{}) || len(u.containers) != 0 {
		t.Errorf("nothing there: %+v, %v", u, err)
	}
	write(t, filepath.Join(logs, "main/0.log"), 5000)
	write(t, filepath.Join(logs, "main/1.log"), 1)
	write(t, filepath.Join(logs, "side/0.log"), 1)
	write(t, filepath.Join(logs, "main/deeper/file"), 1<<20)
	write(t, hosts, 100)
	u, err := podFiles(logs, hosts)
	if err != nil {
		t.Fatal(err)
	}
	if u.containers["main"].inodes != 2 || u.containers["main"].bytes < 5001 || u.containers["main"].bytes > 50_000 || u.containers["side"].inodes != 1 || u.size.inodes != 1 {
		t.Errorf("%+v", u)
	}
}

func TestStatFS(t *testing.T) {
	f, err := statFS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if f.capacity == 0 || f.available > f.capacity || f.used > f.capacity || f.device == 0 {
		t.Errorf("%+v", f)
	}
	if _, err := statFS("/absent"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
