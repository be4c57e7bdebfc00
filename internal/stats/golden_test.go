package stats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"kubelet/internal/observed"
)

var update = flag.Bool("update", false, "write the golden files")

// unpack writes the files of a testdata text ("-- NAME --" before each) below
// a new directory. All were written an hour before the test's clock begins.
func unpack(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var file string
	var content bytes.Buffer
	flush := func() {
		if file == "" {
			return
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		content.Reset()
	}
	header := regexp.MustCompile(`^-- (\S+) --\n$`)
	for line := range strings.Lines(string(text)) {
		if m := header.FindStringSubmatch(line); m != nil {
			flush()
			file = filepath.Join(dir, m[1])
			continue
		}
		content.WriteString(line)
	}
	flush()
	old := time.Date(1999, 12, 31, 23, 0, 0, 0, time.UTC)
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, old, old))
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// fakeRuntime is the runtime of the golden tests.
type fakeRuntime struct{}

func (fakeRuntime) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	fs := func(dir string, used uint64) []*runtimeapi.FilesystemUsage {
		return []*runtimeapi.FilesystemUsage{{
			FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: dir}, UsedBytes: &runtimeapi.UInt64Value{Value: used},
		}}
	}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: fs("/images", 123), ContainerFilesystems: fs("/layers", 45)}, nil
}

func (fakeRuntime) ListContainerStats(context.Context) ([]*runtimeapi.ContainerStats, error) {
	return []*runtimeapi.ContainerStats{{
		Attributes:    &runtimeapi.ContainerAttributes{Id: "c0ffee"},
		WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: &runtimeapi.UInt64Value{Value: 8192}, InodesUsed: &runtimeapi.UInt64Value{Value: 9}},
	}}, nil
}

func (fakeRuntime) RuntimePID(context.Context) (int, error) { return 900, nil }

// fakeCgroups is where the pods of the golden tests are.
type fakeCgroups struct {
	root string
	pods map[string]string
}

func (c fakeCgroups) Root() string               { return c.root }
func (c fakeCgroups) PodPath(pod *v1.Pod) string { return c.pods[pod.Name] }

// fakeStatFS knows the machine's disks: the node's, and one each for images
// and layers.
func fakeStatFS(dir string) (fileSystem, error) {
	f := fileSystem{capacity: 1000_000, available: 500_000, used: 400_000, inodes: 1000, inodesFree: 900, inodeUsed: 100, device: 8 << 8}
	switch {
	case dir == "/images":
		f.capacity, f.device = 2000_000, 8<<8|1
	case dir == "/layers":
		f.capacity, f.device = 3000_000, 8<<8|2
	case strings.HasSuffix(dir, "/dead"):
		return f, errors.New("host is down")
	}
	return f, nil
}

const webUID, agentUID = "11111111-2222-3333-4444-555555555555", "99999999-8888-7777-6666-555555555555"

