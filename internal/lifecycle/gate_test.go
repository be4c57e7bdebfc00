package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// turnstile lets callers into a gate and notes who came in, in order.
type turnstile struct {
	t    *testing.T
	gate *Gate

	mu     sync.Mutex
	inside []string
	leaves map[string]func()
	errs   map[string]error
}

func newTurnstile(t *testing.T, g *Gate) *turnstile {
	return &turnstile{t: t, gate: g, leaves: map[string]func(){}, errs: map[string]error{}}
}

// come sends a caller to the gate and returns when it is in or waits.
func (s *turnstile) come(ctx context.Context, name string, class Class) {
	go func() {
		leave, err := s.gate.Enter(ctx, class)
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil {
			s.errs[name] = err
			return
		}
		s.inside = append(s.inside, name)
		s.leaves[name] = leave
	}()
	synctest.Wait()
}

// leave has a caller leave, and returns when whoever gets its place is in.
func (s *turnstile) leave(name string) {
	s.t.Helper()
	s.mu.Lock()
	f := s.leaves[name]
	delete(s.leaves, name)
	s.mu.Unlock()
	if f == nil {
		s.t.Fatalf("%s is not inside", name)
	}
	f()
	synctest.Wait()
}

func (s *turnstile) leaveAll() {
	for {
		s.mu.Lock()
		var next string
		for name := range s.leaves {
			next = name
		}
		s.mu.Unlock()
		if next == "" {
			return
		}
		s.leave(next)
	}
}

// came holds who is or was inside so far, in order.
func (s *turnstile) came(want ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.inside, want) {
		s.t.Fatalf("came in: %v, want %v", s.inside, want)
	}
}

func inGate(t *testing.T, ordinary, critical, slow int, test func(*turnstile)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newTurnstile(t, NewGate(ordinary, critical, slow, nil))
		test(s)
		s.leaveAll()
	})
}

func TestGateOrder(t *testing.T) {
	inGate(t, 1, 1, 0, func(s *turnstile) {
		ctx, now := s.t.Context(), time.Now()
		at := func(priority int32, age time.Duration) Class {
			return Class{Priority: priority, Since: now.Add(-age)}
		}
		s.come(ctx, "first", at(0, 0))
		s.come(ctx, "young", at(0, time.Minute))
		s.come(ctx, "old", at(0, time.Hour))
		s.come(ctx, "important", at(1000, 0))
		s.come(ctx, "important and old", at(1000, time.Minute))
		s.come(ctx, "unimportant", at(-5, 2*time.Hour))
		s.came("first")
		want := []string{"first", "important and old", "important", "old", "young", "unimportant"}
		for i := range want {
			s.came(want[:i+1]...)
			s.leave(want[i])
		}
	})
}

// Of equals, who came first is served first.
func TestGateIsFairAmongEquals(t *testing.T) {
	inGate(t, 1, 1, 0, func(s *turnstile) {
		class := Class{Since: time.Now()}
		var want []string
		for i := range 10 {
			name := fmt.Sprint(i)
			s.come(s.t.Context(), name, class)
			want = append(want, name)
		}
		for i := range want {
			s.came(want[:i+1]...)
			s.leave(want[i])
		}
	})
}

func TestGateBound(t *testing.T) {
	inGate(t, 3, 1, 0, func(s *turnstile) {
		for i := range 5 {
			s.come(s.t.Context(), fmt.Sprint(i), Class{Since: time.Now()})
		}
		s.came("0", "1", "2")
		s.leave("1")
		s.came("0", "1", "2", "3")
	})
}

// Whoever may have to run first does not wait for those who wait for it.
func TestGateCriticalPlaces(t *testing.T) {
	inGate(t, 2, 1, 0, func(s *turnstile) {
		critical := Class{Critical: true, Since: time.Now()}
		for i := range 50 {
			s.come(s.t.Context(), fmt.Sprint(i), Class{Priority: 1e6})
		}
		s.came("0", "1")
		s.come(s.t.Context(), "agent", critical)
		s.came("0", "1", "agent")
		// And the other way round: critical pods take no ordinary place.
		s.come(s.t.Context(), "proxy", critical)
		s.came("0", "1", "agent")
		s.leave("0")
		s.came("0", "1", "agent", "2")
		s.leave("agent")
		s.came("0", "1", "agent", "2", "proxy")
	})
}

