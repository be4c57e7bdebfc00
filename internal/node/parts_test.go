package node

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMachineIsReadFromItsFiles(t *testing.T) {
	m, err := readMachine("testdata/machine", t.TempDir()+"/not/there/yet")
	if err != nil {
		t.Fatal(err)
	}
	if m.storage <= 0 {
		t.Errorf("storage %d", m.storage)
	}
	m.storage = 0
	want := machine{
		machineID: "0123456789abcdef0123456789abcdef", systemUUID: "5d6eb3a8-0000-4000-8000-000000000001",
		bootID: "b00710d0-0000-4000-8000-000000000001", kernel: "6.1.0-30-amd64",
		osImage: "Debian GNU/Linux 12 (bookworm)", booted: time.Unix(1700000000, 0),
		cpus: 4, memory: 16384000 * 1024, swap: 1024 * 1024,
		hugePages: []hugePages{{1 << 30, 0}, {2 << 20, 4}},
	}
	if diff := cmp.Diff(want, m, cmp.AllowUnexported(machine{}, hugePages{})); diff != "" {
		t.Errorf("machine (-want +got):\n%s", diff)
	}
	if _, err := readMachine(t.TempDir(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "meminfo") {
		t.Errorf("without files: %v", err)
	}
	if m, err := readMachine("/", "/"); err != nil || m.cpus == 0 || m.memory == 0 || m.kernel == "" {
		t.Errorf("this machine: %+v, %v", m, err)
	}
}

func TestAllocatableIsCapacityWithoutReserves(t *testing.T) {
	m := machine{cpus: 4, memory: 8 << 30, storage: 100 << 30, hugePages: []hugePages{{2 << 20, 512}}}
	kube, err := ParseReserved(map[string]string{"cpu": "200m", "memory": "512Mi", "pid": "1000", "ephemeral-storage": "1Gi"})
	if err != nil {
		t.Fatal(err)
	}
	system, err := ParseReserved(map[string]string{"cpu": "100m"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name         string
		cfg          Config
		evictionHard map[string]string
		want         map[string]string
	}{
		{"defaults", Config{MaxPods: 110, LocalStorageCapacityIsolation: true}, nil,
			map[string]string{"cpu": "3700m", "memory": "6656Mi", "pods": "110", "ephemeral-storage": "106300440576", "hugepages-2Mi": "1Gi"}},
		{"eviction", Config{MaxPods: 110, LocalStorageCapacityIsolation: true},
			map[string]string{"memory.available": "100Mi", "nodefs.available": "50%", "imagefs.available": "15%"},
			map[string]string{"cpu": "3700m", "memory": "6556Mi", "pods": "110", "ephemeral-storage": "52613349376", "hugepages-2Mi": "1Gi"}},
		{"pods per core", Config{MaxPods: 110, PodsPerCore: 10}, map[string]string{"memory.available": "100%"},
			map[string]string{"cpu": "3700m", "memory": "0", "pods": "40", "hugepages-2Mi": "1Gi"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			capacity := capacityOf(m, c.cfg)
			reserved, err := reservation(capacity, kube, system, c.evictionHard)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for name, amount := range allocatableOf(capacity, reserved) {
				got[string(name)] = amount.String()
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("allocatable (-want +got):\n%s", diff)
			}
		})
	}
	for _, bad := range []string{"-1%", "101%", "x", "NaN%", ""} {
		if _, err := threshold(bad, resource.MustParse("1Gi")); err == nil {
			t.Errorf("threshold %q is accepted", bad)
		}
	}
	if _, err := ParseReserved(map[string]string{"cpu": "-1"}); err == nil {
		t.Error("a negative reserve is accepted")
	}
}

func TestAddresses(t *testing.T) {
	ips := func(list ...string) (out []netip.Addr) {
		for _, ip := range list {
			out = append(out, netip.MustParseAddr(ip))
		}
		return out
	}
	resolves := func(list ...string) func(context.Context, string) ([]netip.Addr, error) {
		return func(context.Context, string) ([]netip.Addr, error) { return ips(list...), nil }
	}
	for _, c := range []struct {
		name    string
		cfg     Config
		onHost  []string
		lookup  func(context.Context, string) ([]netip.Addr, error)
		want    string
		refused string // by New
		fails   string // for the time being
	}{
		{name: "default route", onHost: []string{"10.0.0.5"}, want: "10.0.0.5"},
		{name: "given", cfg: Config{IPs: ips("10.0.0.6")}, onHost: []string{"10.0.0.5", "10.0.0.6"}, want: "10.0.0.6"},
		{name: "dual stack", cfg: Config{IPs: ips("fd00::6", "10.0.0.6")}, onHost: []string{"fd00::6", "10.0.0.6"}, want: "fd00::6 10.0.0.6"},
		{name: "IPv6 preferred", cfg: Config{IPs: ips("::")}, onHost: []string{"10.0.0.5", "fd00::5"}, want: "fd00::5"},
		{name: "IPv4-mapped", cfg: Config{IPs: ips("::ffff:10.0.0.6")}, onHost: []string{"10.0.0.6"}, want: "10.0.0.6"},
		{name: "name resolves to loopback", onHost: []string{"127.0.1.1", "10.0.0.5"}, lookup: resolves("127.0.1.1"), want: "127.0.1.1?"},
		{name: "name resolves to this machine", onHost: []string{"10.0.0.5", "10.0.0.7"}, lookup: resolves("10.0.0.9", "10.0.0.7"), want: "10.0.0.7"},
		{name: "hostname is an address", cfg: Config{Hostname: "10.0.0.9"}, onHost: []string{"10.0.0.5"}, want: "10.0.0.9"},
		{name: "cloud provider sets them", cfg: Config{ExternalCloudProvider: true}, onHost: []string{"10.0.0.5"}, want: ""},
		{name: "loopback", cfg: Config{IPs: ips("127.0.0.1")}, refused: "node IP 127.0.0.1 is a loopback address, which nothing outside this machine can reach"},
		{name: "loopback hostname", cfg: Config{Hostname: "127.0.0.1"}, refused: "loopback"},
		{name: "link-local", cfg: Config{IPs: ips("fe80::1")}, refused: "link-local"},
		{name: "multicast", cfg: Config{IPs: ips("224.0.0.1")}, refused: "multicast"},
		{name: "one family twice", cfg: Config{IPs: ips("10.0.0.1", "10.0.0.2")}, refused: "one family"},
		{name: "not on this machine", cfg: Config{IPs: ips("10.0.0.6")}, onHost: []string{"10.0.0.5"}, fails: "node IP 10.0.0.6 is on no network interface"},
		{name: "no route", fails: "--node-ip"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.want == "127.0.1.1?" {
				c.want = "10.0.0.5"
				c.onHost = []string{"10.0.0.5", "127.0.1.1"}
			}
			c.cfg.Name = "n1"
			setDefault(&c.cfg.Hostname, "n1")
			c.cfg.network = testNetwork(c.onHost...)
			if c.lookup != nil {
				c.cfg.network.lookup = c.lookup
			}
			finder, err := newAddressFinder(c.cfg)
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			found, err := finder.find(t.Context(), time.Now())
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, address := range found {
				if address.Type == v1.NodeInternalIP {
					got = append(got, address.Address)
				}
			}
			expect(t, "internal IPs", strings.Join(got, " "), c.want)
			expect(t, "last address", found[len(found)-1], v1.NodeAddress{Type: v1.NodeHostName, Address: c.cfg.Hostname})
		})
	}
}

func TestCloudProvidersAddressesStay(t *testing.T) {
	previous := &v1.Node{Status: v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "1.2.3.4"}}}}
	facts := Facts{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "10.0.0.5"}}, KeepAddresses: true, ProvidedIP: "10.0.0.5"}
	node := Generate(previous, facts, time.Now())
	expect(t, "address", node.Status.Addresses[0].Address, "1.2.3.4")
	expect(t, "annotation", node.Annotations[annotationProvidedIP], "10.0.0.5")
	facts.ProvidedIP = ""
	expect(t, "annotations without a node IP", len(Generate(node, facts, time.Now()).Annotations), 0)
}

