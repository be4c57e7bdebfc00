package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri/critest"
	"kubelet/internal/explain"
	"kubelet/internal/podspec"
	"kubelet/internal/worker"
)

// The rules. The runtime keeps some of its own (critest.Runtime.Violations):
// no container is started twice for one attempt, none is made in a sandbox
// that was stopped, no pod has two ready sandboxes.

// judge looks at a request as it reaches the runtime.
func (x *runtimeWire) judge(ctx context.Context, req any) {
	switch q := req.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		m := q.GetConfig().GetMetadata()
		x.notEnding(ctx, types.UID(m.GetUid()), "its sandbox is run")
		x.w.nameIsFree(m.GetName(), m.GetUid())
	case *runtimeapi.CreateContainerRequest:
		uid := q.GetSandboxConfig().GetMetadata().GetUid()
		x.notEnding(ctx, types.UID(uid), "a container is created")
	case *runtimeapi.StartContainerRequest:
		all := x.w.runtime.Containers("")
		i := slices.IndexFunc(all, func(c critest.Container) bool { return c.ID == q.GetContainerId() })
		if i < 0 {
			return
		}
		c := all[i]
		x.notEnding(ctx, types.UID(c.PodUID), "container "+c.Name+" is started")
		x.w.nameIsFree(c.Pod, c.PodUID)
		x.w.itsTurn(c, all)
	case *runtimeapi.StopPodSandboxRequest:
		for _, c := range x.w.runtime.Containers("") {
			if c.SandboxID == q.GetPodSandboxId() && c.Running {
				x.w.wrong("the sandbox of %s (%s) is stopped under container %s", c.Pod, c.PodUID, c.Name)
			}
		}
	}
}

// notEnding holds that nothing is started for a pod once its worker knows
// that it ends. The worker cancels what starts before it shows its phase, so
// a call that still counts then is one too many.
func (x *runtimeWire) notEnding(ctx context.Context, uid types.UID, what string) {
	if phase := x.phase(uid); phase >= worker.Terminating && ctx.Err() == nil {
		x.w.wrong("pod %s is %s and %s", uid, phase, what)
	}
}

// nameIsFree holds that pods of one full name never overlap.
func (w *world) nameIsFree(name, uid string) {
	for _, c := range w.runtime.Containers(name) {
		if c.PodUID != uid && c.Running {
			w.wrong("pod %s (%s) is being started while container %s of its predecessor %s runs", name, uid, c.Name, c.PodUID)
		}
	}
}

// itsTurn holds that a container is started once its predecessors are where
// they have to be.
func (w *world) itsTurn(c critest.Container, all []critest.Container) {
	for _, other := range all {
		if other.PodUID == c.PodUID && other.Name == c.Name && other.Running {
			w.wrong("container %s of %s (%s) is started beside %s", c.Name, c.Pod, c.PodUID, other.ID)
		}
	}
	pod := w.podOf(types.UID(c.PodUID))
	if pod == nil {
		return
	}
	_, kind := podspec.FindContainer(pod, c.Name)
	here := func(name string, is func(critest.Container) bool) bool {
		return slices.ContainsFunc(all, func(o critest.Container) bool {
			return o.PodUID == c.PodUID && o.SandboxID == c.SandboxID && o.Name == name && is(o)
		})
	}
	ran := func(o critest.Container) bool { return o.Running || o.Exited }
	for i := range pod.Spec.Containers {
		if here(pod.Spec.Containers[i].Name, ran) {
			return // initialized before
		}
	}
	for i := range pod.Spec.InitContainers {
		before := &pod.Spec.InitContainers[i]
		if before.Name == c.Name && kind == podspec.Init {
			return
		}
		done := func(o critest.Container) bool { return o.Exited && o.Code == 0 }
		if podspec.IsSidecar(before) {
			done = ran
		}
		if !here(before.Name, done) {
			w.wrong("container %s of %s (%s) is started before init container %s is over", c.Name, c.Pod, c.PodUID, before.Name)
		}
	}
}

// podOf is the newest spec of a pod, of the API server or of a manifest.
func (w *world) podOf(uid types.UID) *v1.Pod {
	if pod := w.api.byUID(uid); pod != nil {
		return pod
	}
	for _, pod := range w.staticPods() {
		if pod.UID == uid {
			return pod
		}
	}
	return nil
}

// nothingRuns holds that what a pod stands on is not taken from under it.
func (w *world) nothingRuns(uid types.UID, what string) {
	for _, c := range w.runtime.Containers(string(uid)) {
		if c.Running {
			w.wrong("%s of pod %s while container %s runs", what, uid, c.Name)
		}
	}
}

