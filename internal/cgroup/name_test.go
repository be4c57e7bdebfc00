package cgroup

import (
	"path"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func TestPathByDriver(t *testing.T) {
	const uid = types.UID("0b4c2d1e-5f6a-4b7c-8d9e-0f1a2b3c4d5e")
	for _, c := range []struct {
		root   string
		levels []string
		fs     string
		slice  string
	}{
		{"", nil, "/kubepods/pod" + string(uid),
			"/kubepods.slice/kubepods-pod0b4c2d1e_5f6a_4b7c_8d9e_0f1a2b3c4d5e.slice"},
		{"/", []string{"burstable"}, "/kubepods/burstable/pod" + string(uid),
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b4c2d1e_5f6a_4b7c_8d9e_0f1a2b3c4d5e.slice"},
		{"/my-node/x", []string{"besteffort"}, "/my-node/x/kubepods/besteffort/pod" + string(uid),
			"/my_node.slice/my_node-x.slice/my_node-x-kubepods.slice/my_node-x-kubepods-besteffort.slice/my_node-x-kubepods-besteffort-pod0b4c2d1e_5f6a_4b7c_8d9e_0f1a2b3c4d5e.slice"},
		{"../../etc", nil, "/etc/kubepods/pod" + string(uid),
			"/etc.slice/etc-kubepods.slice/etc-kubepods-pod0b4c2d1e_5f6a_4b7c_8d9e_0f1a2b3c4d5e.slice"},
	} {
		root, err := parseRoot(c.root)
		if err != nil {
			t.Fatal(err)
		}
		level := root.child("kubepods")
		for _, l := range c.levels {
			level = level.child(l)
		}
		n := level.pod(uid)
		for driver, want := range map[Driver]string{Cgroupfs: c.fs, Systemd: c.slice} {
			if got := n.path(driver); got != want {
				t.Errorf("root %q, %s: %s, want %s", c.root, driver, got, want)
			}
			if got, ok := level.parsePod(path.Base(n.path(driver)), driver); !ok || got != uid {
				t.Errorf("root %q, %s: parsed back as %q, %v", c.root, driver, got, ok)
			}
		}
	}
}

func TestDirectoriesThatAreNotPods(t *testing.T) {
	root := name{"kubepods"}
	for driver, dirs := range map[Driver][]string{
		Cgroupfs: {"burstable", "besteffort", "pod", "pod..", "podx_y", "foo", "pod a", "pod" + strings.Repeat("x", 200)},
		Systemd: {"kubepods-burstable.slice", "kubepods-burstable-podx.slice", "kubepods-pod.slice", "kubepods-podx.scope",
			"cri-containerd-abc.scope", "podx.slice", "kubepods-podx-y.slice"},
	} {
		for _, dir := range dirs {
			if uid, ok := root.parsePod(dir, driver); ok && dir != "pod.." {
				t.Errorf("%s: %s taken for pod %q", driver, dir, uid)
			}
		}
	}
}

func TestHostileUIDs(t *testing.T) {
	for _, uid := range []types.UID{"", "/", "../x", "a/b", "a b", "a\nb", "a\x00", "a_b", "ä", types.UID(strings.Repeat("a", 129))} {
		if checkUID(uid) == nil {
			t.Errorf("UID %q accepted", uid)
		}
	}
}

func FuzzParsePod(f *testing.F) {
	f.Add("podabc", false)
	f.Add("kubepods-poda_b.slice", true)
	f.Fuzz(func(t *testing.T, dir string, systemd bool) {
		driver := Cgroupfs
		if systemd {
			driver = Systemd
		}
		level := name{"kubepods"}
		uid, ok := level.parsePod(dir, driver)
		if !ok {
			return
		}
		p := level.pod(uid).path(driver)
		if p != path.Clean(p) || path.Dir(p) != level.path(driver) {
			t.Fatalf("%q is pod %q at %s, outside of its level", dir, uid, p)
		}
	})
}

func FuzzPathStaysBelowRoot(f *testing.F) {
	f.Add("/a/../b", "uid-1")
	f.Add("..", "..")
	f.Fuzz(func(t *testing.T, root, uid string) {
		n, err := parseRoot(root)
		if err != nil || checkUID(types.UID(uid)) != nil {
			return
		}
		for _, driver := range []Driver{Cgroupfs, Systemd} {
			level := n.child("kubepods")
			p := level.pod(types.UID(uid)).path(driver)
			if path.Clean(p) != p || path.Dir(p) != level.path(driver) || strings.Count(p, "/") != len(level)+1 {
				t.Fatalf("root %q, UID %q: %s", root, uid, p)
			}
		}
	})
}
