// Package image makes container images present on the node: it checks what
// the runtime has, pulls by policy with the pod's credentials, joins pulls of
// the same image, bounds how many run at once and how often registries are
// asked, and backs off per pod and image after failures.
//
// It reads pods, pull secrets and the runtime's image service, and writes
// only through the latter; all state is in memory and can be lost. Credential
// provider plugins belong into the keyring (keyring.go), verification that a
// pod may use an image that is there already between the presence check and
// its answer in Ensure, and garbage collection into a loop of its own beside
// it; none of them exists yet.
package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Service is the part of the CRI that is needed (package cri). PullImage has
// no deadline of its own: how long a pull may take is the runtime's to judge.
type Service interface {
	ImageStatus(ctx context.Context, image *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error)
	PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (ref string, err error)
}

// Events records Kubernetes events (package status); it never blocks.
type Events interface {
	Event(pod *v1.Pod, container, eventType, reason, message string)
}

// statusTimeout bounds a question for an image. Runtimes answer from memory.
const statusTimeout = 30 * time.Second

// Config of a Puller.
type Config struct {
	Service Service
	Events  Events
	// Secrets returns the pull secrets of a pod from a cache. With an error
	// it may still return those that it has. nil for none.
	Secrets func(ctx context.Context, pod *v1.Pod) ([]v1.Secret, error)
	// NodeConfigFiles are files in the format of ~/.docker/config.json or
	// .dockercfg with credentials for all pods. They are read anew for each
	// pull; what is missing is skipped.
	NodeConfigFiles []string

	// SerializePulls runs one pull at a time. Otherwise MaxParallel bounds
	// them; nil or less than 1 for no bound.
	SerializePulls bool
	MaxParallel    *int32
	// QPS and Burst bound how often a pull may begin; a pull waits for its
	// turn. QPS 0 for no bound.
	QPS   float64
	Burst int

	// Registerer takes the package's metrics; nil for none.
	Registerer prometheus.Registerer
}

// Puller makes images present. Its methods may be called from any goroutine.
type Puller struct {
	config  Config
	limiter *rate.Limiter // nil for no bound
	slots   *slots
	status  group[*runtimeapi.Image]
	pulls   group[pulled]
	backoff backoffs
	metrics metrics
}

// New returns a Puller; it starts nothing.
func New(config Config) (*Puller, error) {
	if config.Service == nil || config.Events == nil {
		return nil, errors.New("images need a service and a place for events")
	}
	p := &Puller{config: config, metrics: newMetrics()}
	switch {
	case config.SerializePulls:
		p.slots = newSlots(1)
	case config.MaxParallel != nil && *config.MaxParallel >= 1:
		p.slots = newSlots(int(*config.MaxParallel))
	default:
		p.slots = newSlots(0)
	}
	if config.QPS > 0 {
		p.limiter = rate.NewLimiter(rate.Limit(config.QPS), max(config.Burst, 1))
	}
	if config.Registerer != nil {
		if err := p.metrics.register(config.Registerer); err != nil {
			return nil, fmt.Errorf("register image metrics: %w", err)
		}
	}
	return p, nil
}

// Ensure makes the container's image present by its pull policy and returns
// the reference to create the container with. It joins a pull of the same
// image under way. The error is an *Error, or the context's if that ends
// first; a pull ends early only when nobody waits for it any more.
//
// After a failed pull (ErrImagePull and its kin), asking again before the
// error's RetryAt gives ImagePullBackOff at once. The back-off is per pod,
// image and credentials: a corrected pull secret is tried at once.
func (p *Puller) Ensure(ctx context.Context, pod *v1.Pod, c *v1.Container) (string, error) {
	return p.ensure(ctx, pod, c, false)
}

// Prefetch pulls the image of a container whose turn has not come, if its
// policy allows one that is there already. A failure counts and shows for
// nothing: Ensure meets it again when the turn comes.
func (p *Puller) Prefetch(ctx context.Context, pod *v1.Pod, c *v1.Container) {
	_, _ = p.ensure(ctx, pod, c, true)
}

