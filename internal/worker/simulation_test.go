package worker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/admission"
	"kubelet/internal/cri"
	"kubelet/internal/desired"
	"kubelet/internal/explain"
	"kubelet/internal/lifecycle"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/probe"
	"kubelet/internal/status"
)

// TestSimulation runs the pool and its workers on one goroutine against a
// model of runtime, API server and disk, with faults drawn from a seed: lost
// and late answers, failures, crashes, lost sandboxes, API outages, and the
// death of the agent between any two steps. A seed replays byte for byte:
//
//	go test ./internal/worker -run TestSimulation -seed 42 -v
//
// SIM_SEEDS sets how many seeds run (default 500).
func TestSimulation(t *testing.T) {
	klog.SetLogger(klog.Logger{})
	seeds := 500
	if s, err := strconv.Atoi(os.Getenv("SIM_SEEDS")); err == nil {
		seeds = s
	}
	first, last := uint64(1), uint64(seeds)
	if *seedFlag != 0 {
		first, last = *seedFlag, *seedFlag
	}
	for seed := first; seed <= last; seed++ {
		s := newSimulation(seed)
		if err := s.run(); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, s.log.String())
		}
		if *seedFlag != 0 {
			t.Logf("%s", s.log.String())
		}
	}
}

// TestSimulationReplays holds that a seed is a whole run.
func TestSimulationReplays(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		a, b := newSimulation(seed), newSimulation(seed)
		_, _ = a.run(), b.run()
		if !bytes.Equal(a.log.Bytes(), b.log.Bytes()) {
			t.Fatalf("seed %d ran in two ways:\n%s\n-----\n%s", seed, a.log.String(), b.log.String())
		}
	}
}

type simulation struct {
	rand *rand.Rand
	now  time.Time
	log  bytes.Buffer
	err  error
	calm bool // no more faults

	// The world outlives the agent.
	api        map[types.UID]*v1.Pod
	apiDown    bool
	sandboxes  map[string]*simSandbox
	containers map[string]*simContainer
	mounted    map[types.UID]bool
	cgroups    map[types.UID]bool
	late       []func() // effects of calls whose answer was given up on
	names      int
	boots      int // of the node
	simInside

	// The agent.
	pool     *Pool
	desired  *desired.Table
	observed *observed.Table
	steps    []func()
	answers  []func()
	timers   map[types.UID]time.Time
	statuses map[types.UID]v1.PodStatus
	unsent   map[types.UID]bool
	ctx      context.Context
	die      context.CancelFunc
	swept    bool
}

type simSandbox struct {
	uid     types.UID
	id      string
	attempt uint32
	ready   bool
	made    time.Time
}

type simContainer struct {
	observed.Container
	uid    types.UID
	starts int
}

func newSimulation(seed uint64) *simulation {
	s := &simulation{
		rand: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(1_000_000, 0).UTC(),
		api: map[types.UID]*v1.Pod{}, sandboxes: map[string]*simSandbox{}, containers: map[string]*simContainer{},
		mounted: map[types.UID]bool{}, cgroups: map[types.UID]bool{}, simInside: newSimInside(),
	}
	s.boot()
	return s
}

func (s *simulation) say(format string, args ...any) {
	fmt.Fprintf(&s.log, "%8.1fs  %s\n", s.now.Sub(time.Unix(1_000_000, 0)).Seconds(), fmt.Sprintf(format, args...))
}

func (s *simulation) wrong(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
		s.say("VIOLATED: %v", s.err)
	}
}