// newGolden is a Reader over an unpacked tree.
func newGolden(t testing.TB, dir string, h *hierarchy, cgroups fakeCgroups) *Reader {
	begin := time.Now()
	root := filepath.Join(dir, "kubelet")
	web := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: webUID}}
	agent := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: "kube-system", UID: agentUID}}
	waiting := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "waiting", Namespace: "shop", UID: "w"}}
	volume := func(name, content string) string {
		d := filepath.Join(root, "pods", webUID, "volumes", name)
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "file"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return d
	}
	volumes := []Volume{
		{Name: "cache", Dir: volume("cache", strings.Repeat("x", 10_000)), Walk: true, Ephemeral: true},
		{Name: "data", Dir: volume("data", "y"), Claim: &statsapi.PVCReference{Namespace: "shop", Name: "claim"}},
		{Name: "nfs", Dir: filepath.Join(root, "dead")},
	}
	logs := filepath.Join(dir, "logs", "shop_web_"+webUID)
	for name, size := range map[string]int{"main/0.log": 5000, "gone/0.log": 100} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(logs, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(logs, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for pid, links := range map[string][]string{"100": {"/dev/null"}, "101": {"/dev/null", "socket:[12]", "pipe:[1]"}, "102": {"socket:[13]"}} {
		fds := filepath.Join(dir, "proc", pid, "fd")
		if err := os.MkdirAll(fds, 0o755); err != nil {
			t.Fatal(err)
		}
		for i, l := range links {
			if err := os.Symlink(l, filepath.Join(fds, string(rune('0'+i)))); err != nil {
				t.Fatal(err)
			}
		}
	}
	node := &v1.Node{Status: v1.NodeStatus{
		Capacity: v1.ResourceList{"hugepages-2Mi": resource.MustParse("64Mi")},
		NodeInfo: v1.NodeSystemInfo{KernelVersion: "6.1.0", OSImage: "Debian GNU/Linux 12", BootID: "boot", MachineID: "machine", SystemUUID: "uuid"},
	}}
	running := func(name, id, image string, pid int) observed.Container {
		return observed.Container{ID: id, Name: name, Image: image, Pid: pid, State: observed.Running,
			CreatedAt: begin.Add(-30 * time.Minute), StartedAt: begin.Add(-29 * time.Minute)}
	}
	sandbox := func(id string, pid int, host bool) observed.Sandbox {
		return observed.Sandbox{ID: id, Ready: true, Pid: pid, HostNetwork: host, Image: "registry.k8s.io/pause:3.10.2", CreatedAt: begin.Add(-31 * time.Minute)}
	}
	seen := map[types.UID]observed.Pod{
		webUID: {Sandboxes: []observed.Sandbox{sandbox("5a5dbe", 100, false)}, Containers: []observed.Container{
			running("sidecar", "51deca7", "registry/sidecar:2", 103), running("main", "c0ffee", "registry/web:1", 101),
			{ID: "dead", Name: "main", State: observed.Exited},
		}},
		agentUID: {Sandboxes: []observed.Sandbox{sandbox("b0b", 199, true)}, Containers: []observed.Container{running("agent", "a9e27", "registry/agent:3", 200)}},
	}
	r := newReader(Config{
		NodeName: "node-1", Root: root, PodLogsDir: filepath.Join(dir, "logs"), Started: begin,
		Node: func() *v1.Node { return node },
		Pods: func() []Pod {
			return []Pod{{web, begin.Add(-32 * time.Minute)}, {waiting, time.Time{}}, {agent, begin.Add(-40 * time.Minute)}}
		},
		Observed: func() map[types.UID]observed.Pod { return seen },
		Cgroups:  cgroups, Runtime: fakeRuntime{},
		Volumes: func(pod *v1.Pod) []Volume {
			if pod.Name == "web" {
				return volumes
			}
			return nil
		},
		KubeletCgroups: "/system.slice/kubelet.service", VolumeStatsPeriod: time.Minute,
	}, h, &machine{proc: filepath.Join(dir, "proc"), sys: filepath.Join(dir, "sys")})
	r.statFS = fakeStatFS
	t.Cleanup(r.Close)
	return r
}

// ask serves one request.
func ask(t testing.TB, h http.Handler, target string, header ...string) (body, contentType string) {
	t.Helper()
	req := httptest.NewRequest("GET", target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	text, err := io.ReadAll(w.Result().Body)
	if err != nil || w.Code != 200 {
		t.Fatalf("%s: %d %s %v", target, w.Code, text, err)
	}
	return string(text), w.Result().Header.Get("Content-Type")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", file, diff)
	}
}

func indented(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, []byte(text), "", "  "); err != nil {
		t.Fatal(err)
	}
	return out.String() + "\n"
}

// What the endpoints say about a tree of cgroup files. The second question
// comes 25 s after the first, in which the web container used 10 s of CPU.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		name      string
		hierarchy func(dir string) *hierarchy
		cgroups   fakeCgroups
		usage     string // file of the container's CPU time
		used      string // its content at the second question
	}{
		{"v2-systemd", func(dir string) *hierarchy { return newUnified(filepath.Join(dir, "cgroup"), 1000) },
			fakeCgroups{"/kubepods.slice", map[string]string{
				"web":     "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice",
				"agent":   "/kubepods.slice/kubepods-pod99999999_8888_7777_6666_555555555555.slice",
				"waiting": "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podw.slice",
			}},
			"cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-c0ffee.scope/cpu.stat",
			"usage_usec 50000000\nuser_usec 35000000\nsystem_usec 15000000\n"},
		{"v1-cgroupfs", func(dir string) *hierarchy {
			mounts := map[string]string{}
			for _, c := range []string{"cpu", "cpuacct", "memory", "blkio", "pids"} {
				mounts[c] = filepath.Join(dir, "cgroup", c)
			}
			return newSplit(mounts, 1000)
		}, fakeCgroups{"/kubepods", map[string]string{
			"web": "/kubepods/burstable/pod" + webUID, "agent": "/kubepods/pod" + agentUID, "waiting": "/kubepods/besteffort/podw",
		}},
			"cgroup/cpuacct/kubepods/burstable/pod" + webUID + "/c0ffee/cpuacct.usage", "50000000000\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := unpack(t, c.name+".txt")
				r := newGolden(t, dir, c.hierarchy(dir), c.cgroups)
				ask(t, r.SummaryHandler(), "/stats/summary")
				if err := os.WriteFile(filepath.Join(dir, c.usage), []byte(c.used), 0o644); err != nil {
					t.Fatal(err)
				}
				time.Sleep(25 * time.Second)
				body, contentType := ask(t, r.SummaryHandler(), "/stats/summary")
				if contentType != "application/json" {
					t.Errorf("content type %s", contentType)
				}
				golden(t, c.name+".summary.json", indented(t, body))
				body, _ = ask(t, r.SummaryHandler(), "/stats/summary?only_cpu_and_memory=true")
				golden(t, c.name+".short.json", indented(t, body))
				body, _ = ask(t, r.ResourceHandler(), "/metrics/resource")
				golden(t, c.name+".resource.prom", body)
				body, _ = ask(t, r.CadvisorHandler(), "/metrics/cadvisor")
				golden(t, c.name+".cadvisor.prom", body)
				synctest.Wait()
			})
		})
	}
}
