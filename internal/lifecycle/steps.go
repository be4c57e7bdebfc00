package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/cri"
	"kubelet/internal/criconfig"
	"kubelet/internal/image"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/volume"
	"kubelet/internal/volume/bounded"
)

// Logs keeps the log directories of pods (package criconfig).
type Logs interface {
	// LinkLog makes the legacy link of a started container's log, if there is
	// to be one.
	LinkLog(criconfig.ContainerLog) error
	// RemoveLogs removes a pod's log directory and its legacy links.
	RemoveLogs(types.UID) error
}

// Steps performs actions at the rim.
type Steps struct {
	Runtime   Runtime
	Refresher Refresher
	Volumes   Volumes
	Images    Images
	Cgroups   Cgroups
	Configs   Configs
	Logs      Logs
	Hooks     Hooks    // nil runs none
	Journal   *Journal // nil remembers nothing
	// Allocations are asked by Allocate only.
	Allocations Allocations
	Statuses    Statuses
	Events      Events
	Gate        *Gate
	Metrics     *Metrics // may be nil
	// IsUnknown says that a runtime error leaves the outcome open (package
	// cri).
	IsUnknown func(error) bool
	// NextRefresh says when a pod's volumes want to be brought up to date by
	// time alone; nil for never.
	NextRefresh func(types.UID) time.Time
	// PodIPs of a sandbox: its own, or the node's for the host network.
	PodIPs func(pod *v1.Pod, s *observed.Sandbox) []string

	// logCalls keeps a disk that hangs from holding a step up.
	logCalls bounded.Calls
}

// Scene is the pod as the worker sees it when it begins an action.
type Scene struct {
	Pod          *v1.Pod
	Observed     observed.Pod
	Mounts       volume.Mounts
	CgroupParent string
	// Since is when the pod came to the node, its age at the start gate.
	Since time.Time
}

// deadlines bound the steps that do not bound themselves. Calls of the
// runtime carry their own (package cri), pulls are bounded by progress
// (package image).
var deadlines = map[Kind]time.Duration{
	Prepare:      30 * time.Second,
	Mount:        2*time.Minute + 3*time.Second,
	FlushStatus:  time.Minute,
	Unmount:      time.Minute,
	RemoveCgroup: 30 * time.Second,
	RemoveLogs:   30 * time.Second,
	Remember:     30 * time.Second,
	Allocate:     30 * time.Second,
	ResizePod:    30 * time.Second,
	DeleteObject: 30 * time.Second,
	Look:         refreshDeadline,
}

// refreshDeadline bounds the look at what a call left behind.
const refreshDeadline = 10 * time.Second

// logDeadline bounds the link to a log, which is of use to collectors only.
const logDeadline = 5 * time.Second

