package probe

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/cri"
)

// Exec is the runtime (package cri).
type Exec interface {
	// ExecSync runs a command in a container and waits for its end. The
	// runtime kills it after timeout, and the error is then
	// cri.ErrExecTimeout. A command that ran and failed is no error.
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exitCode int32, err error)
	// ContainerPid is the container's first process, 0 if unknown. It is asked
	// only for commands that take long.
	ContainerPid(ctx context.Context, id string) (int, error)
}

// Config of a Prober.
type Config struct {
	Exec   Exec
	Events Events
	Wake   Waker
	// Registerer of the metrics, which are served at /metrics/probes and so
	// have a registry of their own; nil registers none.
	Registerer prometheus.Registerer
	// Version is what probes call themselves, kube-probe/VERSION: "1.37".
	Version string
	// Cores of the node, by which commands that start at once are bounded;
	// 0 means as many as this process has.
	Cores int
	// H2C asks probes with protocol HTTP2 without TLS over HTTP/2
	// (H2CContainerProbe).
	H2C bool
	// GRPCTLS asks gRPC probes with mode TLS over TLS (GRPCContainerProbeTLS).
	GRPCTLS bool
}

// Prober follows containers and keeps what their probes say.
type Prober struct {
	cfg     Config
	metrics *metrics
	// ask runs a probe once; the schedule's tests have an answer of their own.
	ask func(context.Context, question) outcome

	mu       sync.Mutex
	pods     map[types.UID]*followed
	schedule schedule
	pools    [poolKinds]pool
	// armed is when Run will look next; kick makes it look before.
	armed time.Time
	kick  chan struct{}
}

// New returns a prober; Run starts it. All other methods may be called before.
func New(cfg Config) (*Prober, error) {
	if cfg.Exec == nil || cfg.Events == nil || cfg.Wake == nil {
		return nil, errors.New("new prober: Exec, Events and Wake are required")
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("new prober: %w", err)
	}
	cores := cfg.Cores
	if cores <= 0 {
		cores = runtime.GOMAXPROCS(0)
	}
	a := &asker{
		exec: cfg.Exec, http: newHTTPClients(), userAgent: "kube-probe/" + cfg.Version,
		h2c: cfg.H2C, grpcTLS: cfg.GRPCTLS,
	}
	return &Prober{
		cfg: cfg, metrics: m, ask: a.ask,
		pods: map[types.UID]*followed{},
		kick: make(chan struct{}, 1),
		pools: [poolKinds]pool{
			netPool: {kind: netPool, places: 16 * cores, young: 100 * time.Millisecond, total: 1024, perPod: 64},
			// The runtime starts a command in about 50 ms of one core, if it
			// gets one.
			execPool: {kind: execPool, places: 2 * cores, young: 10 * time.Second, total: 128, perPod: 8},
		},
	}, nil
}

// Run probes until ctx ends.
func (p *Prober) Run(ctx context.Context) error {
	var runs sync.WaitGroup
	defer runs.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var ready []run
	for {
		var next time.Time
		ready, next = p.begin(ctx, ready[:0], time.Now())
		for _, r := range ready {
			runs.Go(func() { p.run(r) })
		}
		clear(ready)
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Until(next), 0))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-p.kick:
		}
	}
}

// run is a task that was given a place.
type run struct {
	task *task
	ctx  context.Context
	question
}

// begin moves due tasks to the pools and gives out places. It returns when it
// is to be called again if nothing happens before.
func (p *Prober) begin(ctx context.Context, ready []run, now time.Time) (_ []run, next time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.schedule) > 0 && !p.schedule[0].due.After(now) {
		t := p.schedule[0]
		p.schedule.remove(t)
		pool := &p.pools[t.pool]
		if t.young(now) && len(pool.turns) > 0 {
			// Not at the cost of those whose turn it really is.
			t.due = t.next(now)
			p.schedule.add(t)
			continue
		}
		pool.put(t, now)
	}
	if len(p.schedule) > 0 {
		next = p.schedule[0].due
	}
	for i := range p.pools {
		pool := &p.pools[i]
		for t := pool.take(now); t != nil; t = pool.take(now) {
			p.metrics.queued.WithLabelValues(poolNames[i]).Observe(now.Sub(t.queued).Seconds())
			r := run{task: t, question: question{
				kind: t.kind, pod: t.life.pod.pod, container: t.life.target.Container,
				id: t.life.target.ID, ip: t.life.target.IP, probe: t.probe, timeout: t.timeout(), in: t.life.in,
			}}
			if t.probe.Exec != nil {
				r.begun = func() { p.begun(t, t.began) }
			}
			r.ctx, t.cancel = context.WithCancel(ctx)
			ready = append(ready, r)
		}
		if opens := pool.opens(now); !opens.IsZero() && (next.IsZero() || opens.Before(next)) {
			next = opens
		}
	}
	p.armed = next
	return ready, next
}