// judgeStatus holds that a status in the API never goes back.
func (w *world) judgeStatus(old, now *v1.Pod) {
	before, after := &old.Status, &now.Status
	if before.Phase != after.Phase {
		w.say("api: %s (%s) is %s %s", now.Name, now.UID, after.Phase, after.Reason)
	}
	if podspec.IsMirror(now) {
		return
	}
	if podspec.IsTerminalPhase(before.Phase) && before.Phase != after.Phase {
		w.wrong("phase of %s (%s) goes from %s to %s", now.Name, now.UID, before.Phase, after.Phase)
	}
	if podspec.IsTerminalPhase(after.Phase) {
		w.nothingRuns(now.UID, "the phase becomes "+string(after.Phase))
	}
	if before.StartTime != nil && !before.StartTime.Equal(after.StartTime) {
		w.wrong("start time of %s (%s) goes from %v to %v", now.Name, now.UID, before.StartTime, after.StartTime)
	}
	for _, o := range containerStatuses(before) {
		for _, n := range containerStatuses(after) {
			if o.Name == n.Name && n.RestartCount < o.RestartCount {
				w.wrong("restart count of %s/%s (%s) goes from %d to %d", now.Name, o.Name, now.UID, o.RestartCount, n.RestartCount)
			}
		}
	}
}

func containerStatuses(s *v1.PodStatus) []v1.ContainerStatus {
	return slices.Concat(s.InitContainerStatuses, s.ContainerStatuses)
}

// judgeDeletion holds that the node confirms a deletion only when nothing of
// the pod is left, and its end has been told.
func (w *world) judgeDeletion(pod *v1.Pod) {
	if podspec.IsMirror(pod) {
		return
	}
	if pod.DeletionTimestamp == nil {
		w.wrong("%s (%s) is deleted by the node and nobody has asked for it", pod.Name, pod.UID)
	}
	w.nothingRuns(pod.UID, "the object is deleted")
	if w.disk.has(w.disk.volumes, pod.UID) || w.disk.has(w.disk.cgroups, pod.UID) {
		w.wrong("%s (%s) is deleted with volumes or cgroup left", pod.Name, pod.UID)
	}
	if !podspec.IsTerminalPhase(pod.Status.Phase) {
		w.wrong("%s (%s) is deleted in phase %s", pod.Name, pod.UID, pod.Status.Phase)
	}
	if err := w.told(pod); err != nil {
		w.wrong("%s (%s) is deleted and %v", pod.Name, pod.UID, err)
	}
}

// told says whether the pod's status in the API is what the runtime knows.
func (w *world) told(pod *v1.Pod) error {
	latest := map[string]critest.Container{}
	for _, c := range w.runtime.Containers(string(pod.UID)) {
		if old, had := latest[c.Name]; !had || c.Attempt >= old.Attempt {
			latest[c.Name] = c
		}
	}
	for _, s := range containerStatuses(&pod.Status) {
		c, had := latest[s.Name]
		if !had || !c.Running && !c.Exited || int32(c.Attempt) < s.RestartCount {
			continue // what the runtime had of it is removed already
		}
		if s.RestartCount < int32(c.Attempt) {
			return fmt.Errorf("restart count of %s is told to be %d, it is %d", s.Name, s.RestartCount, c.Attempt)
		}
		ended := s.State.Terminated
		if s.State.Waiting != nil { // to be started again
			ended = s.LastTerminationState.Terminated
		}
		switch {
		case c.Running && (s.State.Running == nil || s.ContainerID != "containerd://"+c.ID):
			return fmt.Errorf("container %s (%s) runs, told is %+v of %s", s.Name, c.ID, s.State, s.ContainerID)
		case c.Exited && (ended == nil || ended.ContainerID != "containerd://"+c.ID || ended.ExitCode != c.Code):
			return fmt.Errorf("container %s (%s) ended with %d, told is %+v", s.Name, c.ID, c.Code, s.State)
		}
	}
	return nil
}

// doom notes that nobody waits for a pod's end.
func (w *world) doom(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doomed[uid] = true
}