// boot starts an agent on whatever the world holds.
func (s *simulation) boot() {
	s.say("agent starts")
	s.ctx, s.die = context.WithCancel(context.Background())
	s.steps, s.answers = nil, nil
	s.followed = map[types.UID]map[string]probe.Result{}
	journal := maps.Clone(s.journal)
	s.timers, s.statuses, s.unsent = map[types.UID]time.Time{}, map[types.UID]v1.PodStatus{}, map[types.UID]bool{}
	s.swept = false
	var pool *Pool
	wake := func(uid types.UID) {
		if pool != nil {
			pool.Wake(uid)
		}
	}
	s.desired = desired.NewTable(wake, podspec.SourceAPI)
	s.observed = observed.NewTable(wake)
	known := maps.Clone(s.mounted)
	pool = New(Config{
		Desired: s.desired, Observed: s.observed, Admission: simAdmission{s}, Steps: s, Volumes: s, Statuses: simStatuses{s},
		Events: simEvents{}, Explain: explain.NewTable(), Probes: simProbes{s},
		Remembered: func(uid types.UID) map[string]lifecycle.Life { return journal[uid] },
		Leftovers: func(context.Context) []types.UID {
			left := maps.Clone(s.mounted)
			maps.Copy(left, s.cgroups)
			return slices.Collect(maps.Keys(left))
		},
		Known:   func(uid types.UID) bool { return known[uid] },
		HostIPs: func() []string { return []string{"10.0.0.1"} }, RuntimeName: "containerd",
		Crash: lifecycle.CrashPolicy{Initial: 10 * time.Second, Max: 300 * time.Second}, Now: func() time.Time { return s.now },
	})
	pool.spawn = func(step func()) { s.steps = append(s.steps, step) }
	s.pool = pool
	uids := map[types.UID]bool{}
	for _, b := range s.sandboxes {
		uids[b.uid] = true
	}
	for _, c := range s.containers {
		uids[c.uid] = true
	}
	for _, uid := range slices.Sorted(maps.Keys(uids)) {
		s.refresh(uid)
	}
	s.observed.MarkSynced()
	s.list()
}

// list is what the watch of the API server delivers after a (re)connect.
func (s *simulation) list() {
	if s.apiDown {
		return
	}
	var pods []*v1.Pod
	for _, uid := range slices.Sorted(maps.Keys(s.api)) {
		pods = append(pods, s.api[uid].DeepCopy())
	}
	s.desired.Replace(podspec.SourceAPI, pods)
	for _, uid := range slices.Sorted(maps.Keys(s.unsent)) {
		s.send(uid)
	}
}

// run lets a thousand things happen, then calms down and looks at the end.
func (s *simulation) run() error {
	for range 600 {
		s.happen()
		if s.err != nil {
			return s.err
		}
	}
	s.say("the world calms down")
	s.calm = true
	s.settleProbes()
	if s.apiDown {
		s.apiDown = false
		s.list()
	}
	for range 4000 {
		if s.err != nil || !s.turnOne() && len(s.late) == 0 && !s.advance(30*time.Minute) {
			break
		}
		for len(s.late) > 0 {
			f := s.late[0]
			s.late = s.late[1:]
			f()
		}
	}
	if s.err == nil {
		s.converged()
	}
	return s.err
}

func (s *simulation) happen() {
	switch n := s.rand.IntN(200); {
	case n < 130:
		if !s.turnOne() {
			s.advance(time.Minute)
		}
	case n < 145:
		s.advance(time.Duration(s.rand.IntN(20000)) * time.Millisecond)
	case n < 155:
		s.probeOne()
	case n < 164:
		s.createPod()
	case n < 169:
		s.deletePod()
	case n < 183:
		s.exitOne()
	case n < 185:
		s.debug()
	case n < 188:
		s.loseSandbox()
	case n < 190:
		s.apiDown = !s.apiDown
		s.say("api server away: %v", s.apiDown)
		s.list()
	case n < 193:
		s.kill()
	case n < 195:
		if uid, ok := s.pick(); ok {
			s.say("evict %s", uid)
			s.pool.Evict(uid, simEviction, time.Second)
		}
	case n < 196:
		s.reboot()
	default:
		if len(s.late) > 0 {
			i := s.rand.IntN(len(s.late))
			f := s.late[i]
			s.late = slices.Delete(s.late, i, i+1)
			f()
		}
	}
}