// begun notes that the command of a run has been seen to run.
func (p *Prober) begun(t *task, began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.at == running && t.began.Equal(began) {
		t.old = true
		p.look()
	}
}

// run asks, and tells what came of it.
func (p *Prober) run(r run) {
	begin := time.Now()
	out := askPatiently(r.ctx, p.ask, r.question)
	heard, changed := p.end(r, out, time.Since(begin))
	if heard {
		p.tell(r, out)
	}
	if changed {
		p.cfg.Wake(r.pod.UID)
	}
}

// maxStalls bounds how often in a row a run is repeated because the node
// stalled: a container that hangs on a node that is always late must still be
// found out.
const maxStalls = 3

// end takes the outcome of a run in. Heard is false if it is no news: nobody
// wants to know it any more, the probe is run again, or the container is too
// young to be blamed. Changed says whether what readers get is another.
func (p *Prober) end(r run, out outcome, took time.Duration) (heard, changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, now := r.task, time.Now()
	pool := &p.pools[t.pool]
	pool.leave(t)
	if len(pool.turns) > 0 {
		p.look()
	}
	cancelled := r.ctx.Err() != nil
	t.cancel()
	if cancelled {
		// It may have become wanted again meanwhile.
		if t.life.pod.find(t.life.target.ID) == t.life {
			p.arm(t.life, now, false)
		}
		return false, false
	}
	if out.stalled && t.stalls < maxStalls {
		t.stalls++
		p.metrics.stalled.WithLabelValues(t.kind.String()).Inc()
		pool.put(t, now)
		p.look()
		return false, false
	}
	t.stalls = 0
	if (out.verdict == failed || out.excused) && t.young(t.began) {
		changed = t.hinder(out)
		t.life.pod.results = nil
		t.due = t.next(now)
		p.add(t)
		return false, changed
	}
	p.count(r, out.verdict, took)
	if out.verdict != unknown && t.count(out.verdict) {
		changed = t.settle(out.verdict, out.output, now)
	}
	if t.hinder(out) {
		changed = true
	}
	t.life.pod.results = nil
	if t.wanted() {
		t.due = t.next(now)
		p.add(t)
	}
	if changed {
		p.arm(t.life, now, false)
	}
	return true, changed
}

func (p *Prober) count(r run, v verdict, took time.Duration) {
	f := r.task.life.pod
	key := seriesKey{r.container.Name, r.kind}
	s := f.series[key]
	if s == nil {
		if f.series == nil {
			f.series = map[seriesKey]*series{}
		}
		s = &series{}
		f.series[key] = s
	}
	p.metrics.count(s, r.pod, r.container.Name, r.kind, v, took)
}

// Reasons of events.
const (
	reasonUnhealthy = "Unhealthy"
	reasonWarning   = "ProbeWarning"
)

// tell records what a user should know of a run.
func (p *Prober) tell(r run, out outcome) {
	event := func(reason, format string, args ...any) {
		p.cfg.Events.Event(r.pod, r.container.Name, v1.EventTypeWarning, reason, fmt.Sprintf(format, args...))
	}
	switch out.verdict {
	case warned:
		event(reasonWarning, "%s probe warning: %s", r.kind, out.output)
	case failed:
		event(reasonUnhealthy, "%s probe failed: %s", r.kind, out.output)
	case unknown:
		if cri.IsNotFound(out.err) {
			break // the container has just ended, which is told of elsewhere
		}
		event(reasonUnhealthy, "%s probe errored and resulted in %s state: %s", r.kind, out.verdict, out.err)
	}
	if logger := klog.FromContext(r.ctx).V(3); logger.Enabled() {
		logger.Info("Probe ran", "pod", klog.KObj(r.pod), "podUID", r.pod.UID, "container", r.container.Name,
			"probeType", r.kind.String(), "result", out.verdict.String(), "output", out.output, "err", out.err)
	}
}
