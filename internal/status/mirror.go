package status

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// MirrorClient is what mirrors need of the API server.
type MirrorClient interface {
	GetPod(ctx context.Context, namespace, name string) (*v1.Pod, error)
	CreatePod(ctx context.Context, pod *v1.Pod) (*v1.Pod, error)
	DeletePod(ctx context.Context, namespace, name string, options metav1.DeleteOptions) error
}

// MirrorsConfig says what Mirrors is made of.
type MirrorsConfig struct {
	// Client is nil in standalone mode: there are no mirrors then.
	Client   MirrorClient
	NodeName string
	// Node returns the node's API object, or nil while it is not registered.
	// Mirrors are owned by it, which the NodeRestriction admission demands.
	Node func() *v1.Node
	// Changed is called with a mirror that was made or found, before the
	// watch tells of it; may be nil. It must not block.
	Changed func(mirror *v1.Pod)
	// Timeout of each call; 10 s if 0.
	Timeout time.Duration
}

// Mirrors shows the static pods in the API server: for each a pod object of
// the same name that nobody's wish but a manifest's can change. A mirror that
// was deleted or does not fit its static pod any more is made again, one
// whose static pod is gone is removed. Nothing waits for it.
type Mirrors struct {
	config MirrorsConfig
	queue  *queue[podspec.Name]

	mu   sync.Mutex
	want map[podspec.Name]*v1.Pod // static pods
	have map[podspec.Name]*v1.Pod // mirrors in the API server, as far as known
	// complete is set once every source of static pods has told all it has:
	// from then on a mirror without a static pod is an orphan.
	complete bool
	failures map[podspec.Name]int
}

// NewMirrors returns mirrors that are kept true while Run runs.
func NewMirrors(config MirrorsConfig) (*Mirrors, error) {
	if config.Client != nil && (config.Node == nil || config.NodeName == "") {
		return nil, errors.New("new mirrors: Node and NodeName have to be set")
	}
	if config.Timeout <= 0 {
		config.Timeout = defaultTimeout
	}
	m := &Mirrors{
		config:   config,
		want:     map[podspec.Name]*v1.Pod{},
		have:     map[podspec.Name]*v1.Pod{},
		failures: map[podspec.Name]int{},
	}
	m.queue = newQueue(2, m.reconcile)
	return m, nil
}

// Run keeps the mirrors true until ctx ends.
func (m *Mirrors) Run(ctx context.Context) error {
	if m.config.Client == nil {
		<-ctx.Done()
		return nil
	}
	m.queue.run(ctx)
	return nil
}

// Ensure asks for a mirror of the static pod, in place of any other of that
// name. It never blocks.
func (m *Mirrors) Ensure(static *v1.Pod) {
	name := podspec.FullName(static)
	m.mu.Lock()
	m.want[name] = static
	m.mu.Unlock()
	m.poke(name)
}

// Remove asks for the mirror of the static pod with that UID to be removed.
// If another static pod has taken the name, its mirror stays.
func (m *Mirrors) Remove(name podspec.Name, uid types.UID) {
	m.mu.Lock()
	if w := m.want[name]; w != nil && w.UID == uid {
		delete(m.want, name)
	}
	m.mu.Unlock()
	m.poke(name)
}

// Complete says that every source of static pods has told all it has:
// Ensure was called for each. Orphaned mirrors are removed from now on.
func (m *Mirrors) Complete() {
	m.mu.Lock()
	m.complete = true
	have := maps.Clone(m.have)
	m.mu.Unlock()
	for name := range have {
		m.poke(name)
	}
}

// Observe takes a copy of a mirror pod that the watch has brought.
func (m *Mirrors) Observe(mirror *v1.Pod) {
	name := podspec.FullName(mirror)
	m.mu.Lock()
	m.have[name] = mirror
	m.mu.Unlock()
	m.poke(name)
}

// ObserveList takes all pods that a list of the API server has brought: what
// is not among them is gone, also a mirror that was made since the watch broke
// and that no watch will tell of.
func (m *Mirrors) ObserveList(pods []*v1.Pod) {
	listed := map[podspec.Name]*v1.Pod{}
	for _, pod := range pods {
		if podspec.IsMirror(pod) {
			listed[podspec.FullName(pod)] = pod
		}
	}
	m.mu.Lock()
	names := m.have // nobody else's from here on, as listed is not ours any more
	m.have = listed
	maps.Copy(names, listed)
	m.mu.Unlock()
	for name := range names {
		m.poke(name)
	}
}

// ObserveDeleted takes the last copy of a mirror pod that was deleted.
func (m *Mirrors) ObserveDeleted(mirror *v1.Pod) {
	name := podspec.FullName(mirror)
	m.mu.Lock()
	if h := m.have[name]; h != nil && h.UID == mirror.UID {
		delete(m.have, name)
	}
	m.mu.Unlock()
	m.poke(name)
}

