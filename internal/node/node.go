package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// API is the part of the API server that this package uses (package
// apiclient). Each call has a deadline of its own.
type API interface {
	GetNode(ctx context.Context, name string) (*v1.Node, error)
	CreateNode(ctx context.Context, node *v1.Node) (*v1.Node, error)
	PatchNodeStatus(ctx context.Context, name string, patch []byte) (*v1.Node, error)
	WatchNode(name string) cache.ListerWatcher
	GetLease(ctx context.Context, namespace, name string) (*coordinationv1.Lease, error)
	CreateLease(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error)
	UpdateLease(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error)
}

// Runtime is the part of the CRI that says how the runtime is (package cri).
type Runtime interface {
	Version(ctx context.Context) (*runtimeapi.VersionResponse, error)
	Status(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error)
}

// Config configures a Node.
type Config struct {
	// Name of the Node object.
	Name string
	// Hostname for the label and the Hostname address.
	Hostname string
	// API is nil where there is no API server.
	API     API
	Runtime Runtime

	// Register creates the Node object; otherwise somebody else does.
	Register bool
	// Labels, Taints, Unschedulable and ProviderID of the Node object when it
	// is created.
	Labels        map[string]string
	Taints        []v1.Taint
	Unschedulable bool
	ProviderID    string
	// ExternalCloudProvider: a cloud controller sets the addresses and takes
	// the taint node.cloudprovider.kubernetes.io/uninitialized away.
	ExternalCloudProvider bool
	// ControllerAttachDetach lets kube-controller-manager attach volumes.
	ControllerAttachDetach bool
	// ZeroExtendedResources says, when an existing object is taken over,
	// whether extended resources in its status are to be set to zero until
	// their device plugins announce them again. Nil means no.
	ZeroExtendedResources func() bool

	// IPs are the addresses to use: none, one, or one of each family. The
	// unspecified address prefers its family.
	IPs []netip.Addr

	// RootDir is on the file system whose size is the node's ephemeral
	// storage.
	RootDir string
	// LocalStorageCapacityIsolation reports ephemeral storage at all.
	LocalStorageCapacityIsolation bool
	// MaxPods bounds the pods, and PodsPerCore too if not zero.
	MaxPods, PodsPerCore int32
	// KubeReserved and SystemReserved (see ParseReserved) and EvictionHard
	// (signal to quantity or percentage) are taken off the capacity.
	KubeReserved, SystemReserved v1.ResourceList
	EvictionHard                 map[string]string

	// Port of the kubelet's HTTPS API.
	Port int32
	// DeclaredFeatures of the node's status (KEP-5328), sorted.
	DeclaredFeatures []string
	// UpdateFrequency is how often the status is computed (default 10 s), and
	// ReportFrequency how often it is written if nothing changed (default
	// 5 min).
	UpdateFrequency, ReportFrequency time.Duration
	// LeaseDuration is the lease's (default 40 s), whole seconds; it is
	// renewed after a quarter of it.
	LeaseDuration time.Duration

	// Images lists the runtime's images; nil reports none. MaxImages bounds
	// them, -1 does not.
	Images    func(ctx context.Context) ([]*runtimeapi.Image, error)
	MaxImages int32
	// Healthy tells of a loop of the agent that stands still; the node is then
	// not ready. It must not block and must not depend on any one container.
	Healthy func() error
	// Event records an event about the node.
	Event func(eventType, reason, message string)
	// Changed is called when labels, taints, annotations, unschedulable, pod
	// CIDRs, addresses or allocatable of the node changed. It must not block.
	Changed func(node *v1.Node)

	// Started is when the process started, for the start-up metrics.
	Started time.Time
	// Registerer takes the metrics; nil means none.
	Registerer prometheus.Registerer

	// hostRoot is where tests put a machine's files; empty means /.
	hostRoot string
	// network is the machine's; tests have their own.
	network *network
}

// Node keeps this machine's Node object.
type Node struct {
	cfg               Config
	machine           machine
	capacity, reserve v1.ResourceList
	address           *addressFinder
	runtime           *runtimeProbe
	images            *imageList
	table             *table
	metrics           *startupMetrics
	wake              chan struct{}
}

