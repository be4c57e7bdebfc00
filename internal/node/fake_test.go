package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var (
	nodes  = schema.GroupResource{Resource: "nodes"}
	leases = schema.GroupResource{Resource: "leases"}
	errOut = errors.New("connect: connection refused")
)

// apiServer is an API server of one node and one lease in memory. It applies
// patches as the real one does.
type apiServer struct {
	mu       sync.Mutex
	version  int
	node     *v1.Node
	lease    *coordinationv1.Lease
	fail     error // of every request
	noCreate bool  // creating nodes is forbidden
	hang     bool
	watchers []*watch.RaceFreeFakeWatcher
	log      []string
}

func (s *apiServer) enter(ctx context.Context, what string) error {
	s.mu.Lock()
	s.log = append(s.log, what)
	fail, hang := s.fail, s.hang
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return fail
}

func (s *apiServer) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, entry := range s.log {
		if entry == what {
			n++
		}
	}
	return n
}

func (s *apiServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// store takes a new version of the node. The caller holds mu.
func (s *apiServer) store(node *v1.Node, event watch.EventType) {
	s.version++
	if node.UID == "" {
		node.UID = types.UID("uid-" + strconv.Itoa(s.version))
	}
	node.ResourceVersion = strconv.Itoa(s.version)
	s.node = node
	for _, w := range s.watchers {
		w.Action(event, node.DeepCopy())
	}
}

// edit changes the node as somebody else would.
func (s *apiServer) edit(f func(*v1.Node)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	node := s.node.DeepCopy()
	f(node)
	s.store(node, watch.Modified)
}

func (s *apiServer) read() *v1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node.DeepCopy()
}

func (s *apiServer) readLease() *coordinationv1.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease.DeepCopy()
}

func (s *apiServer) GetNode(ctx context.Context, name string) (*v1.Node, error) {
	if err := s.enter(ctx, "get node"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node == nil {
		return nil, apierrors.NewNotFound(nodes, name)
	}
	return s.node.DeepCopy(), nil
}

func (s *apiServer) CreateNode(ctx context.Context, node *v1.Node) (*v1.Node, error) {
	if err := s.enter(ctx, "create node"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noCreate {
		return nil, apierrors.NewForbidden(nodes, node.Name, errors.New("not allowed"))
	}
	if s.node != nil {
		return nil, apierrors.NewAlreadyExists(nodes, node.Name)
	}
	s.store(node.DeepCopy(), watch.Added)
	return s.node.DeepCopy(), nil
}

func (s *apiServer) PatchNodeStatus(ctx context.Context, name string, patch []byte) (*v1.Node, error) {
	if err := s.enter(ctx, "patch node"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node == nil {
		return nil, apierrors.NewNotFound(nodes, name)
	}
	node, err := applyPatch(s.node, patch)
	if err != nil {
		return nil, err
	}
	s.store(node, watch.Modified)
	return node.DeepCopy(), nil
}

// applyPatch does what the API server does with a strategic merge patch.
func applyPatch(node *v1.Node, patch []byte) (*v1.Node, error) {
	before, err := json.Marshal(node)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergePatch(before, patch, v1.Node{})
	if err != nil {
		return nil, fmt.Errorf("apply %s: %w", patch, err)
	}
	out := &v1.Node{}
	return out, json.Unmarshal(after, out)
}

func (s *apiServer) WatchNode(string) cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
			if err := s.enter(ctx, "list nodes"); err != nil {
				return nil, err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.version = max(s.version, 1) // there is no list at version 0
			list := &v1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)}}
			if s.node != nil {
				list.Items = append(list.Items, *s.node.DeepCopy())
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			if opts.SendInitialEvents != nil {
				return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil)
			}
			if err := s.enter(ctx, "watch nodes"); err != nil {
				return nil, err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			w := watch.NewRaceFreeFake()
			s.watchers = append(s.watchers, w)
			since, err := strconv.Atoi(opts.ResourceVersion)
			if err != nil {
				return nil, apierrors.NewBadRequest("a watch begins where a list ended")
			}
			if s.node != nil && s.version > since { // came between the list and the watch
				w.Add(s.node.DeepCopy())
			}
			return w, nil
		},
	}
}