// Do performs one action and returns when its outcome is known, its deadline
// has passed or ctx ends. After an action that changes what the runtime has,
// the observed table holds an answer from after the change when Do returns,
// unless the runtime does not answer.
func (s *Steps) Do(ctx context.Context, sc Scene, a Action) Result {
	if a.Kind == Mount {
		a.gathering.wait(ctx) // which takes as long as the pods before this one
	} else {
		defer a.gathering.begin()
	}
	if d := deadlines[a.Kind]; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	r := Result{Key: a.Key}
	switch a.Kind {
	case Prepare:
		r.Amounts = a.Amounts
		r.CgroupParent, r.Over, r.Err = s.Cgroups.EnsurePod(ctx, sc.Pod)
	case Mount:
		s.mount(ctx, sc, &r)
	case RunSandbox:
		s.runSandbox(ctx, sc, a, &r)
		s.Metrics.sandbox(sc.Pod, r.Err)
	case PullImage:
		s.pull(ctx, sc, a, &r)
		s.Metrics.image(sc.Pod, a.Name, &r)
	case StartContainer:
		s.startContainer(ctx, sc, a, &r)
		s.Metrics.container(sc.Pod, a.Name, &r)
	case Look:
		r.Err = s.Refresher.Refresh(ctx, sc.Pod.UID)
	case PostStart:
		s.postStart(ctx, sc, a, &r)
	case PreStop:
		s.preStop(ctx, sc, a, &r)
	case StopContainer:
		s.stopContainer(ctx, sc, a, &r)
	case StopSandbox:
		if !sc.Observed.MayRunIn(a.ID) {
			r.sandboxID = a.ID
		}
		s.changing(ctx, &r, sc.Pod.UID, func() error { return s.Runtime.StopPodSandbox(ctx, a.ID) })
	case RemoveContainer:
		s.changing(ctx, &r, sc.Pod.UID, func() error { return s.Runtime.RemoveContainer(ctx, a.ID) })
	case RemoveSandbox:
		s.changing(ctx, &r, sc.Pod.UID, func() error { return s.Runtime.RemovePodSandbox(ctx, a.ID) })
	case Remember:
		r.Lives = a.Lives
		if s.Journal != nil {
			r.Err = s.Journal.Write(ctx, sc.Pod.UID, a.Lives)
		}
	case Allocate:
		r.Pod = a.Pod
		r.Err = s.Allocations.Allocate(ctx, a.Pod)
	case ResizePod:
		r.Amounts, r.Over = a.Amounts, a.Raise
		r.AtLeast, r.Err = s.Cgroups.ResizePod(ctx, sc.Pod, a.Amounts, a.Raise)
	case ResizeContainer:
		s.resizeContainer(ctx, sc, a, &r)
	case FlushStatus:
		r.Err = s.Statuses.Accepted(ctx, sc.Pod.UID)
	case Unmount:
		r.Err = s.Volumes.Unmount(ctx, sc.Pod.UID)
	case RemoveCgroup:
		r.Err = s.Cgroups.RemovePod(ctx, sc.Pod.UID)
	case RemoveLogs:
		r.Err = s.logCalls.Do(ctx, "remove "+string(sc.Pod.UID), "removal of the pod's logs",
			func() error { return s.Logs.RemoveLogs(sc.Pod.UID) })
	case DeleteObject:
		r.Err = s.Statuses.DeleteObject(ctx, sc.Pod)
	default:
		r.Err = fmt.Errorf("perform step: unknown kind %q", a.Kind)
	}
	r.Unknown = r.Err != nil && s.IsUnknown(r.Err)
	return r
}

// changing makes a call that changes what the runtime has, then re-reads the
// pod; also after a failure, which may have changed something. A start whose
// effect could not be read is a success all the same: it must not be repeated
// before somebody has looked.
func (s *Steps) changing(ctx context.Context, r *Result, uid types.UID, call func() error) {
	r.Err = call()
	ended := time.Now()
	// What the call left behind has to be seen even if the step was cancelled.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refreshDeadline)
	defer cancel()
	err := s.refresh(ctx, r, uid)
	if err == nil {
		return
	}
	r.Unseen = ended
	if r.Err == nil && !starts(r.Kind) {
		r.Err = fmt.Errorf("refresh pod from runtime: %w", err)
	}
}

// refresh reads what a step changed; all of the pod if that is not one thing,
// or if the step failed.
func (s *Steps) refresh(ctx context.Context, r *Result, uid types.UID) error {
	switch {
	case r.Err == nil && r.containerID != "":
		return s.Refresher.RefreshContainer(ctx, uid, r.sandboxID, r.containerID)
	case r.Err == nil && r.sandboxID != "":
		return s.Refresher.RefreshSandbox(ctx, uid, r.sandboxID)
	}
	return s.Refresher.Refresh(ctx, uid)
}

func (s *Steps) mount(ctx context.Context, sc Scene, r *Result) {
	r.Mounts, r.Err = s.Volumes.Mount(ctx, sc.Pod)
	if r.Err != nil {
		s.Events.Event(sc.Pod, "", v1.EventTypeWarning, "FailedMount", r.Err.Error())
		return
	}
	if s.NextRefresh != nil {
		r.NextDue = s.NextRefresh(sc.Pod.UID)
	}
}

func (s *Steps) pull(ctx context.Context, sc Scene, a Action, r *Result) {
	if r.ImageRef, r.Err = s.Images.Ensure(ctx, sc.Pod, a.Container); r.Err == nil {
		r.Err = s.pullVolumes(ctx, sc.Pod, a.Container)
	}
	if e, ok := errors.AsType[*image.Error](r.Err); ok {
		r.Reason, r.Message, r.RetryAt = e.Reason, e.Message, e.RetryAt
		// The first failure of a pull shows for a moment, then the back-off.
		switch e.Reason {
		case image.ErrImagePull, image.RegistryUnavailable, image.SignatureValidationFailed:
			r.RetryAt = time.Time{}
		}
	} else if r.Err != nil {
		r.Reason = "ErrImagePull"
	}
}

