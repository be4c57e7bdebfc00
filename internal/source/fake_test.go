package source

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// sink records what a source hands over.
type sink struct {
	mu       sync.Mutex
	pods     map[types.UID]*v1.Pod
	sets     int // how many full sets came
	problems map[string]string
	changed  chan struct{}
}

func newSink() *sink {
	return &sink{pods: map[types.UID]*v1.Pod{}, problems: map[string]string{}, changed: make(chan struct{}, 1)}
}

func (s *sink) notify() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *sink) Replace(_ string, pods []*v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods = map[types.UID]*v1.Pod{}
	for _, p := range pods {
		s.pods[p.UID] = p
	}
	s.sets++
	s.notify()
}

func (s *sink) Upsert(_ string, pod *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pods[pod.UID] = pod
	s.notify()
}

func (s *sink) Delete(_ string, uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pods, uid)
	s.notify()
}

func (s *sink) problem(origin string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.problems, origin)
	} else {
		s.problems[origin] = err.Error()
	}
	s.notify()
}

func (s *sink) get(uid types.UID) *v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pods[uid]
}

func (s *sink) uids() []types.UID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.pods))
}

// has describes the pods: names with the images of their containers.
func (s *sink) has() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, p := range s.pods {
		text := p.Name
		for _, c := range p.Spec.Containers {
			text += " " + c.Image
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func (s *sink) troubles() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, k := range slices.Sorted(maps.Keys(s.problems)) {
		list = append(list, fmt.Sprintf("%s: %s", k, s.problems[k]))
	}
	return strings.Join(list, "\n")
}

func (s *sink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sets
}

// await waits until what is told equals, or for problems contains, what is
// wanted.
func (s *sink) await(t *testing.T, what string, ok func() bool, state func() string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-s.changed:
		case <-deadline:
			t.Fatalf("%s: still %q\n%s", what, state(), s.troubles())
		}
	}
}

func (s *sink) awaitPods(t *testing.T, want string) {
	t.Helper()
	s.await(t, "want pods "+want, func() bool { return s.count() > 0 && s.has() == want }, s.has)
}

func (s *sink) awaitProblem(t *testing.T, want string) {
	t.Helper()
	s.await(t, "want problem "+want, func() bool { return strings.Contains(s.troubles(), want) }, s.troubles)
}

func (s *sink) awaitNoProblem(t *testing.T) {
	t.Helper()
	s.await(t, "want no problem", func() bool { return s.troubles() == "" }, s.troubles)
}