func TestHostIPs(t *testing.T) {
	node := func(addresses ...string) *v1.Node {
		node := &v1.Node{}
		for _, address := range addresses {
			kind, ip, _ := strings.Cut(address, "=")
			node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeAddressType(kind), Address: ip})
		}
		return node
	}
	expect(t, "none", hostIPs(node("Hostname=n1")), nil)
	expect(t, "internal first", hostIPs(node("ExternalIP=1.1.1.1", "InternalIP=10.0.0.1", "InternalIP=10.0.0.2")), []string{"10.0.0.1"})
	expect(t, "both families", hostIPs(node("InternalIP=10.0.0.1", "InternalIP=fd00::1")), []string{"10.0.0.1", "fd00::1"})
}

func TestLoadedImagesAreReportedLargestFirst(t *testing.T) {
	images := []*runtimeapi.Image{
		{RepoTags: []string{"small:1"}, Size: 1},
		{RepoDigests: []string{"big@sha256:1"}, RepoTags: []string{"big:1", "big:2", "big:3", "big:4", "big:5"}, Size: 9},
		{Size: 5}, // dangling
		{RepoTags: []string{"b:1"}, Size: 4}, {RepoTags: []string{"a:1"}, Size: 4},
	}
	var got []string
	for _, image := range reportedImages(images, 3) {
		got = append(got, strings.Join(image.Names, ","))
	}
	expect(t, "images", got, []string{"big@sha256:1,big:1,big:2,big:3,big:4", "a:1", "b:1"})
	expect(t, "unlimited", len(reportedImages(images, -1)), 4)
	expect(t, "none", len(reportedImages(images, 0)), 0)
}