// New reads what the machine is. It fails on settings that can never work,
// such as a loopback address for the node.
func New(cfg Config) (*Node, error) {
	if cfg.Name == "" || cfg.Runtime == nil {
		return nil, errors.New("set up node: name and runtime are needed")
	}
	setDefault(&cfg.Hostname, cfg.Name)
	setDefault(&cfg.RootDir, "/var/lib/kubelet")
	setDefault(&cfg.UpdateFrequency, 10*time.Second)
	setDefault(&cfg.ReportFrequency, 5*time.Minute)
	setDefault(&cfg.LeaseDuration, 40*time.Second)
	setDefault(&cfg.hostRoot, "/")
	setDefault(&cfg.network, hostNetwork())
	if cfg.Healthy == nil {
		cfg.Healthy = func() error { return nil }
	}
	if cfg.Event == nil {
		cfg.Event = func(string, string, string) {}
	}
	if cfg.Started.IsZero() {
		cfg.Started = time.Now()
	}
	address, err := newAddressFinder(cfg)
	if err != nil {
		return nil, fmt.Errorf("set up node: %w", err)
	}
	machine, err := readMachine(cfg.hostRoot, cfg.RootDir)
	if err != nil {
		return nil, fmt.Errorf("set up node: %w", err)
	}
	capacity := capacityOf(machine, cfg)
	reserve, err := reservation(capacity, cfg.KubeReserved, cfg.SystemReserved, cfg.EvictionHard)
	if err != nil {
		return nil, fmt.Errorf("set up node: %w", err)
	}
	metrics, err := newStartupMetrics(cfg.Registerer, cfg.Name, cfg.Started, machine.booted)
	if err != nil {
		return nil, fmt.Errorf("set up node metrics: %w", err)
	}
	n := &Node{
		cfg:      cfg,
		machine:  machine,
		capacity: capacity,
		reserve:  reserve,
		address:  address,
		runtime:  newRuntimeProbe(cfg.Runtime),
		images:   newImageList(cfg.Images, cfg.MaxImages),
		table:    newTable(cfg.Changed),
		metrics:  metrics,
		wake:     make(chan struct{}, 1),
	}
	// Pods' statuses want the addresses from the first moment. A machine
	// without an address yet is no error: it may be booting.
	_, _ = address.find(context.Background(), time.Now())
	n.table.setLocal(Generate(initialNode(cfg), n.facts(), time.Now()))
	return n, nil
}

// Run registers the node and keeps lease and status until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if n.cfg.API == nil {
		n.table.noServer()
	} else {
		group.Go(func() error { n.table.watch(ctx, n.cfg.API.WatchNode(n.cfg.Name), n.cfg.Name, n.Wake); return nil })
		lease := &lease{api: n.cfg.API, node: n.cfg.Name, duration: n.cfg.LeaseDuration, uid: n.uid}
		group.Go(func() error { lease.run(ctx); return nil })
	}
	group.Go(func() error { n.write(ctx); return nil })
	return group.Wait()
}

// Wake has the status computed now: the runtime became ready or not, an agent
// loop stands still, addresses changed. It never blocks.
func (n *Node) Wake() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Node returns the newest Node object, not to be modified: metadata and spec
// from the API server if it has been reached, else as they would be
// registered, and the newest status. Never nil.
func (n *Node) Node() *v1.Node { return n.table.node() }

// Known returns the newest Node object and whether it is the cluster's word:
// false until the API server has been asked once, true at once in standalone.
func (n *Node) Known() (*v1.Node, bool) { return n.table.node(), n.table.isKnown() }

// WaitKnown blocks until Known is true.
func (n *Node) WaitKnown(ctx context.Context) error { return n.table.waitKnown(ctx) }

// Refresh reads the Node object from the API server.
func (n *Node) Refresh(ctx context.Context) (*v1.Node, error) {
	if n.cfg.API == nil {
		return n.Node(), nil
	}
	node, err := n.cfg.API.GetNode(ctx, n.cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("read node %s: %w", n.cfg.Name, err)
	}
	n.table.setServer(node)
	return n.Node(), nil
}

// HostIPs returns the node's addresses as they appear in the status of its
// pods: the first internal (else external) address, and after it the first
// one of the other family, if there is one.
func (n *Node) HostIPs() []string { return hostIPs(n.Node()) }

// uid returns the UID of the Node object at the API server, or "".
func (n *Node) uid() string {
	if server := n.table.serverNode(); server != nil {
		return string(server.UID)
	}
	return ""
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