func (s *apiServer) GetLease(ctx context.Context, _, name string) (*coordinationv1.Lease, error) {
	if err := s.enter(ctx, "get lease"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		return nil, apierrors.NewNotFound(leases, name)
	}
	return s.lease.DeepCopy(), nil
}

func (s *apiServer) CreateLease(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	if err := s.enter(ctx, "create lease"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.storeLease(lease), nil
}

func (s *apiServer) UpdateLease(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	if err := s.enter(ctx, "update lease"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == nil {
		return nil, apierrors.NewNotFound(leases, lease.Name)
	}
	if s.lease.ResourceVersion != lease.ResourceVersion {
		return nil, apierrors.NewConflict(leases, lease.Name, errors.New("changed"))
	}
	return s.storeLease(lease), nil
}

func (s *apiServer) storeLease(lease *coordinationv1.Lease) *coordinationv1.Lease {
	s.version++
	s.lease = lease.DeepCopy()
	s.lease.ResourceVersion = strconv.Itoa(s.version)
	return s.lease.DeepCopy()
}

// criRuntime is a container runtime that says what it is told to.
type criRuntime struct {
	mu                    sync.Mutex
	notReady, networkDown bool
	fail                  error
	hang                  bool
	asked                 int
}

func (r *criRuntime) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *criRuntime) Version(context.Context) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "containerd", RuntimeVersion: "2.4.2"}, nil
}

func (r *criRuntime) Status(ctx context.Context, _ bool) (*runtimeapi.StatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.hang {
		r.mu.Unlock()
		<-ctx.Done()
		r.mu.Lock()
		return nil, ctx.Err()
	}
	if r.fail != nil {
		return nil, r.fail
	}
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: !r.networkDown}
	if r.networkDown {
		network.Reason, network.Message = "NetworkPluginNotReady", "cni plugin not initialized"
	}
	return &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: !r.notReady}, network,
		}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{
			{Name: "runc", Features: &runtimeapi.RuntimeHandlerFeatures{UserNamespaces: true}},
			{Name: "", Features: &runtimeapi.RuntimeHandlerFeatures{UserNamespaces: true}},
		},
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}, nil
}

// testNetwork is a machine with one address and no name service.
func testNetwork(addresses ...string) *network {
	var onHost []netip.Addr
	for _, address := range addresses {
		onHost = append(onHost, netip.MustParseAddr(address))
	}
	return &network{
		onHost: func() ([]netip.Addr, error) { return onHost, nil },
		lookup: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") },
		defaultRoute: func(_ context.Context, family netip.Addr) (netip.Addr, error) {
			for _, ip := range onHost {
				if !family.IsValid() || ip.Is4() == family.Is4() {
					return ip, nil
				}
			}
			return netip.Addr{}, errors.New("no default routes found")
		},
	}
}

func testConfig(t *testing.T, api API, runtime Runtime) Config {
	return Config{
		Name: "n1", API: api, Runtime: runtime, Register: true, ControllerAttachDetach: true,
		RootDir: t.TempDir(), LocalStorageCapacityIsolation: true, MaxPods: 110, Port: 10250, MaxImages: 50,
		EvictionHard: map[string]string{"memory.available": "100Mi", "nodefs.available": "10%"},
		Started:      time.Now(), hostRoot: "testdata/machine", network: testNetwork("10.70.0.2"),
	}
}

func newNode(t *testing.T, cfg Config) *Node {
	t.Helper()
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func expect[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func conditionOf(node *v1.Node, kind v1.NodeConditionType) v1.NodeCondition {
	if at := conditionAt(node.Status.Conditions, kind); at >= 0 {
		return node.Status.Conditions[at]
	}
	return v1.NodeCondition{}
}