// kill ends the agent where it stands. Calls under way may still take effect.
func (s *simulation) kill() {
	s.say("SIGKILL")
	for _, step := range s.steps {
		if s.rand.IntN(2) == 0 {
			step()
		}
	}
	s.die()
	s.boot()
}

// reboot is the node's: all that ran has ended, the agent with it, and perhaps
// the runtime has lost its records. The directories of pods stay.
func (s *simulation) reboot() {
	lost := s.rand.IntN(2) == 0
	s.say("the node reboots; the runtime loses its records: %v", lost)
	s.boots++
	s.late = nil
	clear(s.cgroups)
	for _, b := range s.sandboxes {
		b.ready = false
	}
	for _, id := range slices.Sorted(maps.Keys(s.containers)) {
		if c := s.containers[id]; c.State == observed.Running {
			s.exit(c, 255)
		}
	}
	if lost {
		clear(s.sandboxes)
		clear(s.containers)
	}
	s.die()
	s.boot()
}

// turnOne lets one thing inside the agent go on: a step under way, or a
// worker that was woken. It reports whether there was any.
func (s *simulation) turnOne() bool {
	for _, w := range s.pool.hire(s.ctx, s.swept) {
		s.wakeWorker(w)
	}
	select {
	case <-s.pool.wake:
	default:
	}
	if !s.swept {
		select {
		case <-s.desired.SyncedC():
			s.swept = true
			s.pool.sweep(s.ctx)
			return true
		default:
		}
	}
	var ready []func()
	for _, uid := range slices.Sorted(maps.Keys(s.pool.workers)) {
		w := s.pool.workers[uid]
		due := !s.timers[uid].IsZero() && !s.timers[uid].After(s.now)
		if len(w.wake) > 0 || due {
			ready = append(ready, func() { s.wakeWorker(w) })
		}
	}
	for i, step := range s.steps {
		ready = append(ready, func() {
			s.steps = slices.Delete(s.steps, i, i+1)
			step()
		})
	}
	for i, answer := range s.answers {
		ready = append(ready, func() {
			s.answers = slices.Delete(s.answers, i, i+1)
			answer()
		})
	}
	if len(ready) == 0 {
		return false
	}
	ready[s.rand.IntN(len(ready))]()
	return true
}

func (s *simulation) wakeWorker(w *worker) {
	select {
	case <-w.wake:
	default:
	}
	before := w.state
	s.timers[w.uid] = w.turn()
	if w.state != before {
		s.say("%s is %s", w.uid, w.state)
	}
	if w.state.Phase == Gone {
		delete(s.timers, w.uid)
	}
}

// advance lets time pass to the next timer, at most by d.
func (s *simulation) advance(d time.Duration) bool {
	next := s.now.Add(d)
	due := false
	for _, t := range s.timers {
		if !t.IsZero() && t.Before(next) {
			next, due = t, true
		}
	}
	if next.After(s.now) {
		s.now = next
	}
	return due
}

func (s *simulation) pick() (types.UID, bool) {
	uids := slices.Sorted(maps.Keys(s.api))
	if len(uids) == 0 {
		return "", false
	}
	return uids[s.rand.IntN(len(uids))], true
}

func (s *simulation) createPod() {
	if s.apiDown || len(s.api) >= 6 {
		return
	}
	s.names++
	// Few names, so that pods of the same name meet.
	name := fmt.Sprintf("pod-%d", s.rand.IntN(4))
	for _, p := range s.api {
		if p.Name == name {
			return
		}
	}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default",
		UID: types.UID(fmt.Sprintf("u%d", s.names)), CreationTimestamp: metav1.NewTime(s.now)}}
	policies := []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}
	pod.Spec.RestartPolicy = policies[s.rand.IntN(3)]
	s.drawContainers(pod)
	s.api[pod.UID] = pod
	s.say("create %s as %s, policy %s, %d+%d containers", name, pod.UID, pod.Spec.RestartPolicy,
		len(pod.Spec.InitContainers), len(pod.Spec.Containers))
	s.desired.Upsert(podspec.SourceAPI, pod.DeepCopy())
}

