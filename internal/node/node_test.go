package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// inBubble runs f beside a running node in a synctest bubble.
func inBubble(t *testing.T, change func(*Config, *apiServer, *criRuntime), f func(t *testing.T, n *Node, s *apiServer, r *criRuntime)) {
	synctest.Test(t, func(t *testing.T) {
		s, r := &apiServer{}, &criRuntime{}
		cfg := testConfig(t, s, r)
		if change != nil {
			change(&cfg, s, r)
		}
		n := newNode(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.Run(ctx) }()
		synctest.Wait()
		f(t, n, s, r)
		s.mu.Lock()
		for _, w := range s.watchers {
			w.Stop()
		}
		s.mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestNodeIsReadyAsSoonAsItIsRegistered(t *testing.T) {
	registry := prometheus.NewRegistry()
	inBubble(t, func(cfg *Config, _ *apiServer, _ *criRuntime) {
		cfg.Labels = map[string]string{"rack": "r1", v1.LabelInstanceTypeStable: "big"}
		cfg.Taints = []v1.Taint{{Key: "new", Effect: v1.TaintEffectNoSchedule}}
		cfg.ProviderID = "x://1"
		cfg.Registerer = registry
	}, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		node := s.read()
		expect(t, "ready", conditionOf(node, v1.NodeReady).Status, v1.ConditionTrue)
		expect(t, "last condition", node.Status.Conditions[len(node.Status.Conditions)-1].Type, v1.NodeReady)
		for _, kind := range []v1.NodeConditionType{v1.NodeMemoryPressure, v1.NodeDiskPressure, v1.NodePIDPressure} {
			expect(t, string(kind), conditionOf(node, kind).Status, v1.ConditionFalse)
		}
		expect(t, "labels", node.Labels["rack"]+" "+node.Labels[v1.LabelHostname]+" "+node.Labels[v1.LabelOSStable], "r1 n1 linux")
		expect(t, "attach-detach", node.Annotations[annotationAttachDetach], "true")
		expect(t, "taints", len(node.Spec.Taints), 1)
		expect(t, "provider", node.Spec.ProviderID, "x://1")
		expect(t, "addresses", node.Status.Addresses, []v1.NodeAddress{{Type: "InternalIP", Address: "10.70.0.2"}, {Type: "Hostname", Address: "n1"}})
		expect(t, "runtime", node.Status.NodeInfo.ContainerRuntimeVersion, "containerd://2.4.2")
		expect(t, "handlers", len(node.Status.RuntimeHandlers), 2)
		expect(t, "supplemental groups policy", *node.Status.Features.SupplementalGroupsPolicy, true)
		expect(t, "port", node.Status.DaemonEndpoints.KubeletEndpoint.Port, 10250)
		expect(t, "declared features", len(node.Status.DeclaredFeatures), 0)
		expect(t, "host IPs", n.HostIPs(), []string{"10.70.0.2"})
		known, ok := n.Known()
		expect(t, "known", ok && known.UID == node.UID, true)
	})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "metrics", families[0].GetName(), "kubelet_node_name")
	expect(t, "node label", families[0].Metric[0].Label[0].GetValue(), "n1")
}

func TestASteadyNodeIsCheap(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		time.Sleep(time.Minute)
		synctest.Wait()
		patches := s.count("patch node")
		r.set(func() { r.asked = 0 })
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := s.count("patch node") - patches; got < 11 || got > 13 {
			t.Errorf("%d status reports in an hour, want one each 5 minutes", got)
		}
		if r.asked > 361+13 {
			t.Errorf("runtime asked %d times in an hour", r.asked)
		}
		expect(t, "reads", s.count("get node"), 0)
		renewals := s.count("update lease")
		if renewals < 340 || renewals > 370 {
			t.Errorf("lease renewed %d times in an hour", renewals)
		}
	})
}

func TestRuntimeThatComesUpMakesTheNodeReadyAtOnce(t *testing.T) {
	var mu sync.Mutex
	var events []string
	inBubble(t, func(cfg *Config, _ *apiServer, r *criRuntime) {
		r.networkDown = true
		cfg.Event = func(_, reason, _ string) { mu.Lock(); events = append(events, reason); mu.Unlock() }
	}, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		ready := conditionOf(s.read(), v1.NodeReady)
		expect(t, "ready", ready.Status, v1.ConditionFalse)
		expect(t, "reason", ready.Reason, "KubeletNotReady")
		expect(t, "message", ready.Message, "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized")
		time.Sleep(10 * time.Second)
		r.set(func() { r.networkDown = false })
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		expect(t, "ready", conditionOf(s.read(), v1.NodeReady).Status, v1.ConditionTrue)

		r.set(func() { r.networkDown = true })
		n.Wake()
		synctest.Wait()
		expect(t, "ready after a wake", conditionOf(s.read(), v1.NodeReady).Status, v1.ConditionFalse)
	})
	expect(t, "events", events, []string{"NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady", "NodeNotReady"})
}

