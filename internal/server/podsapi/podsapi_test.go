package podsapi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podsv1alpha1 "k8s.io/kubelet/pkg/apis/pods/v1alpha1"
)

// node has the pods that a test gives it.
type node struct {
	podsv1alpha1.PodsClient
	server   *Server
	registry *prometheus.Registry

	mu       sync.Mutex
	pods     map[types.UID]*v1.Pod
	statuses map[types.UID]v1.PodStatus
	unready  bool
}

func newNode(t *testing.T, uids ...types.UID) *node {
	t.Helper()
	n := &node{registry: prometheus.NewRegistry(), pods: map[types.UID]*v1.Pod{}, statuses: map[types.UID]v1.PodStatus{}}
	for _, uid := range uids {
		n.pods[uid] = pod(uid)
	}
	path := filepath.Join(t.TempDir(), "pods-api", "s")
	var err error
	if n.server, err = New(Config{Path: path, Registerer: n.registry, Pods: n.all, Pod: n.one, Status: n.status, Ready: func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return !n.unready
	}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.server.Run(ctx) }()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		conn.Close()
	})
	n.PodsClient = podsv1alpha1.NewPodsClient(conn)
	return n
}

func pod(uid types.UID) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "name-" + string(uid), UID: uid}}
}

func (n *node) all() (pods []*v1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pods {
		pods = append(pods, p)
	}
	return pods
}

func (n *node) one(uid types.UID) (*v1.Pod, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.pods[uid]
	return p, ok
}

func (n *node) status(uid types.UID) (v1.PodStatus, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, ok := n.statuses[uid]
	return s, ok
}

// change changes the node and tells of a pod.
func (n *node) change(uid types.UID, f func()) {
	n.mu.Lock()
	f()
	n.mu.Unlock()
	n.server.Wake(uid)
}

func (n *node) phase(uid types.UID, phase v1.PodPhase) {
	n.change(uid, func() { n.statuses[uid] = v1.PodStatus{Phase: phase} })
}

func decode(t *testing.T, text []byte) *v1.Pod {
	t.Helper()
	p := &v1.Pod{}
	if err := p.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	return p
}

// next reads one event: "ADDED ns/name-a Pending".
func next(t *testing.T, stream podsv1alpha1.Pods_WatchPodsClient) string {
	t.Helper()
	e, err := stream.Recv()
	if err != nil {
		return status.Code(err).String()
	}
	p := decode(t, e.Pod)
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Type, strings.Trim(p.Namespace+"/"+p.Name, "/"), p.Status.Phase))
}

