package criconfig

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/podspec"
	"kubelet/internal/volume/subpath"
)

// Objects gives the API objects that containers refer to. An object that does
// not exist is an error for which apierrors.IsNotFound is true.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Services gives the services of one namespace; synced is false until the
// API server has told them once. The list is not to be changed.
type Services interface {
	Services(namespace string) (services []*v1.Service, synced bool)
}

// RuntimeClasses resolves the name of a RuntimeClass. A class that does not
// exist is an error for which apierrors.IsNotFound is true.
type RuntimeClasses interface {
	RuntimeClass(ctx context.Context, class string) (handler string, err error)
}

// Images tells about images on the node.
type Images interface {
	// ImageUser is the user that the image is made to run as: a numeric id, or
	// else a name; id 0 if the image names none.
	ImageUser(ctx context.Context, ref string) (uid *int64, username string, err error)
	// ImageRef is what an image's name in the spec stands for on the node
	// now; empty if the image is not there.
	ImageRef(ctx context.Context, pod *v1.Pod, name string) (ref string, err error)
}

// Events takes warnings about a pod. It never blocks.
type Events interface {
	Event(pod *v1.Pod, container, eventType, reason, message string)
}

// Swap is how containers may use the node's swap
// (https://kubernetes.io/docs/concepts/cluster-administration/swap-memory-management/).
type Swap struct {
	// Controller says whether the kernel accounts swap per cgroup.
	Controller bool
	// Limited lets Burstable pods use swap in proportion to their memory
	// requests (swapBehavior LimitedSwap, cgroup v2 only).
	Limited bool
	// Capacity is the node's swap in bytes.
	Capacity int64
}

// HandlerFeatures are what not every runtime handler can do.
type HandlerFeatures struct {
	// RecursiveReadOnly mounts (KEP-3857).
	RecursiveReadOnly bool
	// UserNamespaces with mounts whose owners are mapped (KEP-127).
	UserNamespaces bool
}

// Config says what a Builder is made of.
type Config struct {
	// Root is the kubelet's directory (/var/lib/kubelet).
	Root string
	// PodLogsDir is the directory of all pods' logs (/var/log/pods).
	PodLogsDir string

	// ClusterDNS servers and ClusterDomain for pods with a cluster-first DNS
	// policy; both may be empty.
	ClusterDNS    []string
	ClusterDomain string
	// ResolverConfig is the node's resolv.conf. Empty gives pods with DNS
	// policy Default a resolver on the loopback address and no search.
	ResolverConfig string

	// CPUCFSQuota enforces CPU limits, over CPUCFSQuotaPeriod.
	CPUCFSQuota       bool
	CPUCFSQuotaPeriod time.Duration
	// CgroupV2 says that the node has the unified hierarchy.
	CgroupV2 bool
	// SingleProcessOOMKill leaves memory.oom.group off (cgroup v2).
	SingleProcessOOMKill bool
	Swap                 Swap
	// SELinux says that the node has it enabled, so that mounts may have to
	// be relabelled for the container.
	SELinux bool
	// SeccompDefault makes RuntimeDefault the profile of containers that name
	// none.
	SeccompDefault bool
	// MemoryCapacity of the node in bytes; oom_score_adj is relative to it.
	MemoryCapacity int64
	// HugePageSizes of the node as the runtime names them (2MB, 1GB).
	HugePageSizes []string
	// DefaultSysctls are set in each pod whose own namespaces they belong to
	// (defaultPodSysctls).
	DefaultSysctls map[string]string
	// SysDir is where sysfs is mounted; /sys if empty.
	SysDir string
	// NodeHosts is the node's hosts file; /etc/hosts if empty.
	NodeHosts string

	// Objects, Services and RuntimeClasses are nil without an API server.
	Objects        Objects
	Services       Services
	RuntimeClasses RuntimeClasses
	Images         Images
	// SubPaths is package volume/subpath's if nil.
	SubPaths SubPaths
	// ImageVolumes says why the runtime cannot mount images; nil if it always
	// can.
	ImageVolumes func(ctx context.Context) error
	// Events may be nil.
	Events Events
	// NodeEvent takes a warning about the node; nil for none. It never blocks.
	NodeEvent func(reason, message string)
	// NodeAllocatable is the default of resourceFieldRef limits.
	NodeAllocatable func() v1.ResourceList
	// HostIPs of the node, primary first; empty while unknown.
	HostIPs func() []string
	// Handler says what a runtime handler can do ("" is the default one); nil
	// for nothing.
	Handler func(ctx context.Context, name string) (HandlerFeatures, error)
	// EnvFiles lets variables come from files (feature gate EnvFiles).
	EnvFiles bool
	// UserNamespace gives the id mapping of a pod with hostUsers: false; nil
	// if the node has none to give.
	UserNamespace func(pod *v1.Pod) (*runtimeapi.UserNamespace, error)
}

// Builder makes sandbox and container configs. It is safe for concurrent use.
type Builder struct {
	Config
	maskedPaths []string
	// resolver is the content of ResolverConfig that was checked last.
	resolver atomic.Pointer[string]
}

