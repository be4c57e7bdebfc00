package volume_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// bind mounts source at target, which it makes.
func (n *node) bind(source, target string) {
	n.t.Helper()
	info, err := os.Stat(source)
	must(n.t, err)
	if info.IsDir() {
		must(n.t, os.MkdirAll(target, 0o755))
	} else {
		must(n.t, os.MkdirAll(filepath.Dir(target), 0o755))
		must(n.t, os.WriteFile(target, nil, 0o644))
	}
	must(n.t, unix.Mount(source, target, "", unix.MS_BIND, ""))
}

// data makes a directory with data that must not be lost, outside of the
// kubelet's root.
func (n *node) data() (dir, file string) {
	dir = filepath.Join(n.base, "data")
	file = filepath.Join(dir, "precious")
	must(n.t, os.MkdirAll(dir, 0o755))
	must(n.t, os.WriteFile(file, []byte("precious"), 0o644))
	return dir, file
}

func TestUnmountWithoutAnything(t *testing.T) {
	n := newNode(t)
	must(t, n.start().Unmount(context.Background(), "never-seen"))
	if uids, err := n.start().OnDisk(); err != nil || len(uids) != 0 {
		t.Errorf("on disk: %v, %v", uids, err)
	}
}

func TestUnmountRefusesNamesThatLeadElsewhere(t *testing.T) {
	n := newNode(t)
	_, file := n.data()
	for _, uid := range []string{"", ".", "..", "../../data", "a/b", "/"} {
		if err := n.start().Unmount(context.Background(), types.UID(uid)); err == nil {
			t.Errorf("Unmount of %q succeeded", uid)
		}
	}
	read(t, file)
}

// What lies on disk of a forgotten pod goes, however it got there; what it
// points to stays.
func TestUnmountOrphan(t *testing.T) {
	n := newNode(t)
	data, file := n.data()
	pod := n.podDir("orphan")
	must(t, os.MkdirAll(filepath.Join(pod, "containers/main"), 0o750))
	must(t, os.WriteFile(filepath.Join(pod, "containers/main/5f3a"), nil, 0o644))
	must(t, os.MkdirAll(filepath.Join(pod, "volumes/kubernetes.io~empty-dir/a\nb"), 0o750))
	must(t, os.MkdirAll(filepath.Join(pod, "volumes/example.com~unheard-of/x"), 0o750))
	must(t, os.Symlink(data, filepath.Join(pod, "volumes/kubernetes.io~secret")))
	must(t, os.Symlink(data, filepath.Join(pod, "volumes/kubernetes.io~empty-dir/link")))
	must(t, os.Symlink(data, n.podDir("link")))
	for _, uid := range []string{"orphan", "link"} {
		must(t, n.start().Unmount(context.Background(), types.UID(uid)))
		n.clean(types.UID(uid))
	}
	read(t, file)
}

// Mounts that containers made inside a volume and that spread to the node are
// undone, not deleted through.
func TestUnmountKeepsDataOfForeignMounts(t *testing.T) {
	needRoot(t)
	for _, medium := range []v1.StorageMedium{"", v1.StorageMediumMemory} {
		t.Run("on "+string(medium), func(t *testing.T) {
			n := newNode(t)
			data, file := n.data()
			pod := newPod("uid-1", emptyDir("scratch", medium), emptyDir("other", v1.StorageMediumMemory))
			r := n.start()
			mounts, err := r.Mount(context.Background(), pod)
			must(t, err)
			scratch := mounts["scratch"].Path
			n.bind(data, filepath.Join(scratch, "bind"))
			n.bind(data, filepath.Join(scratch, "bind")) // twice
			n.bind(file, filepath.Join(scratch, "with space\nand newline"))
			n.bind(data, filepath.Join(n.podDir(pod.UID), "volume-subpaths/scratch/main/0"))
			n.bind(data, scratch) // over the volume itself
			must(t, r.Unmount(context.Background(), pod.UID))
			n.clean(pod.UID)
			if got := read(t, file); got != "precious" {
				t.Errorf("data is now %q", got)
			}
		})
	}
}

