package ownership_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/volume/ownership"
)

// needRoot stops a test that changes owners: it fails where privileges are
// promised, and says why it did not run elsewhere.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("KUBELET_TEST_PRIVILEGED") == "1" {
		t.Fatal("this test needs root, and KUBELET_TEST_PRIVILEGED=1 says it has to run")
	}
	t.Skip("this test changes the owners of files and needs root")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// volume makes a directory with a bit of everything, and a file outside of it
// that a link in it leads to.
func volume(t *testing.T) (dir string) {
	base := t.TempDir()
	dir = filepath.Join(base, "volume")
	must(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o700))
	must(t, os.Chmod(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(base, "outside"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "sub/file"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "tool"), nil, 0o755))
	must(t, os.Chmod(filepath.Join(dir, "tool"), 0o755|fs.ModeSetuid))
	must(t, os.Symlink("../outside", filepath.Join(dir, "link")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	return dir
}

func listing(t *testing.T, dir string) string {
	var out strings.Builder
	must(t, filepath.WalkDir(filepath.Dir(dir), func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		if path == filepath.Dir(dir) {
			return nil
		}
		info, err := d.Info()
		must(t, err)
		rel, _ := filepath.Rel(filepath.Dir(dir), path)
		fmt.Fprintf(&out, "%s %s %d\n", rel, info.Mode(), info.Sys().(*syscall.Stat_t).Gid)
		return nil
	}))
	return out.String()
}

func TestApply(t *testing.T) {
	needRoot(t)
	group := int64(2000)
	always, onMismatch := v1.FSGroupChangeAlways, v1.FSGroupChangeOnRootMismatch
	const (
		untouched = `outside -rw------- 0
volume drwxr-xr-x 0
volume/fifo prw------- 0
volume/link Lrwxrwxrwx 0
volume/sub drwx------ 0
volume/sub/file -rw------- 0
volume/tool urwxr-xr-x 0
`
		readWrite = `outside -rw------- 0
volume dgrwxrwxr-x 2000
volume/fifo prw-rw---- 2000
volume/link Lrwxrwxrwx 2000
volume/sub dgrwxrwx--- 2000
volume/sub/file -rw-rw---- 2000
volume/tool urwxrwxr-x 2000
`
	)
	readOnly := strings.NewReplacer("dgrwxrwxr-x", "dgrwxr-xr-x", "prw-rw----", "prw-r-----",
		"dgrwxrwx---", "dgrwxr-x---", "-rw-rw----", "-rw-r-----", "urwxrwxr-x", "urwxr-xr-x").Replace(readWrite)
	cases := []struct {
		name    string
		options ownership.Options
		prepare func(dir string)
		want    string
	}{
		{name: "no group", want: untouched},
		{name: "writable", options: ownership.Options{Group: &group}, want: readWrite},
		{name: "read-only", options: ownership.Options{Group: &group, ReadOnly: true}, want: readOnly},
		{name: "on mismatch, root differs", options: ownership.Options{Group: &group, Policy: &onMismatch}, want: readWrite},
		{
			name:    "on mismatch, root is right",
			options: ownership.Options{Group: &group, Policy: &onMismatch},
			prepare: func(dir string) {
				must(t, os.Chown(dir, -1, 2000))
				must(t, os.Chmod(dir, 0o775|fs.ModeSetgid))
			},
			want: strings.Replace(untouched, "volume drwxr-xr-x 0", "volume dgrwxrwxr-x 2000", 1),
		},
		{
			name:    "on mismatch, root lacks the setgid bit",
			options: ownership.Options{Group: &group, Policy: &onMismatch},
			prepare: func(dir string) {
				must(t, os.Chown(dir, -1, 2000))
				must(t, os.Chmod(dir, 0o775))
			},
			want: readWrite,
		},
		{
			name:    "always, root is right",
			options: ownership.Options{Group: &group, Policy: &always},
			prepare: func(dir string) {
				must(t, os.Chown(dir, -1, 2000))
				must(t, os.Chmod(dir, 0o775|fs.ModeSetgid))
			},
			want: readWrite,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := volume(t)
			if c.prepare != nil {
				c.prepare(dir)
			}
			for range 2 { // idempotent
				must(t, ownership.Apply(context.Background(), dir, c.options))
				if got := listing(t, dir); got != c.want {
					t.Errorf("now\n%swant\n%s", got, c.want)
				}
			}
		})
	}
}

func TestRefusesLinkAndHeedsContext(t *testing.T) {
	group := int64(os.Getgid())
	dir := volume(t)
	link := dir + "-link"
	must(t, os.Symlink(dir, link))
	if err := ownership.Apply(context.Background(), link, ownership.Options{Group: &group}); err == nil {
		t.Error("followed a link in place of the volume")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := ownership.Apply(ctx, dir, ownership.Options{Group: &group}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
}
