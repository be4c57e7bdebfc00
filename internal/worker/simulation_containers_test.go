package worker

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/lifecycle"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/probe"
)

// What the simulation knows of the inside of containers: probes, hooks and the
// order in which containers start and end.
type simInside struct {
	// By container ID. started and ready are what the probes of the world
	// would say; failed, that one has failed for good.
	started, ready, failed map[string]bool
	hooked, stopped        map[string]bool // postStart and preStop hooks that ended well
	reached                map[string]bool // "sandbox name" of containers that were started before
	over                   map[string]bool // "sandbox name" of init containers that were over before
	journal                map[types.UID]map[string]lifecycle.Life
	// followed belongs to the agent.
	followed map[types.UID]map[string]probe.Result
}

func newSimInside() simInside {
	return simInside{started: map[string]bool{}, ready: map[string]bool{}, failed: map[string]bool{}, hooked: map[string]bool{},
		stopped: map[string]bool{}, reached: map[string]bool{}, over: map[string]bool{}, journal: map[types.UID]map[string]lifecycle.Life{}, followed: map[types.UID]map[string]probe.Result{}}
}

// drawContainers gives a pod containers of all kinds.
func (s *simulation) drawContainers(pod *v1.Pod) {
	always, never := v1.ContainerRestartPolicyAlways, v1.ContainerRestartPolicyNever
	hook := &v1.LifecycleHandler{Sleep: &v1.SleepAction{}}
	draw := func(c *v1.Container) {
		c.Image = "i"
		if s.rand.IntN(3) == 0 {
			c.Lifecycle = &v1.Lifecycle{PostStart: hook}
		}
		if s.rand.IntN(3) == 0 {
			if c.Lifecycle == nil {
				c.Lifecycle = &v1.Lifecycle{}
			}
			c.Lifecycle.PreStop = hook
		}
		if s.rand.IntN(3) == 0 {
			c.StartupProbe = &v1.Probe{}
		}
		if s.rand.IntN(3) == 0 {
			c.LivenessProbe = &v1.Probe{}
		}
		if s.rand.IntN(4) == 0 {
			c.ReadinessProbe = &v1.Probe{}
		}
	}
	for i := range s.rand.IntN(4) {
		c := v1.Container{Name: fmt.Sprintf("init%d", i), Image: "i"}
		if s.rand.IntN(2) == 0 {
			c.Name, c.RestartPolicy = fmt.Sprintf("side%d", i), &always
			draw(&c)
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	for i := range 1 + s.rand.IntN(2) {
		c := v1.Container{Name: fmt.Sprintf("c%d", i)}
		draw(&c)
		switch s.rand.IntN(10) {
		case 0:
			c.RestartPolicy = &always
		case 1:
			c.RestartPolicy = &never
			c.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
				ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{1}}}}
		}
		pod.Spec.Containers = append(pod.Spec.Containers, c)
	}
}

// debug is kubectl debug.
func (s *simulation) debug() {
	uid, ok := s.pick()
	if !ok || s.apiDown || len(s.api[uid].Spec.EphemeralContainers) > 1 {
		return
	}
	pod := s.api[uid]
	e := v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{
		Name: fmt.Sprintf("debug%d", len(pod.Spec.EphemeralContainers)), Image: "i"}}
	if s.rand.IntN(2) == 0 {
		e.TargetContainerName = "c0"
	}
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, e)
	s.say("debug %s with %s", uid, e.Name)
	s.desired.Upsert(podspec.SourceAPI, pod.DeepCopy())
}

// targetGone says that the container which an ephemeral one is to look at does
// not run.
func (s *simulation) targetGone(pod *v1.Pod, name string) bool {
	for _, e := range pod.Spec.EphemeralContainers {
		if e.Name == name && e.TargetContainerName != "" {
			target := s.observed.Get(pod.UID).Latest(e.TargetContainerName)
			return target == nil || target.State != observed.Running
		}
	}
	return false
}

// probeOne lets a probe of a container that runs change its mind.
func (s *simulation) probeOne() {
	for _, id := range slices.Sorted(maps.Keys(s.containers)) {
		c := s.containers[id]
		if c.State != observed.Running || s.rand.IntN(4) != 0 {
			continue
		}
		switch {
		case s.rand.IntN(8) == 0:
			s.failed[id] = true
		case !s.started[id]:
			s.started[id] = true
		default:
			s.ready[id] = !s.ready[id]
		}
		s.say("probes of %s: started %v, ready %v, failed %v", id, s.started[id], s.ready[id], s.failed[id])
		s.hear(c.uid, id)
		return
	}
}

