package mounttable

import (
	"os"
	"path/filepath"
	"slices"
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

func TestBelow(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	table, err := New(base)
	must(t, err)
	defer table.Close()

	var mounted []string
	mount := func(path string) {
		t.Helper()
		must(t, os.MkdirAll(path, 0o755))
		must(t, unix.Mount("tmpfs", path, "tmpfs", 0, "size=64k"))
		t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
		mounted = append(mounted, path)
	}
	check := func() {
		t.Helper()
		entries, err := table.Below(base)
		must(t, err)
		var got []string
		for _, e := range entries {
			got = append(got, e.Path)
			if e.FSType != "tmpfs" {
				t.Errorf("%s is %s", e.Path, e.FSType)
			}
		}
		want := slices.Clone(mounted)
		slices.Reverse(want)
		if !slices.Equal(got, want) {
			t.Errorf("mounted %q, want %q", got, want)
		}
	}
	check()
	mount(filepath.Join(base, "a"))
	check()
	mount(filepath.Join(base, "a/b c\nd"))
	mount(filepath.Join(base, "a")) // hides the others
	mount(filepath.Join(base, "a2"))
	check()
	check() // from memory

	entries, err := table.Below(filepath.Join(base, "a"))
	must(t, err)
	if len(entries) != 3 {
		t.Errorf("below a: %v, want three, without a2", entries)
	}
	for _, m := range slices.Backward(mounted) {
		must(t, unix.Unmount(m, 0))
		mounted = mounted[:len(mounted)-1]
		check()
	}
}

func TestReadsOnlyAfterChanges(t *testing.T) {
	table, err := New(t.TempDir())
	must(t, err)
	defer table.Close()
	if _, err := table.Below(table.prefix); err != nil {
		t.Fatal(err)
	}
	if changed, err := table.changed(); err != nil || changed {
		t.Skipf("another process mounts or unmounts right now (%v)", err)
	}
	allocations := testing.AllocsPerRun(100, func() { _, _ = table.Below(table.prefix) })
	if allocations > 5 {
		t.Errorf("%.0f allocations for an unchanged table: it is read again", allocations)
	}
}
