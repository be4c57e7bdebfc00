package probe

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Exec runs a command in a container and waits for its end (package cri). The
// runtime kills it after timeout. A command that ran and failed is no error.
type Exec interface {
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exitCode int32, err error)
}

// Config of a Prober.
type Config struct {
	Exec   Exec
	Events Events
	Wake   Waker
	// Registerer of the metrics, which are served at /metrics/probes and so
	// have a registry of their own; nil registers none.
	Registerer prometheus.Registerer
}

// Prober follows containers and keeps what their probes say.
type Prober struct {
	cfg Config

	mu   sync.Mutex
	pods map[types.UID]map[string]Result
}

// New returns a prober; Run starts it. All methods may be called before.
func New(cfg Config) (*Prober, error) {
	return &Prober{cfg: cfg, pods: map[types.UID]map[string]Result{}}, nil
}

// Follow says which containers of the pod run now; the latest call wins. When
// it returns, Results has a result for each of them and for no other. It never
// blocks, and costs next to nothing if nothing changed. The pod and the
// containers must not be changed afterwards.
func (p *Prober) Follow(pod *v1.Pod, targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	results := map[string]Result{}
	for i := range targets {
		results[targets[i].ID] = initial(&targets[i])
	}
	p.pods[pod.UID] = results
}

// Results returns what is known of the pod's followed containers, by ID. The
// map is a snapshot and must not be changed.
func (p *Prober) Results(uid types.UID) map[string]Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pods[uid]
}

// Forget ends all probes of the pod.
func (p *Prober) Forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pods, uid)
}

// Run probes until ctx ends.
func (p *Prober) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