// hear brings what the world's probes say to an agent that follows them.
func (s *simulation) hear(uid types.UID, id string) {
	r, followed := s.followed[uid][id]
	if !followed {
		return
	}
	spec, _ := podspec.FindContainer(s.pool.workers[uid].pod, s.containers[id].Name)
	if spec.StartupProbe != nil {
		r.Started = r.Started || s.started[id]
	}
	if spec.ReadinessProbe != nil && r.Started {
		r.Ready = s.ready[id]
	} else {
		r.Ready = r.Started
	}
	if s.failed[id] && r.Failed == nil && (spec.LivenessProbe != nil && r.Started || spec.StartupProbe != nil && !r.Started) {
		r.Failed = &probe.Failure{Kind: probe.Liveness, Message: "no answer"}
	}
	results := maps.Clone(s.followed[uid])
	results[id] = r
	s.followed[uid] = results
	s.pool.Wake(uid)
}

// settleProbes is the calm: everything comes up.
func (s *simulation) settleProbes() {
	clear(s.failed)
	for _, id := range slices.Sorted(maps.Keys(s.containers)) {
		s.started[id], s.ready[id] = true, true
		s.hear(s.containers[id].uid, id)
	}
}

type simProbes struct{ *simulation }

func (p simProbes) Follow(pod *v1.Pod, targets []probe.Target) {
	results := map[string]probe.Result{}
	for i := range targets {
		t := &targets[i]
		if old, had := p.followed[pod.UID][t.ID]; had {
			results[t.ID] = old
			continue
		}
		r := probe.Result{State: probe.State{Started: t.Container.StartupProbe == nil || t.Was.Started || p.calm}}
		r.Ready = r.Started && (t.Container.ReadinessProbe == nil || t.Was.Ready || p.calm)
		results[t.ID] = r
	}
	p.followed[pod.UID] = results
}

func (p simProbes) Results(uid types.UID) map[string]probe.Result { return p.followed[uid] }
func (p simProbes) Forget(uid types.UID)                          { delete(p.followed, uid) }

var errHook = errors.New("injected: the hook fails")

// hook runs a hook in the world.
func (s *simulation) hook(a lifecycle.Action) error {
	c := s.containers[a.ID]
	if c == nil || c.State != observed.Running {
		return fmt.Errorf("container %s does not run", a.ID)
	}
	if a.Kind == lifecycle.PreStop {
		s.stopped[a.ID] = true
		return nil
	}
	if !s.calm && s.rand.IntN(12) == 0 {
		return errHook
	}
	s.hooked[a.ID] = true
	return nil
}

// runs says whether a container of the pod runs that is one of these.
func (s *simulation) runs(uid types.UID, is func(c *v1.Container, kind podspec.Kind) bool, pod *v1.Pod) string {
	for _, id := range slices.Sorted(maps.Keys(s.containers)) {
		c := s.containers[id]
		if c.uid != uid || c.State != observed.Running {
			continue
		}
		if spec, kind := podspec.FindContainer(pod, c.Name); spec != nil && is(spec, kind) {
			return id
		}
	}
	return ""
}

// judgeStop holds the order of the end: sidecars outlive the other containers
// and those that are started after them, and nobody gets his signal before
// his hook has ended; unless the grace period is over.
func (s *simulation) judgeStop(w *worker, a lifecycle.Action) {
	if w == nil || w.state.Phase != Terminating || strings.Contains(a.Why, "restarts all") || !s.now.Before(w.ending.Add(w.state.Grace)) {
		return
	}
	c := s.containers[a.ID]
	spec, kind := podspec.FindContainer(w.pod, strings.Split(a.ID, "/")[1])
	if c == nil || c.State != observed.Running || spec == nil {
		return
	}
	if spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil && !s.stopped[a.ID] {
		s.wrong("%s gets its signal before its preStop hook has ended", a.ID)
	}
	if kind != podspec.Init || !podspec.IsSidecar(spec) {
		return
	}
	after := slices.IndexFunc(w.pod.Spec.InitContainers, func(c v1.Container) bool { return c.Name == spec.Name })
	later := func(c *v1.Container, kind podspec.Kind) bool {
		if kind == podspec.Regular {
			return true
		}
		i := slices.IndexFunc(w.pod.Spec.InitContainers, func(o v1.Container) bool { return o.Name == c.Name })
		return podspec.IsSidecar(c) && i > after
	}
	if id := s.runs(w.uid, later, w.pod); id != "" {
		s.wrong("sidecar %s gets its signal while %s runs", a.ID, id)
	}
}