// New checks the config and returns a builder.
func New(c Config) (*Builder, error) {
	var errs []error
	if c.Root == "" {
		errs = append(errs, errors.New("Root is empty"))
	}
	if c.PodLogsDir == "" {
		errs = append(errs, errors.New("PodLogsDir is empty"))
	}
	if c.Images == nil {
		errs = append(errs, errors.New("Images is nil"))
	}
	if c.CPUCFSQuota && c.CPUCFSQuotaPeriod < time.Millisecond {
		errs = append(errs, fmt.Errorf("CPUCFSQuotaPeriod %v is below 1ms", c.CPUCFSQuotaPeriod))
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("build runtime configs: %w", errors.Join(errs...))
	}
	if c.SubPaths == nil {
		c.SubPaths = new(subpath.Binder)
	}
	if c.SysDir == "" {
		c.SysDir = "/sys"
	}
	if c.NodeHosts == "" {
		c.NodeHosts = "/etc/hosts"
	}
	if c.NodeAllocatable == nil {
		c.NodeAllocatable = func() v1.ResourceList { return nil }
	}
	if c.HostIPs == nil {
		c.HostIPs = func() []string { return nil }
	}
	return &Builder{Config: c, maskedPaths: maskedPaths(c.SysDir)}, nil
}

// Reasons of a container's waiting state that this package gives.
const (
	reasonContainerConfig = "CreateContainerConfigError"
	reasonContainer       = "CreateContainerError"
	reasonSandbox         = "CreatePodSandboxError"
)

func containerErrorf(format string, args ...any) *Error {
	return &Error{Reason: reasonContainerConfig, Message: fmt.Sprintf(format, args...)}
}

func sandboxErrorf(format string, args ...any) *Error {
	return &Error{Reason: reasonSandbox, Message: fmt.Sprintf(format, args...)}
}

func (b *Builder) warn(pod *v1.Pod, reason, message string) {
	if b.Events != nil {
		b.Events.Event(pod, "", v1.EventTypeWarning, reason, message)
	}
}

func (b *Builder) warnNode(reason, message string) {
	if b.NodeEvent != nil {
		b.NodeEvent(reason, message)
	}
}

// podDir is the directory of everything that the kubelet keeps for the pod.
func (b *Builder) podDir(pod *v1.Pod) string {
	return filepath.Join(b.Root, "pods", string(pod.UID))
}

// RuntimeHandler resolves the pod's RuntimeClass; "" is the runtime's default.
// A class that is missing, or that cannot do what the pod needs, is an *Error:
// somebody has to create or change it.
func (b *Builder) RuntimeHandler(ctx context.Context, pod *v1.Pod) (string, error) {
	handler, err := b.lookUpHandler(ctx, pod)
	if err != nil || !podspec.OwnUsers(pod) {
		return handler, err
	}
	features, err := b.features(ctx, handler)
	if err != nil {
		return "", err
	}
	if !features.UserNamespaces {
		what := "the container runtime"
		if handler != "" {
			what = fmt.Sprintf("the container runtime's handler %q", handler)
		}
		return "", sandboxErrorf("hostUsers: false: %s does not support user namespaces; it takes containerd 2.0 or CRI-O 1.25, "+
			"with runc 1.2 or crun 1.9. Remove hostUsers, or run the pod on another node", what)
	}
	return handler, nil
}

func (b *Builder) features(ctx context.Context, handler string) (HandlerFeatures, error) {
	if b.Handler == nil {
		return HandlerFeatures{}, nil
	}
	features, err := b.Handler(ctx, handler)
	if err != nil {
		return HandlerFeatures{}, fmt.Errorf("ask what runtime handler %q can do: %w", handler, err)
	}
	return features, nil
}

func (b *Builder) lookUpHandler(ctx context.Context, pod *v1.Pod) (string, error) {
	class := pod.Spec.RuntimeClassName
	if class == nil || *class == "" {
		return "", nil
	}
	if b.RuntimeClasses == nil {
		return "", sandboxErrorf("runtimeClassName %q needs an API server, and this node has none; remove the field", *class)
	}
	handler, err := b.RuntimeClasses.RuntimeClass(ctx, *class)
	if isNotFound(err) {
		return "", sandboxErrorf("RuntimeClass %q does not exist; create it or change runtimeClassName", *class)
	}
	if err != nil {
		return "", fmt.Errorf("look up RuntimeClass %q: %w", *class, err)
	}
	return handler, nil
}

func hasPrivileged(pod *v1.Pod) (found bool) {
	podspec.EachContainer(pod, func(c *v1.Container, _ podspec.Kind) bool {
		found = c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		return !found
	})
	return found
}

func (b *Builder) nodeIPs() ([]string, error) {
	ips := b.HostIPs()
	if len(ips) == 0 {
		return nil, containerErrorf("the node has no address yet; it is retried when there is one")
	}
	return slices.Clone(ips[:min(len(ips), 2)]), nil
}