// Get returns the mirror of the static pod of that name, or nil. It is shared
// and not to be changed.
func (m *Mirrors) Get(name podspec.Name) *v1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.have[name]
}

// Retry repeats what failed now, because the API server is known to be back.
func (m *Mirrors) Retry() { m.queue.hurry() }

// NodeChanged says that Node gives another answer: the node was registered,
// perhaps anew. Mirrors that waited for it are made.
func (m *Mirrors) NodeChanged() {
	m.mu.Lock()
	want := maps.Clone(m.want)
	m.mu.Unlock()
	for name := range want {
		m.poke(name)
	}
}

func (m *Mirrors) poke(name podspec.Name) {
	if m.config.Client != nil {
		m.queue.add(name)
	}
}

// reconcile makes one step for one name.
func (m *Mirrors) reconcile(ctx context.Context, name podspec.Name) time.Duration {
	m.mu.Lock()
	want, have, complete := m.want[name], m.have[name], m.complete
	m.mu.Unlock()
	err := m.step(ctx, name, want, have, complete)

	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil || ctx.Err() != nil {
		delete(m.failures, name)
		return 0
	}
	m.failures[name]++
	delay := backoff(m.failures[name], err)
	if logger := klog.FromContext(ctx); m.failures[name] == 1 || logger.V(3).Enabled() {
		logger.Error(err, "Failed to bring mirror pod in line, will be repeated", "name", name, "failures", m.failures[name], "retryIn", delay)
	}
	return delay
}

func (m *Mirrors) step(ctx context.Context, name podspec.Name, want, have *v1.Pod, complete bool) error {
	if have != nil {
		switch {
		case want != nil && mirrors(have, want):
			return nil
		case want == nil && !complete:
			return nil // its static pod may yet be told of
		}
		if err := m.delete(ctx, have); err != nil {
			return err
		}
		m.forget(name, have)
	}
	if want == nil {
		return nil
	}
	return m.create(ctx, name, want)
}

// mirrors says whether the API object shows the static pod. One that somebody
// is deleting does not: nothing else would ever finish that deletion.
func mirrors(object, static *v1.Pod) bool {
	return object.DeletionTimestamp == nil && object.Annotations[podspec.MirrorAnnotation] == hash(static)
}

func hash(static *v1.Pod) string { return static.Annotations[podspec.HashAnnotation] }

func (m *Mirrors) create(ctx context.Context, name podspec.Name, want *v1.Pod) error {
	node := m.config.Node()
	if node == nil || node.UID == "" || node.DeletionTimestamp != nil {
		klog.FromContext(ctx).V(2).Info("Mirror pod waits for the node to be registered", "name", name)
		return nil
	}
	callCtx, cancel := context.WithTimeout(ctx, m.config.Timeout)
	defer cancel()
	created, err := m.config.Client.CreatePod(callCtx, mirrorOf(want, node))
	if err == nil {
		m.learn(name, created)
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create mirror pod: %w", err)
	}
	// Made by an earlier attempt whose answer got lost, by an earlier life of
	// this kubelet, or by somebody else.
	existing, err := m.config.Client.GetPod(callCtx, want.Namespace, want.Name)
	if err != nil {
		return fmt.Errorf("read mirror pod: %w", err)
	}
	if !podspec.IsMirror(existing) || existing.Spec.NodeName != m.config.NodeName {
		return fmt.Errorf("create mirror pod: a pod of that name exists that mirrors no static pod of this node")
	}
	m.learn(name, existing)
	if !mirrors(existing, want) {
		m.poke(name) // to be replaced
	}
	return nil
}

// mirrorOf is the API object that shows a static pod.
func mirrorOf(static *v1.Pod, node *v1.Node) *v1.Pod {
	mirror := static.DeepCopy()
	mirror.Status = v1.PodStatus{}
	mirror.Annotations[podspec.MirrorAnnotation] = hash(static)
	controller := true
	mirror.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &controller,
	}}
	return mirror
}

// learn takes what the API server has answered, unless the watch was faster.
func (m *Mirrors) learn(name podspec.Name, mirror *v1.Pod) {
	m.mu.Lock()
	if h := m.have[name]; h == nil || h.UID != mirror.UID {
		m.have[name] = mirror
	}
	m.mu.Unlock()
	if m.config.Changed != nil {
		m.config.Changed(mirror)
	}
}

func (m *Mirrors) forget(name podspec.Name, mirror *v1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.have[name]; h != nil && h.UID == mirror.UID {
		delete(m.have, name)
	}
}

// delete removes the mirror at once: there is nothing behind it to be ended.
func (m *Mirrors) delete(ctx context.Context, mirror *v1.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, m.config.Timeout)
	defer cancel()
	err := m.config.Client.DeletePod(ctx, mirror.Namespace, mirror.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64),
		Preconditions:      metav1.NewUIDPreconditions(string(mirror.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete mirror pod: %w", err)
	}
	return nil
}