func (p *Puller) ensure(ctx context.Context, pod *v1.Pod, c *v1.Container, quiet bool) (string, error) {
	r := request{p: p, pod: pod, container: c, quiet: quiet}
	ref, err := parseReference(c.Image)
	if err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: %v", c.Image, err)
		r.warn("InspectFailed", message)
		return "", r.fail(&Error{Reason: InvalidImageName, Message: message, Err: err})
	}
	r.ref, r.spec = ref, &runtimeapi.ImageSpec{Image: ref.pullName(), Annotations: pod.Annotations, UserSpecifiedImage: c.Image}

	policy := pullPolicy(c, ref)
	present, needed := "unknown", "unknown"
	if quiet && policy != v1.PullIfNotPresent {
		return "", nil
	}
	if !quiet {
		defer func() { p.metrics.asked(policy, present, needed) }()
	}

	if policy != v1.PullAlways {
		image, err := p.inspect(ctx, r.spec)
		if err != nil {
			if ctx.Err() != nil {
				return "", fmt.Errorf("look for image %q: %w", c.Image, context.Cause(ctx))
			}
			message := fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)
			r.warn("InspectFailed", message)
			return "", r.fail(&Error{Reason: ImageInspectError, Message: message, Err: err})
		}
		present = fmt.Sprint(image != nil)
		if image != nil {
			needed = "false"
			if !quiet {
				p.config.Events.Event(pod, c.Name, v1.EventTypeNormal, "Pulled",
					fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", c.Image))
			}
			return image.Id, nil
		}
		if policy == v1.PullNever {
			message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
			r.warn(ErrImageNeverPull, message)
			return "", r.fail(&Error{Reason: ErrImageNeverPull, Message: message})
		}
	}
	needed = "true"
	return r.pull(ctx)
}

// pullPolicy is the container's, or what the API server would have written
// for a container that names none.
func pullPolicy(c *v1.Container, ref reference) v1.PullPolicy {
	switch {
	case c.ImagePullPolicy != "":
		return c.ImagePullPolicy
	case ref.tag == defaultTag:
		return v1.PullAlways
	default:
		return v1.PullIfNotPresent
	}
}

// inspect asks the runtime for an image; nil if it has none. The answer is
// never kept, because anybody may remove an image; only questions at the same
// time share one.
func (p *Puller) inspect(ctx context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	key := spec.Image + "\x00" + spec.Annotations[handlerAnnotation]
	return p.status.do(ctx, key, func(ctx context.Context) (*runtimeapi.Image, error) {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		resp, err := p.config.Service.ImageStatus(ctx, spec, false)
		return resp.GetImage(), err
	})
}

// handlerAnnotation chooses containerd's snapshotter: images pulled for one
// handler may be of no use to another.
const handlerAnnotation = "io.containerd.cri.runtime-handler"

// ImageUser returns the user that the image asks for: a numeric id, or else a
// name. An image that names none, or is gone, counts as root (0).
func (p *Puller) ImageUser(ctx context.Context, ref string) (uid *int64, username string, err error) {
	image, err := p.inspect(ctx, &runtimeapi.ImageSpec{Image: ref})
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("inspect image %q: %w", ref, err)
	case image.GetUid() != nil:
		return &image.Uid.Value, "", nil
	case image.GetUsername() != "":
		return nil, image.Username, nil
	}
	return new(int64), "", nil
}

// ImageRef returns what the runtime calls the image that a name in the pod's
// spec stands for, empty if it does not have it.
func (p *Puller) ImageRef(ctx context.Context, pod *v1.Pod, name string) (string, error) {
	ref, err := parseReference(name)
	if err != nil {
		return "", fmt.Errorf("parse image %q: %w", name, err)
	}
	image, err := p.inspect(ctx, &runtimeapi.ImageSpec{Image: ref.pullName(), Annotations: pod.Annotations, UserSpecifiedImage: name})
	if err != nil {
		return "", fmt.Errorf("inspect image %q: %w", name, err)
	}
	return image.GetId(), nil
}

// Forget drops the back-off of a pod that is gone.
func (p *Puller) Forget(uid types.UID) { p.backoff.forget(uid) }

// Pull is one that is under way.
type Pull struct {
	Image string
	Since time.Time
	// Waiters is how many containers wait for it.
	Waiters int
}

// InFlight lists the pulls under way or queued, longest first.
func (p *Puller) InFlight() []Pull {
	var list []Pull
	p.pulls.each(func(key string, since time.Time, waiters int) {
		image, _, _ := strings.Cut(key, "\x00")
		list = append(list, Pull{Image: image, Since: since, Waiters: waiters})
	})
	slices.SortFunc(list, func(a, b Pull) int { return a.Since.Compare(b.Since) })
	return list
}