// settled says whether everything that is wanted is there, and nothing else.
func (w *world) settled() error {
	a := w.current()
	if a == nil {
		return errors.New("no agent runs")
	}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	wanted := map[types.UID]bool{}
	statics := map[string]*v1.Pod{}
	for _, pod := range w.staticPods() {
		wanted[pod.UID] = true
		statics[pod.Name] = pod
		if err := w.runs(pod); err != nil {
			wrong("static pod %s (%s): %w", pod.Name, pod.UID, err)
		}
	}
	for _, pod := range w.api.list() {
		if podspec.IsMirror(pod) {
			static := statics[pod.Name]
			switch {
			case static == nil || pod.Annotations[podspec.MirrorAnnotation] != static.Annotations[podspec.HashAnnotation]:
				wrong("mirror pod %s mirrors nothing", pod.Name)
			default:
				delete(statics, pod.Name)
				shown := pod.DeepCopy()
				shown.UID = static.UID
				if err := w.told(shown); err != nil {
					wrong("mirror pod %s: %w", pod.Name, err)
				}
			}
			continue
		}
		wanted[pod.UID] = true
		var err error
		switch {
		case pod.DeletionTimestamp != nil:
			err = errors.New("its deletion is not over")
		case podspec.IsTerminalPhase(pod.Status.Phase):
			err = w.released(pod.UID)
		default:
			err = w.runs(pod)
		}
		if err == nil {
			err = w.told(pod)
		}
		if err != nil {
			entry, _ := a.explain.Get(pod.UID)
			wrong("pod %s (%s, %s, worker %s): %w; explained by %+v", pod.Name, pod.UID, pod.Status.Phase, a.pool.States()[pod.UID], err, entry)
		}
	}
	for name := range statics {
		wrong("static pod %s has no mirror", name)
	}
	for _, s := range w.runtime.Sandboxes("") {
		if !wanted[types.UID(s.PodUID)] {
			wrong("sandbox %s of %s (%s) is left over", s.ID, s.Pod, s.PodUID)
		}
	}
	for _, uid := range w.disk.list(w.disk.volumes, w.disk.cgroups, w.disk.logs) {
		if !wanted[uid] {
			wrong("volumes, cgroup or logs of %s are left over", uid)
		}
	}
	for uid, phase := range a.pool.States() {
		if !wanted[uid] {
			wrong("worker of %s is left over in %s", uid, phase)
		}
	}
	for _, e := range a.explain.Snapshot() {
		if !wanted[e.UID] {
			wrong("explanation of %s is left over: %+v", e.UID, e)
		}
	}
	for _, d := range a.desired.List() {
		if !wanted[d.Pod.UID] || d.Removed {
			wrong("desired pod %s is left over", d.Pod.UID)
		}
	}
	for uid := range a.observed.List() {
		if !wanted[uid] {
			wrong("observed pod %s is left over", uid)
		}
	}
	if err := a.pleg.Healthy(); err != nil {
		wrong("%w", err)
	}
	return errors.Join(errs...)
}

// runs says whether a pod that has not ended is where its spec wants it.
func (w *world) runs(pod *v1.Pod) error {
	ready := 0
	for _, s := range w.runtime.Sandboxes(string(pod.UID)) {
		if s.Ready {
			ready++
		}
	}
	if ready != 1 {
		return fmt.Errorf("it has %d ready sandboxes", ready)
	}
	all := w.runtime.Containers(string(pod.UID))
	running := 0
	for i := range pod.Spec.Containers {
		name, ended := pod.Spec.Containers[i].Name, false
		n := 0
		for _, c := range all {
			if c.Name != name {
				continue
			}
			if c.Running {
				n++
			}
			ended = c.Exited && (pod.Spec.RestartPolicy == v1.RestartPolicyNever ||
				pod.Spec.RestartPolicy == v1.RestartPolicyOnFailure && c.Code == 0)
		}
		if n > 1 || n == 0 && !ended {
			return fmt.Errorf("container %s runs %d times", name, n)
		}
		running += n
	}
	if running == 0 {
		return errors.New("all containers have ended and the pod has not")
	}
	a := w.current()
	if e, _ := a.explain.Get(pod.UID); e.Stage != explain.Running {
		return errors.New("it is not said to run")
	}
	if phase := a.pool.States()[pod.UID]; phase != worker.Running {
		return fmt.Errorf("its worker is %s", phase)
	}
	return nil
}

// released says whether a pod that ended holds nothing any more.
func (w *world) released(uid types.UID) error {
	for _, c := range w.runtime.Containers(string(uid)) {
		if c.Running {
			return fmt.Errorf("it has ended and container %s runs", c.Name)
		}
	}
	for _, s := range w.runtime.Sandboxes(string(uid)) {
		if s.Ready {
			return fmt.Errorf("it has ended and sandbox %s is up", s.ID)
		}
	}
	if w.disk.has(w.disk.volumes, uid) || w.disk.has(w.disk.cgroups, uid) {
		return errors.New("it has ended and holds volumes or a cgroup")
	}
	return nil
}
