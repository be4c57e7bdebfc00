package volume_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/volume"
	"kubelet/internal/volume/builtin"
	"kubelet/internal/volume/mounttable"
)

// needRoot stops a test that mounts: it fails where privileges are promised,
// and says why it did not run elsewhere.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("KUBELET_TEST_PRIVILEGED") == "1" {
		t.Fatal("this test needs root, and KUBELET_TEST_PRIVILEGED=1 says it has to run")
	}
	t.Skip("this test mounts file systems and needs root")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// api is an API server as volumes see it.
type api struct {
	mu         sync.Mutex
	configMaps map[string]*v1.ConfigMap
	secrets    map[string]*v1.Secret
	token      string
	refreshAt  time.Time
	away       bool // answers nothing
}

func (a *api) ready(ctx context.Context) error {
	if a.away {
		a.mu.Unlock()
		defer a.mu.Lock()
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (a *api) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.ready(ctx); err != nil {
		return nil, err
	}
	if o := a.configMaps[namespace+"/"+name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmaps"), name)
}

func (a *api) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.ready(ctx); err != nil {
		return nil, err
	}
	if o := a.secrets[namespace+"/"+name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
}

func (a *api) Pending(*v1.Pod) bool { return false }

func (a *api) Cached(*v1.Pod) bool { return !a.away }

func (a *api) Token(ctx context.Context, pod *v1.Pod, audience string, seconds int64) (string, time.Time, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.ready(ctx); err != nil {
		return "", time.Time{}, err
	}
	return fmt.Sprintf("%s aud=%s exp=%d", a.token, audience, seconds), a.refreshAt, nil
}

func (a *api) set(f func(a *api)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(a)
}

func (a *api) setConfigMap(name string, data map[string]string) {
	a.set(func(a *api) {
		a.configMaps["default/"+name] = &v1.ConfigMap{Data: data}
	})
}

// node is a kubelet's root directory and what is above it.
type node struct {
	t           testing.TB
	base, root  string
	api         *api
	allocatable v1.ResourceList
	stale       []string
}

func newNode(t testing.TB) *node {
	n := nodeAt(t, tempDir(t))
	t.Cleanup(func() {
		for _, m := range n.mounts() {
			_ = unix.Unmount(m.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	})
	return n
}

func nodeAt(t testing.TB, base string) *node {
	return &node{
		t:    t,
		base: base,
		root: filepath.Join(base, "kubelet"),
		api:  &api{configMaps: map[string]*v1.ConfigMap{}, secrets: map[string]*v1.Secret{}, token: "token"},
	}
}

// tempDir is a directory in memory if there is such a place: these tests make
// and remove thousands of files.
func tempDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "volume-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// mounts returns what is mounted below the node's base.
func (n *node) mounts() []mounttable.Entry {
	table, err := mounttable.New(n.base)
	must(n.t, err)
	defer table.Close()
	found, err := table.Below(n.base)
	must(n.t, err)
	return found
}

// start returns a reconciler as a newly started agent has it.
func (n *node) start() *volume.Reconciler {
	n.t.Helper()
	r, err := volume.New(volume.Config{
		Root: n.root,
		Plugins: builtin.Plugins(builtin.Config{
			Objects:     n.api,
			Tokens:      n.api,
			Allocatable: func() v1.ResourceList { return n.allocatable },
		}),
		Objects: n.api,
		Stale:   func(pod *v1.Pod, err *volume.Error) { n.stale = append(n.stale, err.Error()) },
	})
	must(n.t, err)
	return r
}

func (n *node) podDir(uid types.UID) string { return filepath.Join(n.root, "pods", string(uid)) }

func (n *node) dir(pod *v1.Pod, plugin, name string) string {
	return filepath.Join(n.podDir(pod.UID), "volumes", plugin, name)
}

// clean asserts that nothing of the pod is left.
func (n *node) clean(uid types.UID) {
	n.t.Helper()
	if _, err := os.Lstat(n.podDir(uid)); !errors.Is(err, fs.ErrNotExist) {
		n.t.Errorf("pod directory is still there (%v)", err)
	}
	for _, m := range n.mounts() {
		if strings.HasPrefix(m.Path, n.podDir(uid)) {
			n.t.Errorf("%s is still mounted", m.Path)
		}
	}
}

// pod returns a pod with one container that mounts all these volumes.
func newPod(uid string, volumes ...v1.Volume) *v1.Pod {
	pod := &v1.Pod{}
	pod.Name, pod.Namespace, pod.UID = "web", "default", types.UID(uid)
	pod.Labels = map[string]string{"app": "web"}
	pod.Spec.ServiceAccountName = "robot"
	pod.Spec.Volumes = volumes
	c := v1.Container{Name: "main"}
	for _, v := range volumes {
		c.VolumeMounts = append(c.VolumeMounts, v1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
	}
	pod.Spec.Containers = []v1.Container{c}
	return pod
}

func emptyDir(name string, medium v1.StorageMedium) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: medium}}}
}

func configMap(name string) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
		LocalObjectReference: v1.LocalObjectReference{Name: name}}}}
}

func secret(name string) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: name}}}
}

func hostPath(name, path string, kind v1.HostPathType) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path, Type: &kind}}}
}

func token(name string) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}}}}}}
}

// listing describes a directory as a container sees it: a line per file, with
// type and mode, owner where it is not the test's own, and content or target.
// The volume's own names, which change from time to time, are left out.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	describe := func(name, path string, info fs.FileInfo) string {
		st := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%s %s", name, info.Mode())
		if int(st.Uid) != os.Getuid() || int(st.Gid) != os.Getgid() {
			line += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
		}
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			must(t, err)
			line += fmt.Sprintf(" %q", data)
		}
		return line
	}
	var walk func(rel string)
	walk = func(rel string) {
		path := filepath.Join(dir, rel)
		info, err := os.Stat(path) // what the container reads, through the links
		must(t, err)
		lines = append(lines, describe(rel, path, info))
		if !info.IsDir() {
			return
		}
		entries, err := os.ReadDir(path)
		must(t, err)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "..") {
				continue
			}
			walk(filepath.Join(rel, e.Name()))
		}
	}
	walk(".")
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}