func TestRuntimeOutageCountsAfterItsGrace(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		r.set(func() { r.hang = true })
		time.Sleep(25 * time.Second)
		synctest.Wait()
		expect(t, "ready during the grace", conditionOf(s.read(), v1.NodeReady).Status, v1.ConditionTrue)
		expect(t, "version", s.read().Status.NodeInfo.ContainerRuntimeVersion, "containerd://2.4.2")
		renewed := s.readLease().Spec.RenewTime.Time
		time.Sleep(25 * time.Second)
		synctest.Wait()
		ready := conditionOf(s.read(), v1.NodeReady)
		expect(t, "ready", ready.Status, v1.ConditionFalse)
		if !strings.Contains(ready.Message, "container runtime is down") {
			t.Errorf("message %q", ready.Message)
		}
		if !s.readLease().Spec.RenewTime.Time.After(renewed) {
			t.Error("a hung runtime stopped the lease")
		}
		r.set(func() { r.hang = false })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		expect(t, "ready again", conditionOf(s.read(), v1.NodeReady).Status, v1.ConditionTrue)
	})
}

func TestAStoppedLoopMakesTheNodeNotReady(t *testing.T) {
	var failing error
	inBubble(t, func(cfg *Config, _ *apiServer, _ *criRuntime) {
		cfg.Healthy = func() error { return failing }
	}, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		failing = errors.New("PLEG is not healthy")
		n.Wake()
		synctest.Wait()
		expect(t, "message", conditionOf(s.read(), v1.NodeReady).Message, "PLEG is not healthy")
	})
}

func TestRegistrationWaitsForTheServerAndTakesOverWhatIsThere(t *testing.T) {
	inBubble(t, func(_ *Config, s *apiServer, _ *criRuntime) { s.fail = errOut }, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		if _, known := n.Known(); known {
			t.Error("known without an answer")
		}
		expect(t, "local node is ready", isReady(n.Node()), true)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if tries := s.count("create node"); tries < 80 || tries > 100 {
			t.Errorf("%d tries in ten minutes, want one each 7 s", tries)
		}
		s.set(func() {
			s.fail = nil
			s.store(&v1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"team": "a", v1.LabelHostname: "old"}},
				Spec:       v1.NodeSpec{Taints: []v1.Taint{{Key: "kept", Effect: v1.TaintEffectNoExecute}}},
				Status: v1.NodeStatus{
					Capacity: v1.ResourceList{
						"hugepages-32Mi": resource.MustParse("64Mi"), "example.com/gpu": resource.MustParse("2"),
						v1.ResourceCPU: resource.MustParse("1"),
					},
					Conditions: []v1.NodeCondition{{Type: "NetworkUnavailable", Status: v1.ConditionFalse, Reason: "CNI"}},
					NodeInfo:   v1.NodeSystemInfo{BootID: "old"},
				},
			}, watch.Added)
		})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		node := s.read()
		expect(t, "hostname label", node.Labels[v1.LabelHostname], "n1")
		expect(t, "foreign label", node.Labels["team"], "a")
		expect(t, "taints", node.Spec.Taints[0].Key, "kept")
		_, stale := node.Status.Capacity["hugepages-32Mi"]
		expect(t, "stale huge pages", stale, false)
		gpu := node.Status.Capacity["example.com/gpu"]
		expect(t, "extended resource", gpu.String(), "2")
		cpu := node.Status.Capacity[v1.ResourceCPU]
		expect(t, "cpu", cpu.String(), "4")
		expect(t, "foreign condition", conditionOf(node, "NetworkUnavailable").Reason, "CNI")
		expect(t, "ready", isReady(node), true)
	})
}

func TestExtendedResourcesAreZeroedWhereTheirPluginsAreGone(t *testing.T) {
	inBubble(t, func(cfg *Config, s *apiServer, _ *criRuntime) {
		cfg.ZeroExtendedResources = func() bool { return true }
		s.store(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: v1.NodeStatus{
			Capacity: v1.ResourceList{"example.com/gpu": resource.MustParse("2")}}}, watch.Added)
	}, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		for _, list := range []v1.ResourceList{s.read().Status.Capacity, s.read().Status.Allocatable} {
			gpu := list["example.com/gpu"]
			expect(t, "gpus", gpu.Value(), 0)
		}
	})
}

func TestANodeThatMayNotCreateItselfUsesWhatIsThere(t *testing.T) {
	inBubble(t, func(_ *Config, s *apiServer, _ *criRuntime) { s.noCreate = true }, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		s.set(func() { s.store(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, watch.Added) })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		expect(t, "ready", isReady(s.read()), true)
	})
}

func TestWithoutRegistrationTheStatusWaitsForTheObject(t *testing.T) {
	inBubble(t, func(cfg *Config, _ *apiServer, _ *criRuntime) { cfg.Register = false }, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		time.Sleep(time.Minute)
		synctest.Wait()
		expect(t, "creations", s.count("create node"), 0)
		s.set(func() { s.store(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, watch.Added) })
		synctest.Wait()
		expect(t, "ready", isReady(s.read()), true)
	})
}

