package bounded_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kubelet/internal/volume/bounded"
)

func TestHangingCallIsJoinedNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls bounded.Calls
		answer := make(chan error)
		var begun atomic.Int32
		hang := func() error { begun.Add(1); return <-answer }

		for i := range 3 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			err := calls.Do(ctx, "pod/volume", "stat /mnt/x", hang)
			cancel()
			want := []string{"stat /mnt/x hangs, for 1m0s now", "for 2m0s now", "for 3m0s now"}[i]
			if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want one with %q", err, want)
			}
		}
		if n := begun.Load(); n != 1 {
			t.Errorf("called %d times while the first hangs", n)
		}
		// Another key has its own call.
		if err := calls.Do(context.Background(), "other", "stat /mnt/y", func() error { return nil }); err != nil {
			t.Error(err)
		}

		cause := errors.New("stale file handle")
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if err := calls.Do(context.Background(), "pod/volume", "stat /mnt/x", hang); err != cause {
					t.Errorf("error %v, want the call's", err)
				}
			})
		}
		synctest.Wait()
		answer <- cause
		wg.Wait()
		if err := calls.Do(context.Background(), "pod/volume", "stat /mnt/x", func() error { return nil }); err != nil {
			t.Errorf("a new call after the end of the old one: %v", err)
		}
	})
}
