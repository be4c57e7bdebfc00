package lifecycle

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
)

// Fewer starts at once as more tasks wait for a processor; never none, never
// more than the cores are good for.
func TestStartsAtOnce(t *testing.T) {
	tests := []struct {
		stalled, runnable float64
		most, want        int
	}{
		{stalled: 0, most: 4, want: 4},
		{stalled: 75, most: 4, want: 4}, // a batch of starts does as much itself
		{stalled: 85, most: 4, want: 2},
		{stalled: 95, most: 4, want: 1},
		{stalled: 100, most: 4, want: 1},
		{stalled: 90, most: 32, want: 13},
		{stalled: 100, most: 1, want: 1},
		// Without PSI, by the tasks per core.
		{stalled: -1, runnable: 0, most: 4, want: 4},
		{stalled: -1, runnable: 3, most: 4, want: 4},
		{stalled: -1, runnable: 5, most: 4, want: 3},
		{stalled: -1, runnable: 9, most: 4, want: 1},
		{stalled: -1, runnable: 500, most: 4, want: 1},
		// Neither is known.
		{stalled: -1, runnable: -1, most: 4, want: 4},
	}
	for _, tt := range tests {
		if got := startsAtOnce(Pressure{tt.stalled, tt.runnable}, tt.most); got != tt.want {
			t.Errorf("stalled %v %%, %v runnable a core, of %d: %d at once, want %d", tt.stalled, tt.runnable, tt.most, got, tt.want)
		}
	}
}

func FuzzPressure(f *testing.F) {
	f.Add([]byte("some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00"), []byte("0.20 0.18 0.12 3/80 11206"))
	f.Add([]byte("some avg10=NaN"), []byte("1 2 3 /"))
	f.Add([]byte("some avg10=-1"), []byte(""))
	f.Fuzz(func(t *testing.T, psi, loadavg []byte) {
		p := Pressure{parseStalled(psi), parseRunnable(loadavg)}
		if math.IsNaN(p.Stalled) || math.IsNaN(p.Runnable) || p.Stalled < 0 && p.Stalled != -1 || p.Runnable < 0 && p.Runnable != -1 {
			t.Errorf("%q, %q: %+v", psi, loadavg, p)
		}
		if n := startsAtOnce(p, 4); n < 1 || n > 4 {
			t.Errorf("%+v: %d starts at once", p, n)
		}
	})
}

func TestReadPressure(t *testing.T) {
	if got := parseStalled([]byte("some avg10=12.34 avg60=0.00 avg300=0.00 total=1\n")); got != 12.34 {
		t.Errorf("PSI: %v", got)
	}
	if got := parseRunnable([]byte("0.20 0.18 0.12 3/80 11206\n")); got != 2 {
		t.Errorf("load: %v", got)
	}
	if p := ReadPressure(); p.Stalled < 0 && p.Runnable < 0 {
		t.Errorf("this machine says nothing: %+v", p)
	}
}

// The gate narrows when a start asks, and widens when one leaves; pods on
// which others depend are not affected.
func TestGateFollowsPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := Pressure{Stalled: 100}
		s := newTurnstile(t, NewGate(4, 2, 8, func() Pressure { return now }))
		for i := range 6 {
			s.come(t.Context(), fmt.Sprintf("pod%d", i), Class{})
		}
		s.came("pod0")
		s.come(t.Context(), "agent1", Class{Critical: true})
		s.come(t.Context(), "agent2", Class{Critical: true})
		s.came("pod0", "agent1", "agent2")
		inside := func(want int, when string) {
			t.Helper()
			s.mu.Lock()
			defer s.mu.Unlock()
			if n := len(s.leaves); n != want {
				t.Errorf("%s: %d inside, want %d", when, n, want)
			}
		}
		now.Stalled = 10
		s.leave("agent1")
		inside(5, "pressure has gone")
		now.Stalled = 100
		s.leave("pod1")
		s.leave("pod2")
		inside(3, "pressure is back, nobody comes in for those that leave")
		s.leave("pod3")
		s.leave("pod0")
		inside(2, "one place is always there")
		s.leaveAll()
	})
}
