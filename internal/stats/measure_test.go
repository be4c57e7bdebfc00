package stats

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestMeasurementIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m measurements[int]
		n := 0
		get := func() (int, bool) {
			v, _, ok := m.measured(t.Context(), "x", time.Minute, func() (int, error) { n++; return n, nil })
			return v, ok
		}
		for _, c := range []struct {
			after time.Duration
			want  int
		}{
			{0, 1},
			{59 * time.Second, 1},
			// Old, but not so old that it is worth waiting: the next question
			// gets what this one began to measure.
			{30 * time.Second, 1},
			{time.Second, 2},
			{time.Hour, 3}, // too old to be shown
		} {
			time.Sleep(c.after)
			if v, ok := get(); !ok || v != c.want {
				t.Errorf("after %v: %d, %t; want %d", c.after, v, ok, c.want)
			}
			synctest.Wait()
		}
	})
}

// A thing that takes long to measure is measured seldom.
func TestSlowMeasurementIsSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m measurements[int]
		n := 0
		for range 100 {
			<-orClosed(m.ask("x", time.Second, func() (int, error) { n++; time.Sleep(3 * time.Second); return n, nil }))
			time.Sleep(6 * time.Second)
		}
		synctest.Wait()
		// 600 s and more, in which 3 s of work may come once in 60 s.
		if n < 5 || n > 11 {
			t.Errorf("measured %d times", n)
		}
	})
}

func orClosed(c <-chan struct{}) <-chan struct{} {
	if c != nil {
		return c
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// What hangs takes nobody's place for long, is asked once, and does not keep
// the others from being measured; its last value is shown for a while.
func TestHangingMeasurements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m measurements[string]
		var hanging atomic.Int32
		release := make(chan struct{})
		hang := func() (string, error) { hanging.Add(1); <-release; return "late", nil }
		if v, _, ok := m.measured(t.Context(), "nfs0", time.Minute, func() (string, error) { return "early", nil }); !ok || v != "early" {
			t.Fatal(v, ok)
		}
		time.Sleep(5 * time.Minute)
		for range 3 {
			for i := range 5 {
				m.ask(fmt.Sprint("nfs", i), time.Minute, hang)
			}
			time.Sleep(time.Minute)
		}
		if n := hanging.Load(); n != 5 {
			t.Errorf("%d calls hang, want one for each of 5", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if v, _, ok := m.measured(ctx, "disk", time.Minute, func() (string, error) { return "good", nil }); !ok || v != "good" {
			t.Errorf("beside them: %q, %t", v, ok)
		}
		if v, _, ok := m.measured(ctx, "nfs0", time.Minute, hang); !ok || v != "early" {
			t.Errorf("last value: %q, %t", v, ok)
		}
		time.Sleep(measureForget)
		if v, _, ok := m.get("nfs0"); ok {
			t.Errorf("%q is shown for good", v)
		}
		close(release)
		synctest.Wait()
		if v, _, ok := m.get("nfs4"); !ok || v != "late" || m.running != 0 || m.beside != 0 {
			t.Errorf("after the end: %q, %t, %d running, %d beside", v, ok, m.running, m.beside)
		}
	})
}

// However many things hang, only so many goroutines do.
func TestHangingMeasurementsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m measurements[int]
		var hanging atomic.Int32
		release := make(chan struct{})
		for i := range 100 {
			m.ask(fmt.Sprint(i), time.Minute, func() (int, error) { hanging.Add(1); <-release; return 0, nil })
		}
		time.Sleep(time.Hour)
		if n := hanging.Load(); n > measureHanging+measuring {
			t.Errorf("%d hang at once", n)
		}
		close(release)
		synctest.Wait()
		if n := hanging.Load(); n != 100 {
			t.Errorf("%d of 100 were measured in the end", n)
		}
	})
}

func TestFailedMeasurementHasNoValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m measurements[int]
		if _, _, ok := m.measured(t.Context(), "x", time.Minute, func() (int, error) { return 1, errors.New("gone") }); ok {
			t.Error("a value in spite of the error")
		}
		time.Sleep(measureForget + time.Second)
		m.forget()
		if len(m.entries) != 0 {
			t.Errorf("%d entries are kept of what nobody asks for", len(m.entries))
		}
	})
}
