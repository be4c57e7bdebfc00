package node

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	v1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"kubelet/test/harness"
)

const readOnly = "http://" + harness.NodeIP + ":10255"

// What the endpoints say is what the kernel says at that moment.
func TestStats(t *testing.T) {
	t.Parallel()
	put(t, "stats.yaml", "stats")
	pod := status(t, "stats", "Ready", harness.Ready)
	main, busy := running(t, "stats", "main").Id, running(t, "stats", "busy").Id

	t.Run("CPU", func(t *testing.T) {
		between(t, func() float64 { return cgroupNumber(t, pod, busy, "cpuacct", "cpuacct.usage") },
			func(s *statsapi.Summary) (float64, error) {
				c := containerStats(s, "stats", "busy")
				if c == nil || c.CPU == nil {
					return 0, fmt.Errorf("container: %+v", c)
				}
				return float64(*c.CPU.UsageCoreNanoSeconds), nil
			})
		until(t, "the rate of a container that is held at 100m", func(ctx context.Context) error {
			s, err := summary(ctx, "")
			if err != nil {
				return err
			}
			if c := containerStats(s, "stats", "busy"); c == nil || c.CPU.UsageNanoCores == nil || *c.CPU.UsageNanoCores < 20e6 || *c.CPU.UsageNanoCores > 150e6 {
				return fmt.Errorf("container: %s", asJSON(c))
			}
			return nil
		})
	})
	t.Run("memory", func(t *testing.T) {
		s := mustSummary(t, "")
		c := containerStats(s, "stats", "main")
		usage := cgroupNumber(t, pod, main, "memory", "memory.usage_in_bytes")
		if diff := math.Abs(float64(*c.Memory.UsageBytes) - usage); diff > 1<<20 {
			t.Errorf("usage %d, in the cgroup %.0f", *c.Memory.UsageBytes, usage)
		}
		if *c.Memory.RSSBytes < 20_000_000 || *c.Memory.WorkingSetBytes < 20_000_000 || *c.Memory.WorkingSetBytes > *c.Memory.UsageBytes {
			t.Errorf("memory %s", asJSON(c.Memory))
		}
		if got := *c.Memory.AvailableBytes + *c.Memory.WorkingSetBytes; got != 128<<20 {
			t.Errorf("available and working set are %d, the limit is 128 MiB", got)
		}
	})
	t.Run("network", func(t *testing.T) {
		pid, err := node.ContainerPid(main)
		if err != nil {
			t.Fatal(err)
		}
		between(t, func() float64 { return received(t, pid) }, func(s *statsapi.Summary) (float64, error) {
			p := podStats(s, "stats")
			if p == nil || p.Network == nil || p.Network.Name != "eth0" {
				return 0, fmt.Errorf("network: %s", asJSON(p))
			}
			return float64(*p.Network.RxBytes), nil
		})
	})
	t.Run("disk", func(t *testing.T) {
		until(t, "sizes of volume, writable layer and logs", func(ctx context.Context) error {
			s, err := summary(ctx, "")
			if err != nil {
				return err
			}
			p := podStats(s, "stats")
			if p == nil || len(p.VolumeStats) == 0 || p.EphemeralStorage == nil {
				return fmt.Errorf("pod: %s", asJSON(p))
			}
			var cache uint64
			for _, v := range p.VolumeStats {
				if v.Name == "cache" {
					cache = *v.UsedBytes
				}
			}
			if cache < 300<<10 || cache > 400<<10 {
				return fmt.Errorf("volume uses %d, 300 KiB were written", cache)
			}
			c := containerStats(s, "stats", "busy")
			if c == nil || c.Rootfs == nil || c.Rootfs.UsedBytes == nil || *c.Rootfs.UsedBytes < 5000 || c.Logs == nil || c.Logs.UsedBytes == nil {
				return fmt.Errorf("container: %s", asJSON(c))
			}
			if *p.EphemeralStorage.UsedBytes < cache+*c.Rootfs.UsedBytes {
				return fmt.Errorf("ephemeral storage: %s", asJSON(p.EphemeralStorage))
			}
			n := s.Node
			if n.Fs == nil || *n.Fs.CapacityBytes == 0 || n.Runtime == nil || n.Runtime.ImageFs == nil || *n.Runtime.ImageFs.UsedBytes == 0 {
				return fmt.Errorf("node: %s", asJSON(n))
			}
			return nil
		})
	})
	t.Run("node", func(t *testing.T) {
		s := mustSummary(t, "")
		n := s.Node
		if n.CPU == nil || n.Memory == nil || *n.Memory.AvailableBytes == 0 || n.Rlimit == nil || *n.Rlimit.NumOfRunningProcesses == 0 ||
			n.Network == nil || n.Swap == nil || n.StartTime.IsZero() || n.NodeName != "standalone-node" {
			t.Errorf("node: %s", asJSON(n))
		}
		pods := false
		for _, c := range n.SystemContainers {
			pods = pods || c.Name == "pods" && *c.Memory.UsageBytes > 0
		}
		if !pods {
			t.Errorf("system containers: %s", asJSON(n.SystemContainers))
		}
		if p := podStats(s, "stats"); p.ProcessStats == nil || *p.ProcessStats.ProcessCount < 3 {
			t.Errorf("pod: %s", asJSON(p))
		}
	})
	t.Run("only CPU and memory", func(t *testing.T) {
		s := mustSummary(t, "?only_cpu_and_memory=true")
		p := podStats(s, "stats")
		if p == nil || p.CPU == nil || p.Memory == nil || len(p.Containers) != 2 {
			t.Fatalf("pod: %s", asJSON(p))
		}
		if p.Network != nil || p.VolumeStats != nil || p.EphemeralStorage != nil || p.Containers[0].Rootfs != nil || s.Node.Fs != nil || s.Node.Network != nil {
			t.Errorf("more than CPU and memory: %s", asJSON(s))
		}
	})
	t.Run("metrics", func(t *testing.T) {
		cadvisor := scrape(t, "/metrics/cadvisor", "")
		resource := scrape(t, "/metrics/resource", "")
		labels := map[string]string{"namespace": "default", "pod": "stats" + suffix, "container": "busy"}
		seconds := func(families map[string]*dto.MetricFamily) float64 {
			m := find(families["container_cpu_usage_seconds_total"], labels)
			if m == nil {
				t.Fatalf("no container_cpu_usage_seconds_total of %v", labels)
			}
			return m.GetCounter().GetValue()
		}
		now := cgroupNumber(t, pod, busy, "cpuacct", "cpuacct.usage") / 1e9
		for name, got := range map[string]float64{"cadvisor": seconds(cadvisor), "resource": seconds(resource)} {
			if got > now || got < now-2 {
				t.Errorf("%s: %f s of CPU, in the cgroup %f", name, got, now)
			}
		}
		m := find(cadvisor["container_network_receive_bytes_total"], map[string]string{"pod": "stats" + suffix, "interface": "eth0"})
		if m == nil || m.GetCounter().GetValue() == 0 || label(m, "image") == "" {
			t.Errorf("network of the pod: %v", m)
		}
		m = find(cadvisor["container_cpu_cfs_throttled_periods_total"], labels)
		if m == nil || m.GetCounter().GetValue() == 0 {
			t.Errorf("throttling of a container that wants more than its limit: %v", m)
		}
		protobuf := scrape(t, "/metrics/cadvisor", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
		if len(protobuf) != len(cadvisor) {
			t.Errorf("%d families in protobuf, %d as text", len(protobuf), len(cadvisor))
		}
		scrape(t, "/metrics", "")
	})
}

// between asks for a number that grows, until an answer lies between what the
// kernel said before and after.
func between(t *testing.T, kernel func() float64, answer func(*statsapi.Summary) (float64, error)) {
	t.Helper()
	until(t, "a number between the kernel's before and after", func(ctx context.Context) error {
		before := kernel()
		s, err := summary(ctx, "")
		if err != nil {
			return err
		}
		got, err := answer(s)
		if err != nil {
			return err
		}
		if after := kernel(); got < before || got > after {
			return fmt.Errorf("%f is not between %f and %f", got, before, after)
		}
		return nil
	})
}

func summary(ctx context.Context, query string) (*statsapi.Summary, error) {
	text, err := node.Get(ctx, readOnly+"/stats/summary"+query)
	if err != nil {
		return nil, err
	}
	var s statsapi.Summary
	return &s, json.Unmarshal([]byte(text), &s)
}

func mustSummary(t *testing.T, query string) *statsapi.Summary {
	t.Helper()
	s, err := summary(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func podStats(s *statsapi.Summary, name string) *statsapi.PodStats {
	for i := range s.Pods {
		if s.Pods[i].PodRef.Name == name+suffix {
			return &s.Pods[i]
		}
	}
	return nil
}

func containerStats(s *statsapi.Summary, pod, name string) *statsapi.ContainerStats {
	p := podStats(s, pod)
	for i := range p.Containers {
		if p.Containers[i].Name == name {
			return &p.Containers[i]
		}
	}
	return nil
}

// cgroupNumber reads a file of a container's cgroup.
func cgroupNumber(t *testing.T, pod *v1.Pod, id, controller, file string) float64 {
	t.Helper()
	dir, err := node.PodCgroup(controller, pod)
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*"+id+"*", file))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s of %s: %q, %v", file, id, found, err)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// received are the bytes that a process's eth0 received.
func received(t *testing.T, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if name, rest, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && name == "eth0" {
			n, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no eth0 in %s", text)
	return 0
}

// scrape reads an endpoint with Prometheus's own parser.
func scrape(t *testing.T, path, accept string) map[string]*dto.MetricFamily {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", readOnly+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	client := node.HTTPClient()
	client.Timeout = 20 * time.Second
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	families := map[string]*dto.MetricFamily{}
	decoder := expfmt.NewDecoder(resp.Body, expfmt.ResponseFormat(resp.Header))
	seen := map[string]bool{}
	for {
		var f dto.MetricFamily
		err := decoder.Decode(&f)
		if err != nil {
			if err.Error() != "EOF" {
				t.Fatalf("%s: %v", path, err)
			}
			break
		}
		families[f.GetName()] = &f
		for _, m := range f.Metric {
			key := f.GetName() + fmt.Sprint(m.Label)
			if seen[key] {
				t.Errorf("%s: twice: %s", path, key)
			}
			seen[key] = true
			for _, l := range m.Label {
				if !model.LabelName(l.GetName()).IsValidLegacy() {
					t.Errorf("%s: label %q", path, l.GetName())
				}
			}
		}
	}
	if len(families) == 0 {
		t.Errorf("%s is empty", path)
	}
	return families
}

func find(f *dto.MetricFamily, labels map[string]string) *dto.Metric {
next:
	for _, m := range f.GetMetric() {
		for name, value := range labels {
			if label(m, name) != value {
				continue next
			}
		}
		return m
	}
	return nil
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.Label {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
