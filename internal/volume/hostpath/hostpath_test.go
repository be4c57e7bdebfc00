package hostpath_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/volume"
	"kubelet/internal/volume/hostpath"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTypes(t *testing.T) {
	base := t.TempDir()
	must(t, os.Mkdir(filepath.Join(base, "dir"), 0o755))
	must(t, os.WriteFile(filepath.Join(base, "file"), []byte("data"), 0o644))
	must(t, os.Symlink("dir", filepath.Join(base, "link")))
	must(t, unix.Mkfifo(filepath.Join(base, "fifo"), 0o600))
	listener, err := net.Listen("unix", filepath.Join(base, "socket"))
	must(t, err)
	defer listener.Close()

	cases := []struct {
		kind, path string
		error      string // empty: it mounts
		makes      string
	}{
		{"", "nothing", "", ""},
		{"Directory", "dir", "", ""},
		{"Directory", "link", "", ""},
		{"Directory", "file", "is a file, not a directory", ""},
		{"Directory", "nothing", "does not exist, want a directory", ""},
		{"DirectoryOrCreate", "new/sub", "", "directory"},
		{"DirectoryOrCreate", "new/sub", "", "directory"},
		{"DirectoryOrCreate", "file", "is a file, not a directory", ""},
		{"File", "file", "", ""},
		{"File", "dir", "is a directory, not a file", ""},
		{"File", "fifo", "is a named pipe, not a file", ""},
		{"File", "nothing", "does not exist, want a file", ""},
		{"FileOrCreate", "newfile", "", "file"},
		{"FileOrCreate", "file", "", ""},
		{"FileOrCreate", "no/parent", "no such file or directory", ""},
		{"Socket", "socket", "", ""},
		{"Socket", "nothing", "does not exist, want a socket", ""},
		{"CharDevice", "/dev/null", "", ""},
		{"CharDevice", "file", "is a file, not a character device", ""},
		{"BlockDevice", "/dev/null", "is a character device, not a block device", ""},
		{"Tape", "file", `unknown hostPath type "Tape"`, ""},
		{"File", "file/below", "not a directory", ""},
	}
	for _, c := range cases {
		t.Run(c.kind+" "+c.path, func(t *testing.T) {
			path := c.path
			if !filepath.IsAbs(path) {
				path = filepath.Join(base, path)
			}
			got, err := mount(hostpath.New(), path, v1.HostPathType(c.kind))
			if c.error != "" {
				if err == nil || !strings.Contains(err.Error(), c.error) || !strings.Contains(err.Error(), c.path) && c.kind != "Tape" {
					t.Errorf("error %v, want one that names the path and says %q", err, c.error)
				}
				return
			}
			must(t, err)
			if got.Path != path || got.ReadOnly || got.SELinuxRelabel {
				t.Errorf("mount %+v", got)
			}
			if info, err := os.Stat(path); c.makes == "directory" && (err != nil || !info.IsDir()) {
				t.Errorf("made %v, %v; want a directory", info, err)
			} else if c.makes == "file" && (err != nil || !info.Mode().IsRegular()) {
				t.Errorf("made %v, %v; want a file", info, err)
			}
		})
	}
	if data, _ := os.ReadFile(filepath.Join(base, "file")); string(data) != "data" {
		t.Errorf("file now holds %q", data)
	}
}

func TestRefusesPaths(t *testing.T) {
	for _, path := range []string{"", "relative", "/a/../b", "/a/.."} {
		_, err := mount(hostpath.New(), path, "")
		ve, ok := err.(*volume.Error)
		if !ok || !ve.Permanent {
			t.Errorf("path %q: %v, want a permanent error", path, err)
		}
	}
}

func mount(p *hostpath.Plugin, path string, kind v1.HostPathType) (volume.Mount, error) {
	return p.Mount(context.Background(), volume.Spec{
		Pod:    &v1.Pod{},
		Volume: &v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path, Type: &kind}}},
		Memo:   &volume.Memo{},
		Step:   func(string, string) error { return nil },
	})
}
