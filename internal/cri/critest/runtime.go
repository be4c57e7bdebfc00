// Package critest is a container runtime in memory that fails on purpose. It
// serves the real CRI (runtime and image service), over a unix socket or
// directly to a cri.Client in the same process, and models sandboxes,
// containers, attempt names, exit codes, events, images and pulls. Scripts say
// what containers do; faults make chosen calls hang, answer late, fail or lie.
// It counts calls, writes a transcript of them and keeps the rules that no
// kubelet may break (see Violations).
//
// It owns its model and touches nothing outside of it, except log files and
// termination messages if Config.Files asks for them. All waiting is on
// channels and timers, so it works inside testing/synctest. With Config.Clock
// set it never waits and starts no goroutine or timer, and one goroutine with
// the same calls gets the same answers every time.
package critest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
)

// Config of a Runtime. The zero value is a well-behaved current runtime.
type Config struct {
	// Clock makes the runtime single-threaded: nothing happens between calls,
	// what is due happens at the next call or Advance, and a call that would
	// wait returns *Later at once. Nil uses the time package.
	Clock func() time.Time
	// Seed, if not 0, makes ids look as in real runtimes (64 hexadecimal
	// digits); without it they are short and readable.
	Seed uint64
	// NoEvents answers GetContainerEvents with Unimplemented, NoRuntimeConfig
	// RuntimeConfig, both as containerd 1.6 does.
	NoEvents        bool
	NoRuntimeConfig bool
	// Cgroupfs makes RuntimeConfig name that driver rather than systemd.
	Cgroupfs bool
	// NoPids leaves the pid out of verbose statuses.
	NoPids bool
	// Start, if set, is asked for the pid of each process that starts, to put
	// real processes behind containers. It is called inside the model and
	// must not call back. Pids are fake and above any real one otherwise.
	Start func(id string) (pid int)
	// Exit, if set, is told the pid of each process that ends, under the same
	// rules as Start.
	Exit func(pid int)
	// Files makes the runtime write logs and termination messages.
	Files bool
	// ImagesMustExist makes pulls of images that were not added with AddImage
	// or ScriptPull fail with NotFound.
	ImagesMustExist bool
}

// Later is the answer, in single-threaded mode, of a call that would have to
// wait: make it again at At. The zero time means that it would wait for ever.
type Later struct{ At time.Time }

func (l *Later) Error() string { return "the call would wait until " + l.At.Format(time.RFC3339Nano) }

// Runtime is the runtime. Make it with New; Close it where timers or streams
// must end.
type Runtime struct {
	cfg   Config
	begin time.Time

	mu         sync.Mutex
	agenda     agenda
	sandboxes  table[*sandbox]
	containers table[*container]
	reserved   map[string]string // name with attempt → id
	images     table[*image]
	pulls      map[string]*pull
	pullScript map[string][]Pull
	pulled     []Pulled
	scripts    map[string][]Behavior
	exec       func(ExecCall) ExecResult
	network    condition
	ready      condition
	muted      bool
	streams    map[*stream]struct{}
	faults     []*Injection
	counts     map[string]int
	lines      []string
	violations []string
	started    map[string]string // name with attempt → id of the container that was started
	generation chan struct{}     // closed when the runtime restarts: calls in flight are lost
	ids, pids  int
	closed     bool
	late       bool // the effect of a call is coming late; it was judged when it was made
}

type condition struct {
	ok              bool
	reason, message string
}

// New returns a runtime with no pods and no images.
func New(cfg Config) *Runtime {
	r := &Runtime{
		cfg:        cfg,
		reserved:   map[string]string{},
		pulls:      map[string]*pull{},
		pullScript: map[string][]Pull{},
		scripts:    map[string][]Behavior{},
		streams:    map[*stream]struct{}{},
		counts:     map[string]int{},
		started:    map[string]string{},
		generation: make(chan struct{}),
		network:    condition{ok: true},
		ready:      condition{ok: true},
	}
	r.begin = r.now()
	return r
}