func expect(t *testing.T, stream podsv1alpha1.Pods_WatchPodsClient, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := next(t, stream); got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func TestWatch(t *testing.T) {
	n := newNode(t, "b", "a")
	n.phase("a", v1.PodRunning)
	stream, err := n.WatchPods(t.Context(), &podsv1alpha1.WatchPodsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, stream, "ADDED ns/name-a Running", "ADDED ns/name-b Pending", "INITIAL_SYNC_COMPLETE")
	n.change("c", func() { n.pods["c"] = pod("c") })
	expect(t, stream, "ADDED ns/name-c Pending")
	n.server.Wake("a") // nothing new
	n.phase("c", v1.PodSucceeded)
	expect(t, stream, "MODIFIED ns/name-c Succeeded")
	n.server.Wake("nobody")
	n.change("b", func() { delete(n.pods, "b") })
	expect(t, stream, "DELETED ns/name-b")
	n.change("b", func() { n.pods["b"] = pod("b") }) // a static pod comes back under its UID
	expect(t, stream, "ADDED ns/name-b Pending")
}

// A client that does not read holds what changed, not every change, and gets
// each pod as it is in the end.
func TestSlowClientGetsTheNewest(t *testing.T) {
	n := newNode(t, "a", "b")
	stream, err := n.WatchPods(t.Context(), &podsv1alpha1.WatchPodsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, stream, "ADDED ns/name-a Pending", "ADDED ns/name-b Pending", "INITIAL_SYNC_COMPLETE")
	const many = 20000
	for i := range many {
		n.change("a", func() {
			n.statuses["a"] = v1.PodStatus{Phase: v1.PodRunning, Message: fmt.Sprint(i) + strings.Repeat("x", 1000)}
		})
	}
	n.server.mu.Lock()
	for w := range n.server.watches {
		w.mu.Lock()
		if len(w.dirty) > 1 {
			t.Errorf("%d pods wait for a client of whom one changed", len(w.dirty))
		}
		w.mu.Unlock()
	}
	n.server.mu.Unlock()
	n.change("b", func() { delete(n.pods, "b") })
	events, last := 0, ""
	for gone := false; !gone || !strings.HasPrefix(last, fmt.Sprint(many-1)); events++ {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		switch p := decode(t, e.Pod); p.UID {
		case "a":
			last = p.Status.Message
		case "b":
			gone = e.Type == podsv1alpha1.EventType_DELETED
		}
	}
	if events > many/2 {
		t.Errorf("%d events for %d changes that nobody read", events, many)
	}
}

func TestListAndGet(t *testing.T) {
	n := newNode(t, "b", "a")
	n.pods["b"].Status = v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}}
	n.phase("a", v1.PodFailed)
	list, err := n.ListPods(t.Context(), &podsv1alpha1.ListPodsRequest{})
	if err != nil || len(list.Pods) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	if a := decode(t, list.Pods[0]); a.UID != "a" || a.Status.Phase != v1.PodFailed {
		t.Errorf("first pod: %v", a)
	}
	// What an earlier kubelet said of readiness is not passed on.
	if b := decode(t, list.Pods[1]); b.Status.Phase != v1.PodRunning || b.Status.Conditions[0].Status != v1.ConditionFalse {
		t.Errorf("second pod: %v", b)
	}
	if n.pods["b"].Status.Conditions[0].Status != v1.ConditionTrue {
		t.Error("the pod itself was changed")
	}
	one, err := n.GetPod(t.Context(), &podsv1alpha1.GetPodRequest{PodUID: "b"})
	if err != nil || decode(t, one.Pod).Name != "name-b" {
		t.Errorf("%v, %v", one, err)
	}
	if _, err := n.GetPod(t.Context(), &podsv1alpha1.GetPodRequest{PodUID: "c"}); status.Code(err) != codes.NotFound {
		t.Errorf("a pod that is not there: %v", err)
	}
	families, err := n.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var counted []string
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetValue())
			}
			counted = append(counted, fmt.Sprintf("%s%v %v", strings.TrimPrefix(f.GetName(), "kubelet_pod_"), labels, m.Counter.GetValue()))
		}
	}
	want := "requests_get_total[v1alpha1 NotFound] 1, requests_get_total[v1alpha1 OK] 1, requests_list_total[v1alpha1 OK] 1, " +
		"requests_total[v1alpha1 NotFound] 1, requests_total[v1alpha1 OK] 2, watch_events_dropped_total[] 0"
	if got := strings.Join(counted, ", "); got != want {
		t.Errorf("counted %s\nwant %s", got, want)
	}
}

func TestNothingBeforeAllPodsAreKnown(t *testing.T) {
	n := newNode(t, "a")
	n.mu.Lock()
	n.unready = true
	n.mu.Unlock()
	if _, err := n.ListPods(t.Context(), &podsv1alpha1.ListPodsRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("list: %v", err)
	}
	if _, err := n.GetPod(t.Context(), &podsv1alpha1.GetPodRequest{PodUID: "a"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("get: %v", err)
	}
	stream, err := n.WatchPods(t.Context(), &podsv1alpha1.WatchPodsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, stream, "FailedPrecondition")
}

func TestTooMuchIsRefused(t *testing.T) {
	n := newNode(t)
	for i := range maxWatches + 1 {
		stream, err := n.WatchPods(t.Context(), &podsv1alpha1.WatchPodsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		want := "INITIAL_SYNC_COMPLETE"
		if i == maxWatches {
			want = "ResourceExhausted"
		}
		expect(t, stream, want)
	}
	refused := 0
	for range 20 * burst {
		if _, err := n.ListPods(t.Context(), &podsv1alpha1.ListPodsRequest{}); status.Code(err) == codes.ResourceExhausted {
			refused++
		}
	}
	if refused == 0 {
		t.Errorf("%d lists at once were all served", 20*burst)
	}
}

// The socket of a kubelet that was killed is replaced, and is root's alone.
func TestSocketOfAnEarlierProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 2 {
		l, err := listen(path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		info, err := os.Stat(path)
		if err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
	}
}
