package simulation

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/cri/critest"
	"kubelet/internal/status"
)

var seedFlag = flag.Uint64("seed", 0, "run only this seed of the simulation, and print it")

// TestSimulation runs random lives of a node; see the package's documentation.
// SIM_SEEDS sets how many.
func TestSimulation(t *testing.T) {
	seeds := 200
	if s, err := strconv.Atoi(os.Getenv("SIM_SEEDS")); err == nil {
		seeds = s
	}
	first, last := uint64(1), uint64(seeds)
	if *seedFlag != 0 {
		first, last = *seedFlag, *seedFlag
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { simulate(t, seed) })
		})
	}
}

func simulate(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, seed, func(w *world, c *critest.Config) {
		w.noExits = r.IntN(5) == 0
		c.NoEvents = r.IntN(4) == 0
		c.NoPids = r.IntN(10) == 0
	})
	c := &chaos{world: w, r: r}
	err := c.run()
	w.stop()
	w.runtime.Close()
	synctest.Wait()
	if err != nil {
		t.Errorf("seed %d: %v\n%s", seed, err, w.transcript())
	} else if *seedFlag != 0 {
		t.Log("\n" + w.transcript())
	}
}

// chaos lets things happen.
type chaos struct {
	*world
	r        *rand.Rand
	injected []*critest.Injection
	versions int // of manifests
}

func (c *chaos) run() error {
	for i := range 3 {
		c.runtime.ScriptPull(fmt.Sprintf("registry.example/app:%d", i), c.pulls()...)
	}
	c.setFaults(true)
	kinds := c.kinds()
	for range 60 {
		c.happen(kinds)
		c.pass()
		synctest.Wait()
		if err := c.broken(); err != nil {
			return err
		}
	}
	c.calm()
	if err := c.eventually(2*time.Hour, c.settled); err != nil {
		return fmt.Errorf("the node did not settle: %w", errors.Join(err, c.broken()))
	}
	time.Sleep(10 * time.Minute)
	if err := errors.Join(c.settled(), c.broken()); err != nil {
		return fmt.Errorf("the node did not stay settled: %w", err)
	}
	c.say("everything is deleted")
	for _, pod := range c.api.list() {
		c.api.delete(pod.Name, nil)
	}
	for _, pod := range c.staticPods() {
		c.setManifest(pod.Name, nil)
	}
	if err := c.eventually(time.Hour, func() error {
		err := c.settled()
		if n := len(c.api.list()); n > 0 {
			err = errors.Join(err, fmt.Errorf("%d pods are left in the API", n))
		}
		return err
	}); err != nil {
		return fmt.Errorf("the node did not become empty: %w", errors.Join(err, c.broken()))
	}
	return c.broken()
}

// pass lets some time go by: mostly little, so that the next thing happens
// amid what the last one began.
func (c *chaos) pass() {
	switch n := c.r.IntN(10); {
	case n < 4:
		time.Sleep(time.Duration(c.r.IntN(50_000)) * time.Microsecond)
	case n < 7:
		time.Sleep(time.Duration(c.r.IntN(1000)) * time.Millisecond)
	case n < 9:
		time.Sleep(time.Duration(c.r.IntN(10_000)) * time.Millisecond)
	default:
		time.Sleep(time.Duration(c.r.IntN(120_000)) * time.Millisecond)
	}
}

// kind is one kind of thing that happens, and how often beside the others.
type kind struct {
	weight int
	happen func()
}

// kinds weighs what happens in this run: in some runs much of one thing and
// nothing of another, since what hides one fault in a mixture of all may show
// it alone.
func (c *chaos) kinds() []kind {
	kinds := []kind{
		{26, c.createPod}, {12, c.deletePod}, {8, c.crash}, {17, c.inject}, {12, c.endAgent},
		{3, c.killSandbox}, {2, c.runtime.Restart}, {2, c.runtime.DropStreams}, {2, c.mute},
		{5, c.outage}, {3, func() { c.api.dropWatches(c.r.IntN(2) == 0) }}, {2, func() { c.api.lag(c.r.IntN(2) == 0) }},
		{2, c.evict}, {3, c.changeManifests}, {2, c.editPod}, {2, c.wakeVolumes},
	}
	for i := range kinds[1:] {
		k := &kinds[i+1]
		k.weight = k.weight * []int{0, 1, 1, 1, 4}[c.r.IntN(5)]
	}
	return kinds
}