func (s *simulation) deletePod() {
	uid, ok := s.pick()
	if !ok || s.apiDown {
		return
	}
	if s.rand.IntN(6) == 0 {
		s.say("delete %s by force", uid)
		delete(s.api, uid)
		s.desired.Delete(podspec.SourceAPI, uid)
		return
	}
	pod := s.api[uid]
	if pod.DeletionTimestamp != nil {
		return
	}
	grace := int64(s.rand.IntN(30))
	when := metav1.NewTime(s.now.Add(time.Duration(grace) * time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &when, &grace
	s.say("delete %s with grace %ds", uid, grace)
	s.desired.Upsert(podspec.SourceAPI, pod.DeepCopy())
}

func (s *simulation) exitOne() {
	for _, id := range slices.Sorted(maps.Keys(s.containers)) {
		c := s.containers[id]
		if c.State == observed.Running && s.rand.IntN(3) == 0 {
			s.exit(c, int32(s.rand.IntN(2)))
			s.refresh(c.uid)
			return
		}
	}
}

func (s *simulation) exit(c *simContainer, code int32) {
	s.say("runtime: %s exits with %d", c.ID, code)
	c.State, c.ExitCode, c.FinishedAt = observed.Exited, code, s.now
}

func (s *simulation) loseSandbox() {
	for _, id := range slices.Sorted(maps.Keys(s.sandboxes)) {
		if b := s.sandboxes[id]; b.ready && s.rand.IntN(3) == 0 {
			s.say("runtime: sandbox %s dies", id)
			b.ready = false
			for _, c := range s.containers {
				if c.SandboxID == id && c.State == observed.Running {
					c.State, c.ExitCode, c.FinishedAt = observed.Exited, 137, s.now
				}
			}
			s.refresh(b.uid)
			return
		}
	}
}

// refresh is the pod lifecycle event generator.
func (s *simulation) refresh(uid types.UID) {
	p := observed.Pod{UID: uid, Namespace: "default", At: s.now}
	if pod := s.api[uid]; pod != nil {
		p.Name = pod.Name
	}
	for _, b := range s.sandboxes {
		if b.uid == uid {
			p.Sandboxes = append(p.Sandboxes, observed.Sandbox{ID: b.id, Ready: b.ready, Attempt: b.attempt, CreatedAt: b.made, IPs: []string{"10.1.0.1"}})
		}
	}
	for _, c := range s.containers {
		if c.uid == uid {
			p.Containers = append(p.Containers, c.Container)
		}
	}
	slices.SortFunc(p.Sandboxes, func(a, b observed.Sandbox) int { return cmp.Compare(b.Attempt, a.Attempt) })
	slices.SortFunc(p.Containers, func(a, b observed.Container) int {
		if c := cmp.Compare(b.Attempt, a.Attempt); c != 0 {
			return c
		}
		return cmp.Compare(a.ID, b.ID)
	})
	s.observed.Set(p)
}

var errSim = errors.New("injected failure")
var errLost = errors.New("injected: deadline exceeded")

// BesideSandbox is the volumes' part of the rim.
func (s *simulation) ObjectsPending(*v1.Pod) bool { return false }

func (s *simulation) BesideSandbox(pod *v1.Pod) bool { return len(pod.Name)%2 == 0 }

// Do performs an action on the model: as asked, not at all, with the answer
// lost, or later than anybody waits.
func (s *simulation) Do(ctx context.Context, sc lifecycle.Scene, a lifecycle.Action) lifecycle.Result {
	uid := sc.Pod.UID
	r := lifecycle.Result{Key: a.Key, ImageRef: "sha256:i", Lives: a.Lives}
	if ctx.Err() != nil {
		r.Err = ctx.Err()
		return r
	}
	w := s.pool.workers[uid]
	if w != nil && w.state.Phase >= Terminating && (a.Kind == lifecycle.StartContainer || a.Kind == lifecycle.RunSandbox) {
		s.wrong("%s of %s is done although the pod is %s", a, uid, w.state)
	}
	if a.Kind == lifecycle.StopContainer {
		s.judgeStop(w, a)
	}
	fault := s.rand.IntN(100)
	if s.calm || a.Kind == lifecycle.PreStop {
		fault = 99
	}
	switch {
	case fault < 6:
		s.say("%s: %s fails", uid, a)
		r.Err = errSim
		return r
	case fault < 10:
		r.Err = s.effect(ctx, sc, a)
		s.say("%s: %s, answer lost", uid, a)
		if r.Err == nil {
			r.Err, r.Unknown = errLost, true
		}
	case fault < 14 && (a.Kind == lifecycle.RunSandbox || a.Kind == lifecycle.StartContainer):
		s.say("%s: %s hangs past its deadline", uid, a)
		s.late = append(s.late, func() {
			s.say("%s: %s takes effect late", uid, a)
			late := a
			if late.Kind == lifecycle.StartContainer && late.ID == "" {
				s.create(uid, late)
			} else if late.Kind == lifecycle.RunSandbox {
				_ = s.effect(ctx, sc, late)
			}
			s.refresh(uid)
		})
		r.Err, r.Unknown = errLost, true
	case fault < 17 && (a.Kind == lifecycle.RunSandbox || a.Kind == lifecycle.StartContainer):
		r.Err = s.effect(ctx, sc, a)
		s.say("%s: %s -> %v, unseen", uid, a, cmp.Or(r.Err, errOK))
		r.Unseen = s.now.Add(1) // after whatever was seen up to now
		return r
	default:
		r.Err = s.effect(ctx, sc, a)
		s.say("%s: %s -> %v", uid, a, cmp.Or(r.Err, errOK))
	}
	s.refresh(uid)
	return r
}

var errOK = errors.New("ok")

func (s *simulation) create(uid types.UID, a lifecycle.Action) (*simContainer, error) {
	id := fmt.Sprintf("%s/%s/%d", uid, a.Name, a.Attempt)
	if s.boots > 0 { // what the runtime has forgotten does not come again
		id += fmt.Sprintf("/boot%d", s.boots)
	}
	for _, c := range s.containers {
		if c.uid == uid && c.Name == a.Name && c.Attempt == a.Attempt {
			return nil, fmt.Errorf("name of %s is reserved", id)
		}
	}
	if b := s.sandboxes[a.SandboxID]; b == nil || !b.ready {
		return nil, fmt.Errorf("sandbox %s is not ready", a.SandboxID)
	}
	c := &simContainer{uid: uid, Container: observed.Container{ID: id, Name: a.Name, SandboxID: a.SandboxID,
		State: observed.Created, Attempt: a.Attempt, CreatedAt: s.now, Hash: podspec.ContainerHash(a.Container)}}
	c.Annotations = map[string]string{cri.AnnotationResources: "{}"}
	if a.Delay > 0 {
		c.Annotations[cri.AnnotationRestartDelay] = a.Delay.String()
	}
	s.containers[id] = c
	return c, nil
}

func (s *simulation) effect(ctx context.Context, sc lifecycle.Scene, a lifecycle.Action) (err error) {
	uid := sc.Pod.UID
	switch a.Kind {
	case lifecycle.Prepare:
		s.cgroups[uid] = true
	case lifecycle.Mount:
		s.mounted[uid] = true
	case lifecycle.RunSandbox:
		id := fmt.Sprintf("%s/sandbox/%d", uid, a.Attempt)
		if s.sandboxes[id] != nil {
			return fmt.Errorf("name %s is reserved", id)
		}
		s.sandboxes[id] = &simSandbox{uid: uid, id: id, attempt: a.Attempt, ready: true, made: s.now}
	case lifecycle.StartContainer:
		c := s.containers[a.ID]
		if a.ID == "" {
			if c, err = s.create(uid, a); err != nil {
				return err
			}
		}
		if c == nil || c.State != observed.Created {
			return fmt.Errorf("container %s is not in state created", a.ID)
		}
		c.starts++
		if c.starts > 1 {
			s.wrong("container %s is started twice", c.ID)
		}
		for _, other := range s.containers {
			if other.uid == uid && other.Name == c.Name && other.State == observed.Running {
				s.wrong("container %s is started beside %s", c.ID, other.ID)
			}
		}
		s.judgeStart(s.pool.workers[uid], c)
		s.judgeAgain(c)
		c.State, c.StartedAt = observed.Running, s.now
		if s.calm {
			s.started[c.ID], s.ready[c.ID] = true, true
		}
	case lifecycle.PostStart, lifecycle.PreStop:
		return s.hook(a)
	case lifecycle.Remember:
		if !s.mounted[uid] {
			s.wrong("the journal of %s is written and its directory is gone", uid)
		}
		s.journal[uid] = a.Lives
	case lifecycle.StopContainer:
		if c := s.containers[a.ID]; c != nil && c.State == observed.Running {
			s.exit(c, 143)
		}
	case lifecycle.StopSandbox:
		if b := s.sandboxes[a.ID]; b != nil {
			b.ready = false
			for _, c := range s.containers {
				if c.SandboxID == a.ID && c.State == observed.Running {
					s.wrong("sandbox %s is stopped under %s", a.ID, c.ID)
				}
			}
		}
	case lifecycle.RemoveContainer:
		s.remove(s.pool.workers[uid], a.ID)
	case lifecycle.RemoveSandbox:
		delete(s.sandboxes, a.ID)
		maps.DeleteFunc(s.containers, func(_ string, c *simContainer) bool { return c.SandboxID == a.ID })
	case lifecycle.FlushStatus:
		if s.unsent[uid] {
			return errors.New("api server is away")
		}
	case lifecycle.Unmount:
		for _, c := range s.containers {
			if c.uid == uid && c.State == observed.Running {
				s.wrong("volumes of %s are unmounted under %s", uid, c.ID)
			}
		}
		delete(s.mounted, uid)
		delete(s.journal, uid)
	case lifecycle.RemoveCgroup:
		delete(s.cgroups, uid)
	case lifecycle.DeleteObject:
		if s.apiDown {
			return errors.New("api server is away")
		}
		if s.mounted[uid] || s.cgroups[uid] {
			s.wrong("%s is deleted with volumes or cgroup left", uid)
		}
		delete(s.api, uid)
		s.desired.Delete(podspec.SourceAPI, uid)
	}
	return nil
}

// send writes a status to the API server and checks that it does not go back.
func (s *simulation) send(uid types.UID) {
	pod := s.api[uid]
	if pod == nil {
		delete(s.unsent, uid)
		return
	}
	if s.apiDown {
		s.unsent[uid] = true
		return
	}
	delete(s.unsent, uid)
	old, now := pod.Status, s.statuses[uid]
	if podspec.IsTerminalPhase(old.Phase) && old.Phase != now.Phase {
		s.wrong("phase of %s goes from %s to %s", uid, old.Phase, now.Phase)
	}
	for _, o := range slices.Concat(old.ContainerStatuses, old.InitContainerStatuses) {
		for _, n := range slices.Concat(now.ContainerStatuses, now.InitContainerStatuses) {
			if o.Name == n.Name && n.RestartCount < o.RestartCount {
				s.wrong("restart count of %s/%s goes from %d to %d", uid, o.Name, o.RestartCount, n.RestartCount)
			}
			if o.Name == n.Name {
				s.judgeTold(uid, &o, &n)
			}
		}
	}
	if old.Phase != now.Phase {
		s.say("%s is told to be %s %s", uid, now.Phase, now.Reason)
	}
	pod.Status = now
	s.desired.Upsert(podspec.SourceAPI, pod.DeepCopy())
}

// converged checks the end: what is wanted runs or has ended, what is not
// wanted has left nothing.
func (s *simulation) converged() {
	wanted := func(uid types.UID) bool { return s.api[uid] != nil }
	for id, b := range s.sandboxes {
		if !wanted(b.uid) {
			s.wrong("sandbox %s is left over", id)
		}
	}
	for id, c := range s.containers {
		if !wanted(c.uid) {
			s.wrong("container %s is left over", id)
		}
	}
	for uid := range s.mounted {
		if !wanted(uid) {
			s.wrong("volumes of %s are left over", uid)
		}
	}
	for uid := range s.cgroups {
		if !wanted(uid) {
			s.wrong("cgroup of %s is left over", uid)
		}
	}
	for uid, pod := range s.api {
		w := s.pool.workers[uid]
		switch {
		case pod.DeletionTimestamp != nil:
			s.wrong("%s is still there after its deletion", uid)
		case w == nil:
			s.wrong("%s has no worker", uid)
		case podspec.IsTerminalPhase(pod.Status.Phase):
			if s.mounted[uid] || s.cgroups[uid] {
				s.wrong("%s has ended and still holds volumes or a cgroup", uid)
			}
		case w.state.Phase == Running:
			podspec.EachContainer(pod, func(c *v1.Container, kind podspec.Kind) bool {
				latest := s.observed.Get(uid).Latest(c.Name)
				switch {
				case kind == podspec.Init && !podspec.IsSidecar(c), latest != nil && latest.State == observed.Running:
				case kind == podspec.Ephemeral && latest == nil && s.targetGone(pod, c.Name):
				case latest == nil && toldOver(pod, c, kind):
				case latest == nil || podspec.Restarts(pod, c, kind, latest.ExitCode):
					s.wrong("container %s of %s does not run", c.Name, uid)
				}
				return true
			})
		case len(pod.Spec.InitContainers) > 0 && w.state.Phase == Starting:
			// An init container that runs for ever holds the pod there.
			running := false
			for _, c := range s.observed.Get(uid).Containers {
				running = running || c.State == observed.Running && strings.HasPrefix(c.Name, "init")
			}
			if !running {
				s.wrong("%s is stuck in %s", uid, w.state)
			}
		default:
			s.wrong("%s is stuck in %s: %+v", uid, w.state, s.pool.Explain.Snapshot())
		}
	}
	if len(s.pool.workers) != len(s.api) {
		s.wrong("%d workers for %d pods", len(s.pool.workers), len(s.api))
	}
}

type simStatuses struct{ *simulation }

func (s simStatuses) Publish(pod *v1.Pod, status v1.PodStatus) {
	if old, had := s.statuses[pod.UID]; had && equality.Semantic.DeepEqual(old, status) {
		return
	}
	s.statuses[pod.UID] = status
	s.send(pod.UID)
}
func (s simStatuses) Accepted(context.Context, types.UID) error   { return nil }
func (s simStatuses) DeleteObject(context.Context, *v1.Pod) error { return nil }
func (s simStatuses) Forget(uid types.UID)                        { delete(s.unsent, uid) }

type simEvents struct{}

func (simEvents) Event(*v1.Pod, string, string, string, string) {}

// simAdmission accepts three of four, later.
type simAdmission struct{ *simulation }

func (s simAdmission) SubmitAll(requests []admission.Request) {
	for _, r := range requests {
		v := admission.Verdict{Decision: admission.Accept}
		if !r.Accepted && s.rand.IntN(4) == 0 {
			v = admission.Verdict{Decision: admission.Reject, Reason: "OutOfcpu", Message: "no cpu"}
		}
		s.answers = append(s.answers, func() { r.Answer(v) })
	}
}
func (s simAdmission) Resize(admission.ResizeRequest) {}
func (s simAdmission) Unresize(*v1.Pod)               {}
func (s simAdmission) Leaving(types.UID)              {}
func (s simAdmission) Forget(types.UID)               {}

var simEviction = status.Failure{Reason: "Evicted", Message: "The node was low on resource: memory."}
var seedFlag = flag.Uint64("seed", 0, "run only this seed of the simulation, and print it")