func TestGateCancel(t *testing.T) {
	inGate(t, 1, 1, 0, func(s *turnstile) {
		ctx, cancel := context.WithCancel(s.t.Context())
		s.come(s.t.Context(), "first", Class{})
		s.come(ctx, "leaves", Class{Priority: 9})
		s.come(s.t.Context(), "stays", Class{})
		cancel()
		synctest.Wait()
		if err := s.errs["leaves"]; !errors.Is(err, context.Canceled) {
			s.t.Fatalf("a caller that gave up got %v", err)
		}
		s.leave("first")
		s.came("first", "stays")
	})
}

// A place that is given to a caller at the moment that it gives up goes to the
// next, however the two meet.
func TestGateCancelHandsPlaceOn(t *testing.T) {
	for range 200 {
		inGate(t, 1, 1, 0, func(s *turnstile) {
			ctx, cancel := context.WithCancel(s.t.Context())
			s.come(s.t.Context(), "first", Class{})
			s.come(ctx, "wavers", Class{Priority: 9})
			s.come(s.t.Context(), "next", Class{})
			first := s.leaves["first"]
			delete(s.leaves, "first")
			go cancel()
			go first()
			synctest.Wait()
			if s.leaves["wavers"] != nil {
				s.leave("wavers")
			}
			if s.leaves["next"] == nil {
				s.t.Fatal("the place was lost")
			}
			s.leave("next")
			s.come(s.t.Context(), "last", Class{})
			if s.leaves["last"] == nil {
				s.t.Fatal("the place did not come back")
			}
		})
	}
}

func TestGateCancelledBeforeItCame(t *testing.T) {
	inGate(t, 1, 1, 0, func(s *turnstile) {
		s.come(s.t.Context(), "first", Class{})
		ctx, cancel := context.WithCancel(s.t.Context())
		cancel()
		s.come(ctx, "never", Class{})
		s.leave("first")
		s.come(s.t.Context(), "second", Class{})
		s.came("first", "second")
	})
}

func TestGateSlowCallGivesItsPlaceUp(t *testing.T) {
	inGate(t, 1, 1, 8, func(s *turnstile) {
		s.come(s.t.Context(), "slow", Class{})
		s.come(s.t.Context(), "next", Class{})
		time.Sleep(slowAfter - time.Nanosecond)
		synctest.Wait()
		s.came("slow")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		s.came("slow", "next")
		// Coming back, the slow one gives no place a second time.
		s.come(s.t.Context(), "third", Class{})
		s.leave("slow")
		s.came("slow", "next")
		s.leave("next")
		s.came("slow", "next", "third")
	})
}

// Calls that hang fill the slow set, then the gate: what hangs is bounded.
func TestGateSlowSetIsBounded(t *testing.T) {
	const places, slow = 2, 3
	inGate(t, places, 1, slow, func(s *turnstile) {
		for i := range 20 {
			s.come(s.t.Context(), fmt.Sprint(i), Class{})
			time.Sleep(time.Millisecond) // no two are late at the same moment
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		s.came("0", "1", "2", "3", "4")
		// One of those that hang ends: its room in the slow set is for one
		// that still holds a place of the gate.
		s.leave("0")
		time.Sleep(time.Minute)
		synctest.Wait()
		s.came("0", "1", "2", "3", "4", "5")
	})
}

// Critical calls that hang do not keep other critical ones out either.
func TestGateSlowCriticalCall(t *testing.T) {
	inGate(t, 1, 1, 8, func(s *turnstile) {
		critical := Class{Critical: true}
		s.come(s.t.Context(), "hangs", critical)
		s.come(s.t.Context(), "waits", critical)
		time.Sleep(slowAfter)
		synctest.Wait()
		s.came("hangs", "waits")
	})
}
