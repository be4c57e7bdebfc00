package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"

	"kubelet/internal/volume"
	"kubelet/internal/volume/builtin"
)

func quiet() context.Context { return klog.NewContext(context.Background(), klog.Logger{}) }

// Readers that go on reading while the ConfigMap changes see each version
// whole: the links they follow lead to old files or to new ones.
func TestUpdateIsAtomic(t *testing.T) {
	n := newNode(t)
	pod := newPod("uid-1", configMap("settings"))
	r := n.start()
	write := func(value string) {
		n.api.setConfigMap("settings", map[string]string{"a": value, "b": value})
		_, err := r.Mount(quiet(), pod)
		must(t, err)
	}
	write("0")
	dir := n.dir(pod, "kubernetes.io~configmap", "settings")

	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// A reader that needs both holds on to one version.
				version, err := os.Open(filepath.Join(dir, "..data"))
				if errors.Is(err, os.ErrNotExist) {
					continue // replaced between the link and its target
				} else if err != nil {
					t.Errorf("open: %v", err)
					return
				}
				a, errA := readAt(version, "a")
				b, errB := readAt(version, "b")
				version.Close()
				if errors.Is(errA, os.ErrNotExist) || errors.Is(errB, os.ErrNotExist) {
					continue // replaced meanwhile
				}
				if errA != nil || errB != nil || a != b || a == "" {
					t.Errorf("read %q (%v) and %q (%v)", a, errA, b, errB)
					return
				}
			}
		})
	}
	for i := range 100 {
		write(strings.Repeat("x", i+1))
	}
	close(stop)
	readers.Wait()
}

func readAt(dir *os.File, name string) (string, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	buf := make([]byte, 256)
	count, err := f.Read(buf)
	return string(buf[:count]), err
}

// A Mount with nothing to do writes nothing, in the same agent or the next.
func TestUnchangedMountWritesNothing(t *testing.T) {
	n := newNode(t)
	n.api.setConfigMap("settings", map[string]string{"a": "1"})
	pod := newPod("uid-1", configMap("settings"), emptyDir("scratch", ""))
	r := n.start()
	_, err := r.Mount(quiet(), pod)
	must(t, err)
	before := times(t, n.root)
	_, err = r.Mount(quiet(), pod)
	must(t, err)
	_, err = n.start().Mount(quiet(), pod)
	must(t, err)
	if after := times(t, n.root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// times lists when each file's content, name or mode changed last.
func times(t *testing.T, root string) string {
	var out strings.Builder
	must(t, filepath.Walk(root, func(path string, _ os.FileInfo, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		out.WriteString(path + " " + time.Unix(st.Ctim.Unix()).Format(time.RFC3339Nano) + "\n")
		return err
	}))
	return out.String()
}

// What somebody tore down behind the agent's back is put up again.
func TestRepairsDamage(t *testing.T) {
	needRoot(t)
	n := newNode(t)
	n.api.setConfigMap("settings", map[string]string{"a": "1"})
	n.api.secrets["default/cert"] = &v1.Secret{Data: map[string][]byte{"key": []byte("k")}}
	pod := newPod("uid-1", configMap("settings"), secret("cert"), emptyDir("memory", v1.StorageMediumMemory), emptyDir("disk", ""))
	r := n.start()
	mounts, err := r.Mount(quiet(), pod)
	must(t, err)
	want := listing(t, filepath.Dir(filepath.Dir(mounts["cert"].Path)))

	damage := map[string]func(){
		"tmpfs gone": func() {
			must(t, unix.Unmount(mounts["cert"].Path, 0))
			must(t, unix.Unmount(mounts["memory"].Path, 0))
		},
		"directories gone": func() {
			must(t, os.RemoveAll(mounts["settings"].Path))
			must(t, os.RemoveAll(mounts["disk"].Path))
		},
		"link gone": func() { must(t, os.Remove(filepath.Join(mounts["settings"].Path, "..data"))) },
		"link leads outside": func() {
			link := filepath.Join(mounts["settings"].Path, "..data")
			must(t, os.Remove(link))
			must(t, os.Symlink("/etc", link))
		},
		"everything gone": func() {
			must(t, unix.Unmount(mounts["cert"].Path, 0))
			must(t, unix.Unmount(mounts["memory"].Path, 0))
			must(t, os.RemoveAll(n.podDir(pod.UID)))
		},
	}
	for name, f := range damage {
		f()
		_, err := r.Mount(quiet(), pod)
		must(t, err)
		if got := listing(t, filepath.Dir(filepath.Dir(mounts["cert"].Path))); got != want {
			t.Errorf("%s: now\n%s\nwant\n%s", name, got, want)
		}
	}
}

// A pod that runs goes on with the content it has when the API server is away
// or its objects are deleted, also over a restart of the agent.
func TestGoesOnWithOlderContent(t *testing.T) {
	needRoot(t)
	synctest.Test(t, testGoesOnWithOlderContent)
}

func testGoesOnWithOlderContent(t *testing.T) {
	n := newNode(t)
	n.api.setConfigMap("settings", map[string]string{"a": "1"})
	pod := newPod("uid-1", configMap("settings"), token("api"))
	ctx, cancel := context.WithTimeout(quiet(), time.Minute)
	defer cancel()
	r := n.start()
	mounts, err := r.Mount(ctx, pod)
	must(t, err)
	check := func(what string) {
		t.Helper()
		got, err := r.Mount(ctx, pod)
		must(t, err)
		if len(got) != len(mounts) || read(t, got["settings"].Path, "a") != "1" || read(t, got["api"].Path, "token") == "" {
			t.Errorf("%s: mounts %v", what, got)
		}
	}

	n.api.set(func(a *api) { delete(a.configMaps, "default/settings") })
	check("object deleted")
	check("object deleted, second time")
	if len(n.stale) != 1 || n.stale[0] != `mount volume "settings": configmap "settings" not found` {
		t.Errorf("reported %q, want the missing configmap, once", n.stale)
	}
	if in := time.Until(r.NextRefresh(pod.UID)); in <= 0 || in > time.Minute {
		t.Errorf("next try in %s", in)
	}
	r = n.start()
	check("object deleted, agent restarted")

	n.api.set(func(a *api) { a.away = true })
	begun := time.Now()
	check("API server away")
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("the pod waited %s for an API server that is away", took)
	}

	n.api.set(func(a *api) { a.away = false })
	n.api.setConfigMap("settings", map[string]string{"a": "2"})
	_, err = r.Mount(ctx, pod)
	must(t, err)
	if got := read(t, mounts["settings"].Path, "a"); got != "2" {
		t.Errorf("after the object came back: %q", got)
	}
	if next := r.NextRefresh(pod.UID); !next.IsZero() {
		t.Errorf("next refresh %s although everything is up to date", next)
	}
}

// A pod that has no content yet does not start on none.
func TestNoContentNoMount(t *testing.T) {
	n := newNode(t)
	n.api.away = true
	ctx, cancel := context.WithTimeout(quiet(), 50*time.Millisecond)
	defer cancel()
	_, err := n.start().Mount(ctx, newPod("uid-1", configMap("settings")))
	if err == nil || !strings.Contains(err.Error(), `"settings"`) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want one that names the volume and the deadline", err)
	}
	if apierrors.IsNotFound(err) {
		t.Error("an API server that is away is not a missing object")
	}
}