func (c *chaos) happen(kinds []kind) {
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	n := c.r.IntN(total)
	for _, k := range kinds {
		if n -= k.weight; n < 0 {
			k.happen()
			return
		}
	}
}

func (c *chaos) killSandbox() {
	if pod := c.pick(); pod != nil {
		c.runtime.KillSandbox(string(pod.UID))
	}
}

func (c *chaos) mute() {
	mute := c.r.IntN(2) == 0
	c.say("runtime: events are muted: %v", mute)
	c.runtime.MuteEvents(mute)
}

func (c *chaos) outage() {
	state := apiState(c.r.IntN(3))
	c.say("api: state %d (0 up, 1 refusing, 2 hanging)", state)
	c.api.set(state)
}

func (c *chaos) evict() {
	if a, pod := c.current(), c.pick(); a != nil && pod != nil {
		c.say("evict %s (%s)", pod.Name, pod.UID)
		a.pool.Evict(pod.UID, status.Failure{Reason: "Evicted", Message: "The node was low on resource: memory."}, time.Second)
	}
}

// editPod changes what may be changed of a running pod: an image.
func (c *chaos) editPod() {
	if pod := c.pick(); pod != nil {
		c.say("user: %s gets another image", pod.Name)
		c.api.edit(pod.Name, func(p *v1.Pod) { p.Spec.Containers[0].Image = "app:" + strconv.Itoa(c.r.IntN(3)) })
	}
}

// wakeVolumes is a change of an object that a pod's volumes refer to.
func (c *chaos) wakeVolumes() {
	if a, pod := c.current(), c.pick(); a != nil && pod != nil {
		a.pool.WakeVolumes([]types.UID{pod.UID})
	}
}

func (c *chaos) endAgent() {
	switch {
	case c.current() == nil:
		c.boot()
		return
	case c.r.IntN(4) == 0:
		c.stop()
	default:
		c.kill()
	}
	if c.r.IntN(3) > 0 {
		c.boot()
	}
}

func (c *chaos) pick() *v1.Pod {
	pods := c.api.list()
	if len(pods) == 0 {
		return nil
	}
	return pods[c.r.IntN(len(pods))]
}

func (c *chaos) createPod() {
	// Few names, so that pods of the same name meet.
	name := fmt.Sprintf("pod-%d", c.r.IntN(6))
	if c.api.get(name) != nil {
		return
	}
	pod := c.api.create(c.randomPod(c.r, name))
	c.say("user: create %s (%s), policy %s, %d+%d containers", name, pod.UID, pod.Spec.RestartPolicy,
		len(pod.Spec.InitContainers), len(pod.Spec.Containers))
}

func (c *chaos) deletePod() {
	pod := c.pick()
	if pod == nil {
		return
	}
	var grace *int64
	if c.r.IntN(2) == 0 {
		n := int64(c.r.IntN(30))
		if c.r.IntN(3) == 0 {
			n = 0
		}
		grace = &n
	}
	c.api.delete(pod.Name, grace)
}

func (c *chaos) crash() {
	var running []critest.Container
	for _, x := range c.runtime.Containers("") {
		if x.Running {
			running = append(running, x)
		}
	}
	if len(running) > 0 {
		x := running[c.r.IntN(len(running))]
		c.runtime.Exit(x.PodUID, x.Name, int32(c.r.IntN(2)*137), "")
	}
}

func (c *chaos) changeManifests() {
	name := fmt.Sprintf("static-%d", c.r.IntN(2))
	if c.r.IntN(3) == 0 {
		c.setManifest(name, nil)
		return
	}
	// A new UID each time: that a pod comes back as itself is a new life of
	// it, which the runtime could not tell from a second start.
	c.versions++
	c.setManifest(name, static(newPod(name), fmt.Sprintf("%s-v%d", name, c.versions)))
}