func TestStatusSurvivesAnOutage(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		s.set(func() { s.fail = errOut })
		r.set(func() { r.notReady = true })
		n.Wake()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if tries := s.count("get node"); tries > 60 {
			t.Errorf("%d tries in five minutes of outage", tries)
		}
		expect(t, "local node is ready", isReady(n.Node()), false)
		s.set(func() { s.fail = nil })
		time.Sleep(11 * time.Second)
		synctest.Wait()
		expect(t, "ready at the server", isReady(s.read()), false)
	})
	inBubble(t, nil, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		s.set(func() {
			for _, w := range s.watchers {
				w.Delete(s.node)
			}
			s.node = nil
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		expect(t, "creations after somebody deleted the node", s.count("create node"), 1)
		expect(t, "the pods' node", n.Node().Name, "n1")
	})
}

func TestOthersWorkOnTheNodeIsKept(t *testing.T) {
	changes := make(chan *v1.Node, 100)
	inBubble(t, func(cfg *Config, _ *apiServer, _ *criRuntime) {
		cfg.Changed = func(node *v1.Node) { changes <- node }
	}, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		for len(changes) > 0 {
			<-changes
		}
		s.edit(func(node *v1.Node) {
			node.Labels["zone"] = "z"
			node.Spec.Taints = []v1.Taint{{Key: "t", Effect: v1.TaintEffectNoExecute}}
			node.Status.Conditions = append(node.Status.Conditions, v1.NodeCondition{Type: "Foreign", Status: v1.ConditionTrue})
		})
		synctest.Wait()
		expect(t, "changes told", len(changes), 1)
		expect(t, "label seen", n.Node().Labels["zone"], "z")
		expect(t, "taint seen", n.Node().Spec.Taints[0].Key, "t")
		expect(t, "status kept", isReady(n.Node()), true)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		expect(t, "foreign condition", conditionOf(s.read(), "Foreign").Status, v1.ConditionTrue)
		expect(t, "changes told for heartbeats", len(changes), 1)
	})
}

func TestStandaloneNodeIsLocal(t *testing.T) {
	inBubble(t, func(cfg *Config, _ *apiServer, _ *criRuntime) { cfg.API = nil }, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		node, known := n.Known()
		expect(t, "known", known, true)
		expect(t, "ready", isReady(node), true)
		expect(t, "requests", len(s.log), 0)
		if err := n.WaitKnown(t.Context()); err != nil {
			t.Error(err)
		}
		fresh, err := n.Refresh(t.Context())
		expect(t, "refresh", err == nil && fresh == n.Node(), true)
	})
}

func TestLeaseBelongsToTheNodeAndOutlivesTrouble(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		time.Sleep(time.Second)
		lease := s.readLease()
		expect(t, "owner", lease.OwnerReferences[0].UID, s.read().UID)
		expect(t, "holder", *lease.Spec.HolderIdentity, "n1")
		expect(t, "seconds", *lease.Spec.LeaseDurationSeconds, 40)

		// Somebody else wrote it.
		s.set(func() { s.storeLease(s.lease) })
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if age := time.Since(s.readLease().Spec.RenewTime.Time); age > 11*time.Second {
			t.Errorf("not renewed for %v after a conflict", age)
		}
		// Somebody deleted it.
		s.set(func() { s.lease = nil })
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if s.readLease() == nil {
			t.Fatal("lease is not created again")
		}
		// The server hangs for 30 s: below the lease's 40.
		s.set(func() { s.hang = true })
		time.Sleep(30 * time.Second)
		s.set(func() { s.hang = false })
		time.Sleep(17 * time.Second)
		synctest.Wait()
		if age := time.Since(s.readLease().Spec.RenewTime.Time); age > 12*time.Second {
			t.Errorf("not renewed for %v after a hang", age)
		}
	})
}

func TestRebootIsTold(t *testing.T) {
	var mu sync.Mutex
	var events []string
	inBubble(t, func(cfg *Config, s *apiServer, _ *criRuntime) {
		cfg.Event = func(kind, reason, message string) {
			mu.Lock()
			events = append(events, kind+" "+reason+" "+message)
			mu.Unlock()
		}
		s.store(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: v1.NodeStatus{NodeInfo: v1.NodeSystemInfo{BootID: "before"}}}, watch.Added)
	}, func(t *testing.T, n *Node, s *apiServer, r *criRuntime) {
		time.Sleep(time.Minute)
	})
	told := slices.DeleteFunc(slices.Clone(events), func(e string) bool { return !strings.Contains(e, "Rebooted") })
	expect(t, "events", told, []string{"Warning Rebooted Node n1 has been rebooted, boot id: b00710d0-0000-4000-8000-000000000001"})
}