// What the API server makes of the patch is what was generated.
func TestPatchMakesTheServersNodeTheGeneratedOne(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	full := func() *v1.Node {
		yes := true
		return &v1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"a": "1"}, Annotations: map[string]string{"b": "1"}},
			Spec:       v1.NodeSpec{PodCIDR: "10.0.0.0/24"},
			Status: v1.NodeStatus{
				Capacity:    v1.ResourceList{"cpu": resource.MustParse("1"), "hugepages-2Mi": resource.MustParse("0")},
				Allocatable: v1.ResourceList{"cpu": resource.MustParse("1"), "hugepages-2Mi": resource.MustParse("0")},
				Conditions: []v1.NodeCondition{
					{Type: "Foreign", Status: "True"}, {Type: "Ready", Status: "True", LastHeartbeatTime: metav1.NewTime(now)},
				},
				Addresses:        []v1.NodeAddress{{Type: "InternalIP", Address: "10.0.0.1"}, {Type: "InternalIP", Address: "fd00::1"}, {Type: "Hostname", Address: "n1"}},
				NodeInfo:         v1.NodeSystemInfo{KubeletVersion: "v1.36.0", Swap: &v1.NodeSwapStatus{Capacity: new(int64)}},
				Images:           []v1.ContainerImage{{Names: []string{"x"}, SizeBytes: 1}},
				VolumesInUse:     []v1.UniqueVolumeName{"v"},
				RuntimeHandlers:  []v1.NodeRuntimeHandler{{Name: "runc"}},
				Features:         &v1.NodeFeatures{SupplementalGroupsPolicy: &yes},
				DeclaredFeatures: []string{"F"},
			},
		}
	}
	for name, change := range map[string]func(*v1.Node){
		"nothing":   func(*v1.Node) {},
		"heartbeat": func(n *v1.Node) { n.Status.Conditions[1].LastHeartbeatTime = metav1.NewTime(now.Add(time.Minute)) },
		"condition": func(n *v1.Node) { n.Status.Conditions[1].Status = "False" },
		"new one": func(n *v1.Node) {
			n.Status.Conditions = append(n.Status.Conditions, v1.NodeCondition{Type: "PIDPressure"})
		},
		"one family": func(n *v1.Node) { n.Status.Addresses = n.Status.Addresses[1:] },
		"swapped":    func(n *v1.Node) { a := n.Status.Addresses; a[0], a[1] = a[1], a[0] },
		"third IP":   func(n *v1.Node) { n.Status.Addresses[0].Address = "10.0.0.2" },
		"no swap":    func(n *v1.Node) { n.Status.NodeInfo.Swap = nil },
		"version":    func(n *v1.Node) { n.Status.NodeInfo.KubeletVersion = "v1.37.2" },
		"no images":  func(n *v1.Node) { n.Status.Images = nil },
		"images": func(n *v1.Node) {
			n.Status.Images = []v1.ContainerImage{{Names: []string{"y"}, SizeBytes: 2}, {Names: []string{"x"}}}
		},
		"handlers": func(n *v1.Node) { n.Status.RuntimeHandlers = []v1.NodeRuntimeHandler{} },
		"features": func(n *v1.Node) { n.Status.DeclaredFeatures, n.Status.Features = nil, nil },
		"capacity": func(n *v1.Node) {
			delete(n.Status.Capacity, "hugepages-2Mi")
			n.Status.Capacity["cpu"] = resource.MustParse("2")
			n.Status.Capacity["x/y"] = resource.MustParse("3")
		},
		"metadata": func(n *v1.Node) {
			n.Labels, n.Annotations = map[string]string{"a": "2", "c": "3"}, map[string]string{}
		},
		"port": func(n *v1.Node) { n.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250 },
	} {
		t.Run(name, func(t *testing.T) {
			before, after := full(), full()
			change(after)
			patch, err := statusPatch(before, after)
			if err != nil {
				t.Fatal(err)
			}
			if name == "nothing" {
				expect(t, "patch", string(patch), "{}")
			}
			if name == "heartbeat" && strings.Contains(string(patch), "Foreign") {
				t.Errorf("writes the conditions of others: %s", patch)
			}
			patched, err := applyPatch(before, patch)
			if err != nil {
				t.Fatal(err)
			}
			if !equality.Semantic.DeepEqual(patched, after) {
				t.Errorf("patch %s (-want +got):\n%s", patch, cmp.Diff(after, patched))
			}
			expect(t, "sameStatus", sameStatus(before, after), name == "nothing" || name == "heartbeat")
		})
	}
}

