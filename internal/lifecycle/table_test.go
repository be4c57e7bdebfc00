package lifecycle

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/cri"
	"kubelet/internal/observed"
)

// The first restart is immediate, then the delay doubles up to the cap; ten
// minutes of peace reset it. All that is known is what the dead container says.
func TestCrashPolicy(t *testing.T) {
	born := time.Unix(1000, 0)
	dead := func(delay string, lived time.Duration) *observed.Container {
		return &observed.Container{CreatedAt: born, FinishedAt: born.Add(lived), Annotations: map[string]string{cri.AnnotationRestartDelay: delay}}
	}
	usual := CrashPolicy{10 * time.Second, 300 * time.Second}
	tests := []struct {
		policy      CrashPolicy
		delay       string
		lived       time.Duration
		waits, next time.Duration
	}{
		{usual, "", time.Second, 0, 10 * time.Second},
		{usual, "10s", time.Second, 10 * time.Second, 20 * time.Second},
		{usual, "2m40s", time.Second, 160 * time.Second, 300 * time.Second},
		{usual, "5m0s", 9 * time.Minute, 300 * time.Second, 300 * time.Second},
		{usual, "5m0s", 11 * time.Minute, 0, 10 * time.Second},
		// The cap was lowered since, or is below the first delay.
		{CrashPolicy{10 * time.Second, time.Minute}, "5m0s", time.Second, time.Minute, time.Minute},
		{CrashPolicy{10 * time.Second, 2 * time.Second}, "", time.Second, 0, 2 * time.Second},
		{CrashPolicy{time.Second, time.Minute}, "1s", time.Second, time.Second, 2 * time.Second},
		// Nonsense, and what upstream made.
		{usual, "soon", time.Second, 0, 10 * time.Second},
		{usual, "-10s", time.Second, 0, 10 * time.Second},
		{usual, "87600h", time.Second, 300 * time.Second, 300 * time.Second},
	}
	for _, tt := range tests {
		c := dead(tt.delay, tt.lived)
		if got := tt.policy.delay(c); got != tt.waits {
			t.Errorf("%q, lived %s: waits %s, want %s", tt.delay, tt.lived, got, tt.waits)
		}
		if got := tt.policy.next(c); got != tt.next {
			t.Errorf("%q, lived %s: the next waits %s, want %s", tt.delay, tt.lived, got, tt.next)
		}
	}
}

// A hundred crashing containers take turns at an even pace, a quarter of a
// minute's at once; what is not used is not saved up.
func TestBudget(t *testing.T) {
	if NewBudget(0) != nil {
		t.Error("a budget of 0 is none")
	}
	b := NewBudget(60)
	now := time.Unix(100_000, 0)
	turns := func(n int) (at []time.Duration) {
		for range n {
			at = append(at, b.Reserve(now).Sub(now))
		}
		return at
	}
	first := turns(100)
	atOnce := 0
	for _, d := range first {
		if d == 0 {
			atOnce++
		}
	}
	if atOnce != 16 || first[99] != 84*time.Second || !slices.IsSorted(first) {
		t.Errorf("%d at once, the last after %s, want 16 and 84s", atOnce, first[99])
	}
	now = now.Add(time.Hour)
	if later := turns(17); later[15] != 0 || later[16] != time.Second {
		t.Errorf("an hour later: %v, want again 16 at once", later)
	}
}

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	j := NewJournal(func(uid types.UID) string { return filepath.Join(dir, string(uid)) })
	if lives, err := j.Read("u1"); lives != nil || err != nil {
		t.Errorf("no journal: %v, %v", lives, err)
	}
	want := map[string]Life{"c1": {Hooked: true}, "c2": {Started: true, Ready: true, Restart: true}}
	if err := j.Write(t.Context(), "u1", want); err == nil {
		t.Error("a journal made the directory of a pod that is gone")
	}
	if err := os.Mkdir(filepath.Join(dir, "u1"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := j.Write(t.Context(), "u1", want); err != nil {
		t.Fatal(err)
	}
	if lives, err := j.Read("u1"); err != nil || !maps.Equal(lives, want) {
		t.Errorf("read %v, %v; want %v", lives, err, want)
	}
	path := filepath.Join(dir, "u1", journalFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if lives, err := j.Read("u1"); err == nil || lives != nil || !strings.Contains(err.Error(), path) {
			t.Fatalf("cut after %d bytes: %v, %v", n, lives, err)
		}
	}
}