func TestTokenRefresh(t *testing.T) {
	needRoot(t)
	n := newNode(t)
	pod := newPod("uid-1", token("late"), token("api"))
	due := time.Now().Add(48 * time.Minute)
	n.api.refreshAt = due
	r := n.start()
	mounts, err := r.Mount(quiet(), pod)
	must(t, err)
	if got := r.NextRefresh(pod.UID); !got.Equal(due) {
		t.Errorf("next refresh %s, want %s", got, due)
	}
	n.api.set(func(a *api) { a.token, a.refreshAt = "renewed", time.Now().Add(-time.Hour) })
	_, err = r.Mount(quiet(), pod)
	must(t, err)
	if got := read(t, mounts["api"].Path, "token"); !strings.HasPrefix(got, "renewed") {
		t.Errorf("token %q", got)
	}
	// A token that is always due does not keep the agent busy.
	if in := time.Until(r.NextRefresh(pod.UID)); in < time.Second {
		t.Errorf("next refresh in %s", in)
	}
	must(t, r.Unmount(quiet(), pod.UID))
	if got := r.NextRefresh(pod.UID); !got.IsZero() {
		t.Errorf("next refresh of a pod that is gone: %s", got)
	}
}

// The downward API follows the pod's labels.
func TestDownwardUpdate(t *testing.T) {
	needRoot(t)
	n := newNode(t)
	pod := newPod("uid-1", v1.Volume{Name: "info", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{
		Items: []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}})
	r := n.start()
	mounts, err := r.Mount(quiet(), pod)
	must(t, err)
	changed := pod.DeepCopy()
	changed.Labels["tier"] = "front"
	_, err = r.Mount(quiet(), changed)
	must(t, err)
	if got, want := read(t, mounts["info"].Path, "labels"), "app=\"web\"\ntier=\"front\""; got != want {
		t.Errorf("labels %q, want %q", got, want)
	}
}