func TestTransitionTimesMoveOnlyWithTheStatus(t *testing.T) {
	start := time.Unix(1000, 0)
	first := Generate(&v1.Node{}, Facts{Problems: []error{errors.New("a"), errors.New("b")}}, start)
	expect(t, "message", conditionOf(first, v1.NodeReady).Message, "[a, b, missing node capacity for resources: cpu, memory, pods]")
	second := Generate(first, Facts{Problems: []error{errors.New("c")}}, start.Add(time.Minute))
	ready := conditionOf(second, v1.NodeReady)
	expect(t, "transition", ready.LastTransitionTime.Unix(), start.Unix())
	expect(t, "heartbeat", ready.LastHeartbeatTime.Unix(), start.Unix()+60)
	capacity := v1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1"), "pods": resource.MustParse("1")}
	third := Generate(second, Facts{Capacity: capacity}, start.Add(2*time.Minute))
	expect(t, "transition when ready", conditionOf(third, v1.NodeReady).LastTransitionTime.Unix(), start.Unix()+120)
	if raw, err := json.Marshal(first); err != nil || !strings.Contains(string(raw), "KubeletNotReady") {
		t.Errorf("previous was modified: %s, %v", raw, err)
	}
}

func FuzzMachineFiles(f *testing.F) {
	f.Add("0-3,8", "MemTotal: 1 kB", "PRETTY_NAME=\"x\"")
	f.Add("0-99999999999", "MemTotal: -1 kB\nMemTotal: 99999999999999999999 kB", "PRETTY_NAME=")
	f.Fuzz(func(t *testing.T, cpus, meminfo, release string) {
		if n := onlineCPUs(cpus); n < 0 {
			t.Errorf("%d CPUs", n)
		}
		for name, bytes := range memInfo(meminfo) {
			if bytes < 0 {
				t.Errorf("%s is %d", name, bytes)
			}
		}
		if prettyName(release) == "" {
			t.Error("no name")
		}
	})
}

func TestBrokenHugePagesAreSkipped(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"hugepages-2048kB": "8\n", "hugepages-xkB": "1", "hugepages-64kB": "many", "other": "1"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "nr_hugepages"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "huge pages", readHugePages(dir), []hugePages{{2 << 20, 8}})
}

// A list that began before the node was registered arrives after it, empty.
func TestAnOlderListDoesNotRemoveTheNode(t *testing.T) {
	node := func(uid types.UID, version string) *v1.Node {
		return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: uid, ResourceVersion: version}}
	}
	for _, c := range []struct {
		name  string
		event func(*oneNode) error
		gone  bool
	}{
		{"empty list before", func(s *oneNode) error { return s.Replace(nil, "11") }, false},
		{"empty list after", func(s *oneNode) error { return s.Replace(nil, "13") }, true},
		{"predecessor deleted", func(s *oneNode) error { return s.Delete(node("other", "11")) }, false},
		{"deleted", func(s *oneNode) error { return s.Delete(node("u1", "13")) }, true},
	} {
		table := newTable(nil)
		table.setServer(node("u1", "12"))
		if err := c.event(&oneNode{table: table, name: "n1", appeared: func() {}}); err != nil {
			t.Fatal(err)
		}
		expect(t, c.name, table.serverNode() == nil, c.gone)
	}
}
