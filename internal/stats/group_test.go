package stats

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/observed"
)

// fakeGroup is a cgroup of ordinary files.
func fakeGroup(t *testing.T, most int64) (g *group, set func(usec uint64)) {
	dir := t.TempDir()
	set = func(usec uint64) {
		write(t, filepath.Join(dir, "x/memory.current"), 0)
		for name, text := range map[string]string{"cpu.stat": fmt.Sprintf("usage_usec %d\n", usec), "memory.current": "4096\n", "memory.stat": "anon 1\ninactive_file 96\n"} {
			// In place, as the kernel's do: the descriptor stays good.
			if err := os.WriteFile(filepath.Join(dir, "x", name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return newGroup(newUnified(dir, most), "x", time.Time{}), set
}

func TestUsageRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, set := fakeGroup(t, 100)
		defer g.close()
		second := uint64(time.Second / time.Microsecond)
		for _, c := range []struct {
			after time.Duration // since the question before
			usage uint64        // seconds of CPU time by then
			want  string        // rate in cores
		}{
			{0, 1000, "none"},                      // nothing to compare with
			{500 * time.Millisecond, 1001, "none"}, // the same sample
			{2 * time.Second, 1002, "0.8"},         // 2 s of work in 2.5 s
			{4 * time.Second, 1090, "0.8"},         // too soon for a new one
			{4 * time.Second, 1010, "0.952"},       // 10 s in 10.5 s
			{time.Hour, 1010, "0"},                 // over an hour without work
			{time.Minute, 5, "none"},               // started anew under its name: the count goes back
			{time.Minute, 65, "1"},
		} {
			time.Sleep(c.after)
			set(c.usage * second)
			if g.sample(partUsage, time.Now(), make([]byte, 64)) == nil {
				t.Fatal("no sample")
			}
			got := "none"
			if rate := g.usageRate(); rate.ok {
				got = fmt.Sprintf("%.3g", float64(rate.n)/1e9)
			}
			if got != c.want {
				t.Errorf("at %v with %d s: %s cores, want %s", time.Now().Format("15:04:05.0"), c.usage, got, c.want)
			}
		}
	})
}

// A container that has just started has a rate at the first question: that of
// its life.
func TestUsageRateOfTheYoung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, set := fakeGroup(t, 100)
		defer g.close()
		g.born = time.Now()
		time.Sleep(20 * time.Second)
		set(10_000_000)
		g.sample(partUsage, time.Now(), nil)
		if rate := g.usageRate(); !rate.ok || rate.n != 500_000_000 {
			t.Errorf("%+v, want half a core", rate)
		}
	})
}

func TestSampleIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, set := fakeGroup(t, 100)
		defer g.close()
		set(1)
		first := g.sample(partUsage, time.Now(), nil)
		time.Sleep(sampleAge / 2)
		set(2)
		if again := g.sample(partUsage, time.Now(), nil); again != first {
			t.Error("read again for a question of the same moment")
		}
		// A question for more is answered with both.
		both := g.sample(partLimits, time.Now(), nil)
		if again := g.sample(partUsage|partLimits, time.Now(), nil); again != both || !both.cpu.usage.ok {
			t.Error("those who ask for different things make each other read again")
		}
		time.Sleep(sampleAge)
		if again := g.sample(partUsage, time.Now(), nil); again == both || again.cpu.usage.n != 2000 {
			t.Errorf("not read again: %+v", again.cpu)
		}
	})
}

// descriptors counts what this process has open below a directory.
func descriptors(t *testing.T, dir string) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, dir) {
			n++
		}
	}
	return n
}

func TestDescriptorsAreBounded(t *testing.T) {
	g, set := fakeGroup(t, 2)
	set(5)
	for range 3 {
		s := g.sample(partUsage|partDetails, time.Now(), nil)
		if s == nil || s.cpu.usage.n != 5000 || s.mem.usage.n != 4096 || s.mem.workingSet().n != 4000 {
			t.Fatalf("%+v", s)
		}
		if n := descriptors(t, g.h.mounts[""]); n != 2 {
			t.Errorf("%d files are open, 2 may be", n)
		}
		g.last = nil
	}
	g.close()
	if n := descriptors(t, g.h.mounts[""]); n != 0 || g.h.open.Load() != 0 {
		t.Errorf("%d files are open after the end, %d counted", n, g.h.open.Load())
	}
}

