package simulation

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/cri/critest"
	"kubelet/internal/lifecycle"
)

// world is what outlives an agent. It is made inside a synctest bubble.
type world struct {
	t       *testing.T
	seed    uint64
	begin   time.Time
	runtime *critest.Runtime
	api     *apiServer
	disk    *disk
	exits   *exits

	// tracer of the agents and what it recorded; nil without.
	tracer trace.Tracer
	spans  *tracetest.SpanRecorder

	// What an agent may lack, as with older runtimes.
	noExits bool
	// gate of the agents: places and critical places at once.
	places, critical int
	// crash is how back-off grows, budget how many such restarts a minute the
	// node has, zero for any number.
	crash  lifecycle.CrashPolicy
	budget int

	mu        sync.Mutex
	lines     []string
	faults    bool // calls fail at random
	manifests map[string]*v1.Pod
	wrongs    []string
	agent     *agent
	agents    int
	doomed    map[types.UID]bool // by force: nobody waits for its status
}

type option func(*world, *critest.Config)

// newWorld returns a world in which an agent runs.
func newWorld(t *testing.T, seed uint64, options ...option) *world {
	klog.SetLogger(klog.Logger{})
	w := &world{t: t, seed: seed, begin: time.Now(), places: 4, critical: 4,
		crash:     lifecycle.CrashPolicy{Initial: 10 * time.Second, Max: 300 * time.Second},
		manifests: map[string]*v1.Pod{}, doomed: map[types.UID]bool{}}
	w.exits = newExits()
	config := critest.Config{Exit: w.exits.ended}
	for _, o := range options {
		o(w, &config)
	}
	w.runtime = critest.New(config)
	w.runtime.AddImage("app")
	w.disk = &disk{w: w, volumes: map[types.UID]bool{}, cgroups: map[types.UID]bool{}, logs: map[types.UID]bool{}}
	w.api = newAPIServer(w)
	w.boot()
	return w
}

// inWorld runs a test in a world of its own and checks, when it has ended,
// that no rule was broken and that nothing is left running: the bubble does
// not end before its last goroutine.
func inWorld(t *testing.T, test func(*world), options ...option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, options...)
		defer func() {
			if t.Failed() {
				t.Log("\n" + w.transcript())
			}
		}()
		test(w)
		w.stop()
		w.runtime.Close()
		synctest.Wait()
		if err := w.broken(); err != nil {
			t.Error(err)
		}
	})
}

func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sayLocked(format, args...)
}

func (w *world) sayLocked(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf("%9.3f  ", time.Since(w.begin).Seconds())+fmt.Sprintf(format, args...))
}

// wrong notes that a rule was broken.
func (w *world) wrong(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrongs = append(w.wrongs, fmt.Sprintf(format, args...))
	w.sayLocked("VIOLATION "+format, args...)
}

// broken returns the rules that were broken so far.
func (w *world) broken() error {
	w.mu.Lock()
	wrongs := slices.Clone(w.wrongs)
	w.mu.Unlock()
	wrongs = append(wrongs, w.runtime.Violations()...)
	if len(wrongs) == 0 {
		return nil
	}
	return errors.New(strings.Join(wrongs, "\n"))
}

// transcript is what the world and the runtime have noted, by time.
func (w *world) transcript() string {
	w.mu.Lock()
	lines := slices.Clone(w.lines)
	w.mu.Unlock()
	for line := range strings.SplitSeq(w.runtime.Transcript(), "\n") {
		if len(line) > 11 {
			lines = append(lines, line[:11]+"runtime: "+line[11:])
		}
	}
	at := func(line string) float64 {
		seconds, _ := strconv.ParseFloat(strings.TrimSpace(line[:9]), 64)
		return seconds
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		switch x, y := at(a), at(b); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return strings.Join(lines, "\n")
}

// fate is a source of choices about one call at this moment.
func (w *world) fate(call ...string) *rand.Rand {
	h := fnv.New64a()
	for _, s := range call {
		_, _ = io.WriteString(h, s)
		_, _ = h.Write([]byte{0})
	}
	return rand.New(rand.NewPCG(w.seed, h.Sum64()^uint64(time.Since(w.begin))))
}

func (w *world) faulty() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.faults
}

func (w *world) setFaults(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = on
}

func (w *world) current() *agent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.agent
}

// boot starts an agent on what the world holds.
func (w *world) boot() {
	w.mu.Lock()
	w.agents++
	w.sayLocked("agent %d starts", w.agents)
	n := w.agents
	w.mu.Unlock()
	a := newAgent(w, n)
	w.mu.Lock()
	w.agent = a
	w.mu.Unlock()
	a.start()
}

// kill is SIGKILL: the agent's wire is cut between two instructions. Its
// goroutines end by themselves later, reaching nothing.
func (w *world) kill() {
	synctest.Wait()
	a := w.current()
	if a == nil {
		return
	}
	w.say("SIGKILL")
	a.wire.cut()
	a.cancel()
	w.mu.Lock()
	w.agent = nil
	w.mu.Unlock()
}

// stop is SIGTERM: the agent ends in order and leaves the pods alone.
func (w *world) stop() {
	a := w.current()
	if a == nil {
		return
	}
	w.say("SIGTERM")
	a.cancel()
	a.parts.Wait()
	a.wire.cut()
	w.mu.Lock()
	w.agent = nil
	w.mu.Unlock()
}

// setManifest puts a static pod into the manifest directory, or takes it out.
func (w *world) setManifest(name string, pod *v1.Pod) {
	w.mu.Lock()
	if pod == nil {
		w.sayLocked("manifest %s is removed", name)
		delete(w.manifests, name)
	} else {
		w.sayLocked("manifest %s as %s", name, pod.UID)
		w.manifests[name] = pod
	}
	a := w.agent
	w.mu.Unlock()
	if a != nil {
		a.readManifests()
	}
}

func (w *world) staticPods() []*v1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	var pods []*v1.Pod
	for _, p := range w.manifests {
		pods = append(pods, p.DeepCopy())
	}
	return pods
}

// eventually waits until the condition gives no error, for that long on the
// fake clock.
func (w *world) eventually(within time.Duration, condition func() error) error {
	for end := time.Now().Add(within); ; {
		synctest.Wait()
		err := condition()
		if err == nil || !time.Now().Before(end) {
			return err
		}
		time.Sleep(min(time.Second, max(within/100, 10*time.Millisecond)))
	}
}

// must is eventually for tests that cannot go on otherwise.
func (w *world) must(within time.Duration, condition func() error) {
	w.t.Helper()
	if err := w.eventually(within, condition); err != nil {
		w.t.Fatal(err)
	}
}