// inject makes some coming calls go wrong.
func (c *chaos) inject() {
	if len(c.injected) > 5 {
		c.injected[0].Release()
		c.injected = c.injected[1:]
	}
	changing := []string{"RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "StopPodSandbox", "RemovePodSandbox", "RemoveContainer", "PullImage"}
	reading := []string{"ListPodSandbox", "ListContainers", "ContainerStatus", "PodSandboxStatus", "ImageStatus"}
	m := critest.Match{Nth: 1 + c.r.IntN(3)}
	var f critest.Fault
	if c.r.IntN(3) > 0 {
		m.Method = changing[c.r.IntN(len(changing))]
		f = c.faultOfChange(m.Method)
	} else {
		m.Method = reading[c.r.IntN(len(reading))]
		f = c.faultOfRead(m.Method)
	}
	if pod := c.pick(); pod != nil && c.r.IntN(2) == 0 && m.Method != "PullImage" && m.Method != "ImageStatus" {
		m.Pod = string(pod.UID)
	}
	if pod := c.pick(); pod != nil && m.Method == "ListContainers" && m.Pod != "" && c.r.IntN(3) == 0 {
		// Of a whole list, that of a fresh agent, nobody can know better.
		f = critest.Fault{Lie: critest.Omit([]string{"a", "b", "init0"}[c.r.IntN(3)])}
	}
	c.say("fault: %+v: hang=%v effect=%d late=%v delay=%v code=%v", m, f.Hang, f.Effect, f.Late, f.Delay, f.Code)
	c.injected = append(c.injected, c.runtime.Inject(m, f))
}

func (c *chaos) faultOfChange(method string) critest.Fault {
	creates := method == "RunPodSandbox" || method == "CreateContainer"
	switch n := c.r.IntN(6); {
	case n == 0:
		return critest.Fault{Code: codes.Unknown, Message: "injected failure"}
	case n == 1:
		return critest.Fault{Effect: critest.EffectFirst, Hang: true}
	case n == 2:
		return critest.Fault{Effect: critest.EffectFirst, Code: codes.Unavailable, Message: "transport is closing"}
	case n == 3:
		return critest.Fault{Delay: time.Duration(c.r.IntN(10_000)) * time.Millisecond}
	case creates:
		return critest.Fault{Effect: critest.EffectLate, Late: time.Duration(c.r.IntN(280)) * time.Second, Hang: true}
	default:
		return critest.Fault{Hang: true}
	}
}

func (c *chaos) faultOfRead(method string) critest.Fault {
	switch c.r.IntN(4) {
	case 0:
		return critest.Fault{Code: codes.Unknown, Message: "injected failure"}
	case 1:
		return critest.Fault{Delay: time.Duration(c.r.IntN(10_000)) * time.Millisecond}
	case 2:
		if method == "ContainerStatus" {
			return critest.Fault{Lie: critest.SayRunning}
		}
	}
	return critest.Fault{Hang: true}
}

// pulls is how pulls of an image go: some fail or take long.
func (c *chaos) pulls() []critest.Pull {
	var script []critest.Pull
	for range c.r.IntN(3) {
		switch c.r.IntN(3) {
		case 0:
			script = append(script, critest.Pull{Code: codes.NotFound, Message: "no such image"})
		case 1:
			script = append(script, critest.Pull{Took: time.Duration(c.r.IntN(60)) * time.Second})
		case 2:
			script = append(script, critest.Pull{Took: time.Second, Code: codes.Unavailable, Message: "registry is away"})
		}
	}
	return append(script, critest.Pull{Took: 200 * time.Millisecond})
}

// calm ends all faults.
func (c *chaos) calm() {
	c.say("the world calms down")
	c.setFaults(false)
	for _, in := range c.injected {
		in.Release()
	}
	c.api.lag(false)
	c.api.set(up)
	c.runtime.MuteEvents(false)
	if c.current() == nil {
		c.boot()
	}
}