// A removed cgroup has no sample, and one made anew under its name has.
func TestCgroupComesAndGoes(t *testing.T) {
	g, set := fakeGroup(t, 100)
	defer g.close()
	if g.sample(partUsage, time.Now(), nil) != nil {
		t.Error("a sample of a cgroup that does not exist")
	}
	set(1)
	if g.sample(partUsage, time.Now(), nil) == nil {
		t.Error("no sample of a cgroup that was made meanwhile")
	}
}

// The files of pods that are gone are closed at the next question, and all of
// them some minutes after the last.
func TestFilesAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := unpack(t, "v2-systemd.txt")
		pods := map[string]string{
			"web":   "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice",
			"agent": "/kubepods.slice/kubepods-pod99999999_8888_7777_6666_555555555555.slice",
		}
		r := newGolden(t, dir, newUnified(filepath.Join(dir, "cgroup"), 1000), fakeCgroups{"/kubepods.slice", pods})
		if n := descriptors(t, dir); n != 0 {
			t.Fatalf("%d files are open before the first question", n)
		}
		ask(t, r.CadvisorHandler(), "/metrics/cadvisor")
		web := filepath.Join(dir, "cgroup", pods["web"])
		if descriptors(t, web) == 0 {
			t.Error("no file is kept open")
		}
		seen := r.config.Observed()
		r.config.Observed = func() map[types.UID]observed.Pod { return map[types.UID]observed.Pod{agentUID: seen[agentUID]} }
		ask(t, r.ResourceHandler(), "/metrics/resource")
		if n := descriptors(t, web); n != 0 {
			t.Errorf("%d files of a pod that is gone are open", n)
		}
		if len(r.found) != 1 {
			t.Errorf("paths of containers that are gone are kept: %v", r.found)
		}
		time.Sleep(idleAge - time.Second)
		synctest.Wait()
		if descriptors(t, dir) == 0 {
			t.Error("files are closed early")
		}
		ask(t, r.ResourceHandler(), "/metrics/resource")
		time.Sleep(2*idleAge + time.Second)
		synctest.Wait()
		if n := descriptors(t, dir); n != 0 {
			t.Errorf("%d files are open though nobody asks", n)
		}
		body, _ := ask(t, r.ResourceHandler(), "/metrics/resource")
		if !strings.Contains(body, `pod="agent"`) {
			t.Error("nothing is read after the rest")
		}
	})
}

// stuckRuntime answers nothing.
type stuckRuntime struct{ release chan struct{} }

func (s stuckRuntime) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	<-s.release
	return nil, errors.New("late")
}

func (s stuckRuntime) ListContainerStats(context.Context) ([]*runtimeapi.ContainerStats, error) {
	<-s.release
	return nil, errors.New("late")
}

func (s stuckRuntime) RuntimePID(context.Context) (int, error) {
	<-s.release
	return 0, errors.New("late")
}

// With a runtime and a disk that hang, everything else is told all the same,
// after a moment.
func TestHangingRuntimeAndDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := unpack(t, "v2-systemd.txt")
		r := newGolden(t, dir, newUnified(filepath.Join(dir, "cgroup"), 1000), fakeCgroups{"/kubepods.slice", map[string]string{
			"web": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice",
		}})
		release := make(chan struct{})
		r.config.Runtime = stuckRuntime{release}
		r.statFS = func(dir string) (fileSystem, error) {
			if strings.HasSuffix(dir, "dead") {
				<-release
			}
			return fakeStatFS(dir)
		}
		for range 5 {
			begun := time.Now()
			s, err := r.Summary(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took > patience {
				t.Errorf("the question took %v", took)
			}
			p := s.Pods[1]
			if p.PodRef.Name != "web" || p.Memory == nil || p.Containers[0].CPU == nil || p.Network == nil || len(p.VolumeStats) != 2 || p.EphemeralStorage == nil {
				t.Errorf("web: %+v", p)
			}
			if s.Node.Runtime != nil || s.Node.Fs == nil || p.Containers[0].Rootfs != nil {
				t.Errorf("node: %+v", s.Node)
			}
			time.Sleep(20 * time.Second)
		}
		if _, err := r.Summary(t.Context(), true); err != nil {
			t.Error(err)
		}
		ask(t, r.CadvisorHandler(), "/metrics/cadvisor")
		close(release)
		synctest.Wait()
	})
}