// Client returns a client that calls the runtime directly, without a socket.
// It is the product's own client: deadlines, metrics and errors are as in
// real life.
func (r *Runtime) Client(cfg cri.Config) *cri.Client {
	conn := r.Conn()
	c, err := cri.NewOver(cfg, runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn))
	if err != nil {
		panic(err) // only a registerer given twice
	}
	return c
}

// Conn returns a connection to the runtime in the same process, for tests
// that put something of their own between client and runtime.
func (r *Runtime) Conn() grpc.ClientConnInterface { return &directConn{r: r} }

// Close ends streams, calls in flight and timers.
func (r *Runtime) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.agenda.stop()
	r.dropCalls()
}

func (r *Runtime) now() time.Time {
	if r.cfg.Clock != nil {
		return r.cfg.Clock()
	}
	return time.Now()
}

// Advance makes everything happen that is due, and returns when the next
// thing will be (false: nothing is planned). Only single-threaded mode needs
// it, and only to learn of exits without a call.
func (r *Runtime) Advance() (next time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.advance()
	return r.agenda.next()
}

// advance runs what is due, in order of time. The lock is held.
func (r *Runtime) advance() {
	now := r.now()
	for {
		do := r.agenda.due(now)
		if do == nil {
			break
		}
		do()
	}
	if r.cfg.Clock == nil && !r.closed {
		r.agenda.arm(now, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.advance()
		})
	}
}

// at plans something. The lock is held; do runs with the lock held.
func (r *Runtime) at(when time.Time, do func()) *planned { return r.agenda.add(when, do) }

// blocked is returned by a call's core that has to wait: for done, which
// happens at at if nothing else comes between.
type blocked struct {
	done <-chan struct{}
	at   time.Time
	then func() (any, error) // the answer; runs with the lock held
}

func (*blocked) Error() string { return "blocked" }

// wait waits for a channel the way that all calls wait. A nil channel is
// never ready.
func (r *Runtime) wait(ctx context.Context, generation <-chan struct{}, done <-chan struct{}, at time.Time) error {
	if r.cfg.Clock != nil {
		return &Later{At: at}
	}
	select {
	case <-done:
		return nil
	case <-generation:
		return errRestarted
	case <-ctx.Done():
		return fromContext(ctx)
	}
}

func (r *Runtime) newID(kind string) string {
	r.ids++
	if r.cfg.Seed == 0 {
		return fmt.Sprintf("%s-%d", kind, r.ids)
	}
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], r.cfg.Seed)
	binary.LittleEndian.PutUint64(b[8:], uint64(r.ids))
	sum := sha256.Sum256(b[:])
	return hex.EncodeToString(sum[:])
}

// firstPid is above the largest pid that Linux allows (2^22).
const firstPid = 1 << 23

func (r *Runtime) newPid(id string) int {
	if r.cfg.Start != nil {
		if pid := r.cfg.Start(id); pid > 0 {
			return pid
		}
	}
	r.pids++
	return firstPid + r.pids
}

// processEnded tells of the end of a process. The lock is held.
func (r *Runtime) processEnded(pid int) {
	if r.cfg.Exit != nil && pid != 0 {
		r.cfg.Exit(pid)
	}
}

// table keeps things by id and in the order in which they came.
type table[T any] struct {
	byID  map[string]T
	order []string
}

func (t *table[T]) add(id string, v T) {
	if t.byID == nil {
		t.byID = map[string]T{}
	}
	if _, ok := t.byID[id]; !ok {
		t.order = append(t.order, id)
	}
	t.byID[id] = v
}

func (t *table[T]) get(id string) (T, bool) { v, ok := t.byID[id]; return v, ok }

func (t *table[T]) remove(id string) {
	if _, ok := t.byID[id]; !ok {
		return
	}
	delete(t.byID, id)
	for i, o := range t.order {
		if o == id {
			t.order = append(t.order[:i:i], t.order[i+1:]...)
			return
		}
	}
}

// each calls f in order; f may remove.
func (t *table[T]) each(f func(T)) {
	for _, id := range t.order {
		if v, ok := t.byID[id]; ok {
			f(v)
		}
	}
}
