package cluster

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubelet/test/harness"
)

// What the scheduler and people read off the Node object.
func TestNodeObject(t *testing.T) {
	t.Parallel()
	n, err := node.Cluster.Client.CoreV1().Nodes().Get(t.Context(), node.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		v1.LabelHostname: node.Name, v1.LabelOSStable: "linux", v1.LabelArchStable: runtime.GOARCH, "test.example/label": "yes",
	} {
		if n.Labels[key] != want {
			t.Errorf("label %s: got %q, want %q", key, n.Labels[key], want)
		}
	}
	want := []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: harness.NodeIP}, {Type: v1.NodeHostName, Address: node.Name}}
	if !slices.Equal(n.Status.Addresses, want) {
		t.Errorf("addresses: got %v, want %v", n.Status.Addresses, want)
	}
	for _, list := range []v1.ResourceList{n.Status.Capacity, n.Status.Allocatable} {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourcePods, v1.ResourceEphemeralStorage} {
			if q := list[name]; q.Sign() <= 0 {
				t.Errorf("resource %s is missing among %v", name, slices.Collect(maps.Keys(list)))
			}
		}
	}
	if cpus := n.Status.Capacity.Cpu().Value(); cpus != int64(runtime.NumCPU()) {
		t.Errorf("capacity: %d cpus, want %d", cpus, runtime.NumCPU())
	}
	if capacity, allocatable := n.Status.Capacity.Memory(), n.Status.Allocatable.Memory(); capacity.Value()-allocatable.Value() != 20<<20 {
		t.Errorf("memory: %s allocatable of %s, want 20Mi less, the eviction threshold", allocatable, capacity)
	}
	if pods := n.Status.Allocatable.Pods().Value(); pods != 110 {
		t.Errorf("allocatable pods: %d, want 110", pods)
	}
	if len(n.Spec.Taints) != 0 {
		t.Errorf("taints: %v", n.Spec.Taints)
	}
	for kind, want := range map[v1.NodeConditionType]v1.ConditionStatus{
		v1.NodeReady: v1.ConditionTrue, v1.NodeMemoryPressure: v1.ConditionFalse, v1.NodeDiskPressure: v1.ConditionFalse, v1.NodePIDPressure: v1.ConditionFalse,
	} {
		i := slices.IndexFunc(n.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == kind })
		if i < 0 || n.Status.Conditions[i].Status != want || n.Status.Conditions[i].LastHeartbeatTime.IsZero() || n.Status.Conditions[i].Reason == "" {
			t.Errorf("condition %s: %v, want %s", kind, n.Status.Conditions, want)
		}
	}
	info := n.Status.NodeInfo
	if !strings.HasPrefix(info.KubeletVersion, "v1.37.") || !strings.HasPrefix(info.ContainerRuntimeVersion, "containerd://") ||
		info.KernelVersion == "" || info.OSImage == "" || info.OperatingSystem != "linux" || info.Architecture != runtime.GOARCH || info.BootID == "" {
		t.Errorf("node info: %+v", info)
	}
}

// The lease is what keeps the node from being taken for dead.
func TestNodeLease(t *testing.T) {
	t.Parallel()
	leases := node.Cluster.Client.CoordinationV1().Leases("kube-node-lease")
	first, err := leases.Get(t.Context(), node.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if first.Spec.HolderIdentity == nil || *first.Spec.HolderIdentity != node.Name || *first.Spec.LeaseDurationSeconds != 40 ||
		len(first.OwnerReferences) != 1 || first.OwnerReferences[0].Kind != "Node" {
		t.Errorf("lease: %+v of %v", first.Spec, first.OwnerReferences)
	}
	if age := time.Since(first.Spec.RenewTime.Time); age > 20*time.Second {
		t.Errorf("the lease was last renewed %s ago, want at most 10 s and some", age)
	}
	until(t, "the lease to be renewed", func(ctx context.Context) error {
		l, err := leases.Get(ctx, node.Name, metav1.GetOptions{})
		if err == nil && !l.Spec.RenewTime.After(first.Spec.RenewTime.Time) {
			err = fmt.Errorf("renewed at %s", l.Spec.RenewTime)
		}
		return err
	})
}

// A static pod shows at the API server as a mirror pod, which is kept true and
// has no power over the pod.
func TestMirrorPod(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	file := ns + ".yaml"
	name := "mirrored-" + node.Name
	put := func(word string) {
		t.Helper()
		text, err := harness.Manifest("static.yaml", "NAMESPACE", ns, "WORD", word)
		if err == nil {
			err = node.PutManifest(file, text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := node.RemoveManifest(file); err != nil {
			t.Error(err)
		}
	})
	put("one")
	pod := waitReady(t, ns, name)
	hash := pod.Annotations["kubernetes.io/config.hash"]
	if hash == "" || pod.Annotations["kubernetes.io/config.mirror"] != hash || pod.Annotations["kubernetes.io/config.source"] != "file" {
		t.Errorf("annotations: %v", pod.Annotations)
	}
	if len(pod.OwnerReferences) != 1 || pod.OwnerReferences[0].Kind != "Node" || pod.OwnerReferences[0].Name != node.Name {
		t.Errorf("owner: %v, want the node", pod.OwnerReferences)
	}
	container := harness.ContainerStatus(pod, "main").ContainerID

	deletePod(t, ns, name, 0)
	again := waitPod(t, ns, name, "made anew", func(p *v1.Pod) bool { return p != nil && p.UID != pod.UID && harness.Ready(p) })
	if id := harness.ContainerStatus(again, "main").ContainerID; id != container {
		t.Errorf("the deletion of the mirror replaced container %s by %s", container, id)
	}

	put("two")
	changed := waitPod(t, ns, name, "that of the changed manifest", func(p *v1.Pod) bool {
		return p != nil && p.Annotations["kubernetes.io/config.hash"] != hash && harness.Ready(p)
	})
	if body := fetch(t, changed, "/env"); !strings.Contains(body, "WORD=two") {
		t.Errorf("environment after the change: %q", body)
	}
	if err := node.RemoveManifest(file); err != nil {
		t.Fatal(err)
	}
	waitGone(t, ns, name)
}