func TestBesideSandbox(t *testing.T) {
	n := newNode(t)
	r := n.start()
	cases := []struct {
		name string
		v    v1.Volume
		want bool
	}{
		{"emptyDir", emptyDir("v", ""), true},
		{"configMap", configMap("v"), true},
		{"token", token("v"), true},
		{"hostPath", hostPath("v", "/x", ""), true},
		{"hostPath made if need be", hostPath("v", "/x", v1.HostPathDirectoryOrCreate), true},
		{"hostPath that may come later", hostPath("v", "/x", v1.HostPathSocket), false},
		{"type that is not there", v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{NFS: &v1.NFSVolumeSource{}}}, false},
	}
	for _, c := range cases {
		if got := r.BesideSandbox(newPod("uid-1", c.v)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	n.api.away = true
	if r.BesideSandbox(newPod("uid-1", configMap("v"))) {
		t.Error("beside the sandbox although an object is not there")
	}
}

func TestMountOptionsOfTmpfs(t *testing.T) {
	needRoot(t)
	n := newNode(t)
	n.allocatable = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}
	pod := newPod("uid-1", emptyDir("scratch", v1.StorageMediumMemory))
	mounts, err := n.start().Mount(quiet(), pod)
	must(t, err)
	var st unix.Statfs_t
	must(t, unix.Statfs(mounts["scratch"].Path, &st))
	if size := int64(st.Blocks) * st.Bsize; size != 64<<20 {
		t.Errorf("tmpfs of %d bytes, want 64 MiB", size)
	}
}

func TestHugePages(t *testing.T) {
	needRoot(t)
	if _, err := os.Stat("/sys/kernel/mm/hugepages/hugepages-2048kB"); err != nil {
		t.Skip("this kernel has no huge pages of 2 MiB")
	}
	n := newNode(t)
	pod := newPod("uid-1", emptyDir("huge", "HugePages-2Mi"))
	pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{"hugepages-2Mi": resource.MustParse("2Mi")}
	for range 2 {
		mounts, err := n.start().Mount(quiet(), pod)
		must(t, err)
		var st unix.Statfs_t
		must(t, unix.Statfs(mounts["huge"].Path, &st))
		if st.Type != unix.HUGETLBFS_MAGIC || st.Bsize != 2<<20 || len(n.mounts()) != 1 {
			t.Errorf("file system %#x with pages of %d, %d mounts", st.Type, st.Bsize, len(n.mounts()))
		}
	}
	must(t, n.start().Unmount(quiet(), pod.UID))
	n.clean(pod.UID)
}

// Without an API server, what needs one says so and is not tried again.
func TestStandalone(t *testing.T) {
	r, err := volume.New(volume.Config{
		Root:    t.TempDir(),
		Objects: volume.Standalone{},
		Plugins: builtin.Plugins(builtin.Config{
			Objects:     volume.Standalone{},
			Tokens:      volume.Standalone{},
			Allocatable: func() v1.ResourceList { return nil },
		}),
	})
	must(t, err)
	for _, v := range []v1.Volume{configMap("v"), secret("v"), token("v")} {
		_, err := r.Mount(quiet(), newPod("uid-1", v))
		var ve *volume.Error
		if !errors.As(err, &ve) || !ve.Permanent || !strings.Contains(err.Error(), "without an API server") {
			t.Errorf("error %v, want a permanent one that says why", err)
		}
	}
	_, err = r.Mount(quiet(), newPod("uid-2", emptyDir("v", ""), hostPath("h", "/", v1.HostPathDirectory)))
	must(t, err)
}

func BenchmarkUnchangedMount(b *testing.B) {
	needRoot(b)
	n := newNode(b)
	n.api.setConfigMap("settings", map[string]string{"a": strings.Repeat("x", 1000), "b": strings.Repeat("y", 1000)})
	n.api.secrets["default/cert"] = &v1.Secret{Data: map[string][]byte{"key": []byte("k")}}
	pod := newPod("uid-1", configMap("settings"), secret("cert"), emptyDir("scratch", ""), token("api"))
	r := n.start()
	_, err := r.Mount(quiet(), pod)
	must(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Mount(quiet(), pod); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMountUnmount(b *testing.B) {
	needRoot(b)
	n := newNode(b)
	n.api.setConfigMap("settings", map[string]string{"a": "1"})
	n.api.secrets["default/cert"] = &v1.Secret{Data: map[string][]byte{"key": []byte("k")}}
	pod := newPod("uid-1", configMap("settings"), secret("cert"), emptyDir("scratch", ""), token("api"))
	r := n.start()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Mount(quiet(), pod); err != nil {
			b.Fatal(err)
		}
		if err := r.Unmount(quiet(), pod.UID); err != nil {
			b.Fatal(err)
		}
	}
}
