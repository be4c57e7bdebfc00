package stats

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/observed"
)

// crowded is a Reader over a node with that many pods of two containers. The
// cgroup files are ordinary ones, which cost about as much to read.
func crowded(tb testing.TB, pods int) *Reader {
	dir := unpack(tb, "v2-systemd.txt")
	from := filepath.Join(dir, "cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-c0ffee.scope")
	cgroups := fakeCgroups{"/kubepods.slice", map[string]string{}}
	r := newGolden(tb, dir, newUnified(filepath.Join(dir, "cgroup"), 1<<16), cgroups)
	var list []Pod
	seen := map[types.UID]observed.Pod{}
	for i := range pods {
		uid := types.UID(fmt.Sprintf("%08d-2222-3333-4444-555555555555", i))
		name := fmt.Sprintf("web-%d", i)
		slice := fmt.Sprintf("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod%d.slice", i)
		cgroups.pods[name] = slice
		have := observed.Pod{UID: uid}
		for _, id := range []string{"", "sandbox", "main", "sidecar"} {
			at := filepath.Join(dir, "cgroup", slice)
			if id != "" {
				id = fmt.Sprintf("%s%060d", id, i)
				at = filepath.Join(at, "cri-containerd-"+id+".scope")
			}
			if err := os.CopyFS(at, os.DirFS(from)); err != nil {
				tb.Fatal(err)
			}
			switch {
			case id == "":
			case len(have.Sandboxes) == 0:
				have.Sandboxes = []observed.Sandbox{{ID: id, Ready: true, Pid: 100, Image: "registry.k8s.io/pause:3.10.2"}}
			default:
				have.Containers = append(have.Containers, observed.Container{ID: id, Name: id[:4], Image: "registry/web:1", State: observed.Running, Pid: 101})
			}
		}
		list = append(list, Pod{&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: uid}}, time.Now()})
		seen[uid] = have
	}
	r.config.Pods = func() []Pod { return list }
	r.config.Observed = func() map[types.UID]observed.Pod { return seen }
	return r
}

// stale makes the next question read everything anew.
func (r *Reader) stale() {
	for _, k := range r.groups {
		if k.group.last != nil {
			old := *k.group.last
			old.at = old.at.Add(-time.Minute)
			k.group.last = &old
		}
	}
}

func benchmark(b *testing.B, handler func(*Reader) http.Handler, target string) {
	r := crowded(b, 50)
	h := handler(r)
	req := httptest.NewRequest("GET", target, nil)
	serve := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Body.Len()
	}
	b.SetBytes(int64(serve()))
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		r.stale()
		b.StartTimer()
		serve()
	}
}

func BenchmarkSummary50Pods(b *testing.B) {
	benchmark(b, (*Reader).SummaryHandler, "/stats/summary")
}

func BenchmarkResource50Pods(b *testing.B) {
	benchmark(b, (*Reader).ResourceHandler, "/metrics/resource")
}

func BenchmarkCadvisor50Pods(b *testing.B) {
	benchmark(b, (*Reader).CadvisorHandler, "/metrics/cadvisor")
}