// A mount that cannot be undone stops everything, is named, and nothing is
// lost; once it can be, the next Unmount goes through.
func TestUnmountStopsAtBusyMount(t *testing.T) {
	needRoot(t)
	n := newNode(t)
	data, file := n.data()
	pod := newPod("uid-1", emptyDir("scratch", ""))
	r := n.start()
	mounts, err := r.Mount(context.Background(), pod)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(mounts["scratch"].Path, "kept too"), nil, 0o644))
	target := filepath.Join(mounts["scratch"].Path, "bind")
	n.bind(data, target)
	open, err := os.Open(filepath.Join(target, "precious"))
	must(t, err)
	defer open.Close()

	err = r.Unmount(context.Background(), pod.UID)
	if err == nil || !strings.Contains(err.Error(), target) || !strings.Contains(err.Error(), "busy") {
		t.Fatalf("error %v, want one that names %s as busy", err, target)
	}
	read(t, file)
	read(t, mounts["scratch"].Path, "kept too")

	open.Close()
	must(t, r.Unmount(context.Background(), pod.UID))
	n.clean(pod.UID)
	read(t, file)
}

// A busy tmpfs of ours is detached: it must not keep the pod.
func TestUnmountBusyTmpfs(t *testing.T) {
	needRoot(t)
	n := newNode(t)
	n.api.secrets["default/cert"] = &v1.Secret{Data: map[string][]byte{"key": []byte("k")}}
	pod := newPod("uid-1", secret("cert"))
	r := n.start()
	mounts, err := r.Mount(context.Background(), pod)
	must(t, err)
	open, err := os.Open(filepath.Join(mounts["cert"].Path, "key"))
	must(t, err)
	defer open.Close()
	must(t, r.Unmount(context.Background(), pod.UID))
	n.clean(pod.UID)
}

// Volumes of types that this kubelet does not have yet were mounted by another
// one; their drivers have to be told, so they are left alone.
func TestUnmountLeavesUnknownTypesAlone(t *testing.T) {
	needRoot(t)
	for _, place := range []string{"volumes/kubernetes.io~csi/pvc-1/mount", "volumeDevices/kubernetes.io~csi/pvc-1"} {
		n := newNode(t)
		data, file := n.data()
		target := filepath.Join(n.podDir("uid-1"), place)
		n.bind(data, target)
		err := n.start().Unmount(context.Background(), "uid-1")
		if err == nil || !strings.Contains(err.Error(), target) || !strings.Contains(err.Error(), "kubernetes.io~csi") {
			t.Errorf("error %v, want one that names %s and its type", err, target)
		}
		read(t, file)
		if len(n.mounts()) != 1 {
			t.Errorf("%s was unmounted", target)
		}
	}
}

// The kubelet's root may be reached through a link, though the mount table
// knows only where it really is.
func TestUnmountThroughLinkedRoot(t *testing.T) {
	needRoot(t)
	n := newNode(t)
	real := filepath.Join(n.base, "real")
	must(t, os.Mkdir(real, 0o755))
	must(t, os.Symlink(real, n.root))
	pod := newPod("uid-1", emptyDir("scratch", v1.StorageMediumMemory))
	r := n.start()
	_, err := r.Mount(context.Background(), pod)
	must(t, err)
	must(t, r.Unmount(context.Background(), pod.UID))
	n.clean(pod.UID)
	if left := n.mounts(); len(left) > 0 {
		t.Errorf("still mounted: %v", left)
	}
}

// A root that is itself on a tmpfs, as on some appliances and in test nodes.
func TestRootOnTmpfs(t *testing.T) {
	needRoot(t)
	n := newNode(t)
	must(t, os.Mkdir(n.root, 0o755))
	must(t, unix.Mount("tmpfs", n.root, "tmpfs", 0, ""))
	pod := newPod("uid-1", emptyDir("disk", ""), emptyDir("memory", v1.StorageMediumMemory))
	for range 2 {
		r := n.start()
		_, err := r.Mount(context.Background(), pod)
		must(t, err)
		if got := len(n.mounts()); got != 2 {
			t.Errorf("%d mounts, want the root's and the volume's", got)
		}
	}
	must(t, n.start().Unmount(context.Background(), pod.UID))
	n.clean(pod.UID)
	if got := len(n.mounts()); got != 1 {
		t.Errorf("%d mounts, want the root's", got)
	}
}