// pullVolumes makes the images present that the container mounts. They have
// policies, back-off and reasons like its own.
func (s *Steps) pullVolumes(ctx context.Context, pod *v1.Pod, c *v1.Container) error {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image == nil || !slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == v.Name }) {
			continue
		}
		_, err := s.Images.Ensure(ctx, pod, &v1.Container{Name: c.Name, Image: v.Image.Reference, ImagePullPolicy: v.Image.PullPolicy})
		s.Metrics.imageVolume(err)
		if e, ok := errors.AsType[*image.Error](err); ok {
			return &image.Error{Reason: e.Reason, Message: fmt.Sprintf("volume %q: %s", v.Name, e.Message), RetryAt: e.RetryAt, Err: e.Err}
		} else if err != nil {
			return fmt.Errorf("volume %q: %w", v.Name, err)
		}
	}
	return nil
}

func (s *Steps) enter(ctx context.Context, sc Scene) (leave func(), err error) {
	class := Class{
		Critical: podspec.IsCritical(sc.Pod) || podspec.IsHostNetwork(sc.Pod),
		Since:    sc.Since,
	}
	if sc.Pod.Spec.Priority != nil {
		class.Priority = *sc.Pod.Spec.Priority
	}
	if leave, err = s.Gate.Enter(ctx, class); err != nil {
		return nil, fmt.Errorf("wait at the start gate: %w", err)
	}
	return leave, nil
}