// judgeStart holds that a container is started once what comes before it is
// where it has to be. Of pods that restart all of their containers the order
// is held by transcripts.
func (s *simulation) judgeStart(w *worker, started *simContainer) {
	if w == nil {
		return
	}
	_, kind := podspec.FindContainer(w.pod, started.Name)
	if kind == podspec.Ephemeral {
		for _, c := range s.containers {
			if c.uid == started.uid && c.Name == started.Name && c != started && !c.StartedAt.IsZero() {
				s.wrong("ephemeral container %s is started again as %s", c.ID, started.ID)
			}
		}
		return
	}
	if podspec.CanRestartAll(w.pod) {
		return
	}
	// A restart waits for nobody; the order is that of the first starts.
	place := started.SandboxID + " " + started.Name
	if s.reached[place] {
		return
	}
	s.reached[place] = true
	here := func(name string, is func(*simContainer) bool) bool {
		for _, c := range s.containers {
			if c.uid == started.uid && c.SandboxID == started.SandboxID && c.Name == name && is(c) {
				return true
			}
		}
		return false
	}
	for i := range w.pod.Spec.Containers {
		if here(w.pod.Spec.Containers[i].Name, func(c *simContainer) bool { return !c.StartedAt.IsZero() && c != started }) {
			return // initialized before
		}
	}
	for i := range w.pod.Spec.InitContainers {
		before := &w.pod.Spec.InitContainers[i]
		if before.Name == started.Name {
			return
		}
		if !s.over[started.SandboxID+" "+before.Name] && !here(before.Name, func(c *simContainer) bool { return s.isOver(before, c) }) {
			s.wrong("%s is started before %s is where it has to be", started.ID, before.Name)
		}
	}
}

// judgeAgain holds that nothing is run a second time that its policy lets run
// once only, whatever the runtime has forgotten of it: the API server was told.
// Init containers do run again in a new sandbox.
func (s *simulation) judgeAgain(c *simContainer) {
	pod := s.api[c.uid]
	if pod == nil || podspec.CanRestartAll(pod) {
		return
	}
	spec, kind := podspec.FindContainer(pod, c.Name)
	for _, told := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		w := s.pool.workers[c.uid]
		if kind == podspec.Init || told.Name != c.Name ||
			w != nil && w.history.Lives[strings.TrimPrefix(told.ContainerID, "containerd://")].Restart {
			continue // stopped to be started again
		}
		t := told.State.Terminated
		if told.State.Running != nil && !podspec.RestartsKilled(pod, spec, kind) || t != nil && !podspec.Restarts(pod, spec, kind, t.ExitCode) {
			s.wrong("%s is started, and its policy is to run once: it was told to be %s", c.ID, told.ContainerID)
		}
	}
}

// toldOver says whether a container, of which the runtime knows nothing, was
// told to have ended, for good.
func toldOver(pod *v1.Pod, c *v1.Container, kind podspec.Kind) bool {
	for _, told := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses) {
		if t := told.State.Terminated; told.Name == c.Name && t != nil {
			return !podspec.Restarts(pod, c, kind, t.ExitCode) || t.Reason == "ContainerStatusUnknown"
		}
	}
	return false
}

// isOver says whether an init container lets the next one start: it ended
// well, or, of a sidecar, it was up at some time.
func (s *simulation) isOver(spec *v1.Container, c *simContainer) bool {
	if !podspec.IsSidecar(spec) {
		return c.State == observed.Exited && c.ExitCode == 0
	}
	return (spec.StartupProbe == nil || s.started[c.ID]) &&
		(spec.Lifecycle == nil || spec.Lifecycle.PostStart == nil || s.hooked[c.ID])
}

// remove takes a container's record away, not what it has been.
func (s *simulation) remove(w *worker, id string) {
	if c := s.containers[id]; c != nil && w != nil {
		if spec, kind := podspec.FindContainer(w.pod, c.Name); kind == podspec.Init && spec != nil && s.isOver(spec, c) {
			s.over[c.SandboxID+" "+c.Name] = true
		}
	}
	delete(s.containers, id)
}

// judgeTold holds what is told of the inside: nobody hears that a container
// runs before its hook has ended, and readiness is not lost by a restart of
// the agent.
func (s *simulation) judgeTold(uid types.UID, old, now *v1.ContainerStatus) {
	id := strings.TrimPrefix(now.ContainerID, "containerd://")
	w := s.pool.workers[uid]
	if now.State.Running == nil || w == nil || w.state.Phase >= Terminated {
		return
	}
	spec, _ := podspec.FindContainer(w.pod, now.Name)
	if spec == nil {
		return
	}
	if spec.Lifecycle != nil && spec.Lifecycle.PostStart != nil && !s.hooked[id] {
		s.wrong("%s is told to run before its postStart hook has ended", id)
	}
	// The probes follow what runs in a sandbox that is there.
	c := s.containers[id]
	if c == nil || s.sandboxes[c.SandboxID] == nil || !s.sandboxes[c.SandboxID].ready || c.State != observed.Running {
		return
	}
	if !s.calm && old != nil && old.ContainerID == now.ContainerID && old.Ready && !now.Ready && s.started[id] && s.ready[id] {
		s.wrong("%s is told not to be ready, and its probes say it is", id)
	}
}