func (s *Steps) runSandbox(ctx context.Context, sc Scene, a Action, r *Result) {
	if a.Attempt > 0 && !a.Again {
		s.Events.Event(sc.Pod, "", v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	handler, err := s.Configs.RuntimeHandler(ctx, sc.Pod)
	if r.Err = err; err == nil {
		s.runSandboxWith(ctx, sc, a, handler, r)
	}
	if r.Err != nil && ctx.Err() == nil {
		s.Events.Event(sc.Pod, "", v1.EventTypeWarning, "FailedCreatePodSandBox",
			"Failed to create pod sandbox: "+r.Err.Error())
	}
}

func (s *Steps) runSandboxWith(ctx context.Context, sc Scene, a Action, handler string, r *Result) {
	config, err := s.Configs.Sandbox(sc.Pod, a.Attempt, sc.CgroupParent)
	if err != nil {
		r.Err = err
		return
	}
	leave, err := s.enter(ctx, sc)
	if err != nil {
		r.Err = err
		return
	}
	a.gathering.begin()
	s.changing(ctx, r, sc.Pod.UID, func() (err error) {
		defer leave()
		r.sandboxID, err = s.Runtime.RunPodSandbox(ctx, config, handler)
		return err
	})
}

func (s *Steps) startContainer(ctx context.Context, sc Scene, a Action, r *Result) {
	leave, err := s.enter(ctx, sc)
	if err != nil {
		r.Err, r.Reason = err, "ContainerCreating"
		return
	}
	s.changing(ctx, r, sc.Pod.UID, func() (err error) {
		defer leave()
		id := a.ID
		if id == "" {
			if id, err = s.create(ctx, sc, a); err != nil {
				r.Reason = "CreateContainerError"
				return err
			}
			s.Events.Event(sc.Pod, a.Name, v1.EventTypeNormal, "Created", "Container created")
		}
		r.sandboxID, r.containerID = a.SandboxID, id
		if err = s.Runtime.StartContainer(ctx, id); err != nil {
			r.Reason = "RunContainerError"
			return criconfig.Refusal(criconfig.Start, err)
		}
		s.Events.Event(sc.Pod, a.Name, v1.EventTypeNormal, "Started", "Container started")
		return s.linkLog(ctx, sc.Pod, a, id)
	})
	if r.Err == nil {
		return
	}
	if e, ok := errors.AsType[*criconfig.Error](r.Err); ok {
		r.Reason, r.Message = e.Reason, e.Message
	}
	if ctx.Err() == nil {
		s.Events.Event(sc.Pod, a.Name, v1.EventTypeWarning, "Failed", "Error: "+r.Err.Error())
	}
}

func (s *Steps) linkLog(ctx context.Context, pod *v1.Pod, a Action, id string) error {
	ctx, cancel := context.WithTimeout(ctx, logDeadline)
	defer cancel()
	return s.logCalls.Do(ctx, "link "+id, "link to the container's log", func() error {
		return s.Logs.LinkLog(criconfig.ContainerLog{
			Namespace: pod.Namespace, Pod: pod.Name, UID: pod.UID, Name: a.Name, ID: id,
			LogPath: fmt.Sprintf("%s/%d.log", a.Name, a.Attempt),
		})
	})
}

func (s *Steps) create(ctx context.Context, sc Scene, a Action) (id string, err error) {
	sandbox := sc.Observed.ReadySandbox()
	if sandbox == nil || sandbox.ID != a.SandboxID {
		return "", fmt.Errorf("create container: sandbox %s is not ready any more", a.SandboxID)
	}
	sandboxConfig, err := s.Configs.Sandbox(sc.Pod, sandbox.Attempt, sc.CgroupParent)
	if err != nil {
		return "", err
	}
	_, kind := podspec.FindContainer(sc.Pod, a.Name)
	config, err := s.Configs.Container(ctx, criconfig.ContainerInput{
		Pod: sc.Pod, Container: a.Container, Kind: kind, Attempt: a.Attempt, ImageRef: a.ImageRef,
		PodIPs: s.PodIPs(sc.Pod, sandbox), Mounts: sc.Mounts, Sandbox: sandboxConfig, TargetID: a.TargetID,
	})
	if err != nil {
		return "", err
	}
	if config.Annotations == nil {
		config.Annotations = map[string]string{}
	}
	maps.Copy(config.Annotations, ResourceAnnotations(sc.Pod, a.Container))
	if a.Delay > 0 {
		config.Annotations[cri.AnnotationRestartDelay] = a.Delay.String()
	}
	if id, err = s.Runtime.CreateContainer(ctx, a.SandboxID, config, sandboxConfig); err != nil {
		return "", criconfig.Refusal(criconfig.Create, err)
	}
	return id, nil
}

// resizeContainer changes the resources of a container in place. A memory limit
// is not set below what the container uses: the kernel would kill it.
func (s *Steps) resizeContainer(ctx context.Context, sc Scene, a Action, r *Result) {
	r.Amounts = a.Amounts
	if a.Was.LowersMemory(a.Amounts) {
		usage, err := s.Cgroups.MemoryUsage(sc.Pod, a.ID)
		if err == nil && usage >= a.Amounts.MemoryLimit {
			err = fmt.Errorf("cannot decrease memory limits: attempting to set container %q memory limit (%d) below current usage (%d)",
				a.Container.Name, a.Amounts.MemoryLimit, usage)
		}
		if err != nil {
			r.Err = err
			return
		}
	}
	s.changed(sc, a.ID, r)
	s.changing(ctx, r, sc.Pod.UID, func() error {
		return s.Runtime.UpdateContainerResources(ctx, a.ID, s.Configs.Resources(sc.Pod, a.Container, a.Was))
	})
}

// changed notes that a step changes that container alone.
func (s *Steps) changed(sc Scene, id string, r *Result) {
	for i := range sc.Observed.Containers {
		if c := &sc.Observed.Containers[i]; c.ID == id {
			r.sandboxID, r.containerID = c.SandboxID, c.ID
		}
	}
}

func (s *Steps) stopContainer(ctx context.Context, sc Scene, a Action, r *Result) {
	s.killing(sc, a)
	s.changed(sc, a.ID, r)
	s.changing(ctx, r, sc.Pod.UID, func() error { return s.Runtime.StopContainer(ctx, a.ID, a.Grace) })
}

// killing tells that a container is about to be stopped, once.
func (s *Steps) killing(sc Scene, a Action) {
	if a.Container == nil || a.Again {
		return
	}
	message := "Stopping container " + a.Container.Name
	if a.Why != "" {
		message = a.Why
	}
	s.Events.Event(sc.Pod, a.Container.Name, v1.EventTypeNormal, "Killing", message)
}
