package harness

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// permanent is an error that waiting will not mend.
type permanent struct{ error }

// Permanent marks an error that ends a wait at once.
func Permanent(err error) error { return permanent{err} }

// Until asks again and again, every 30 ms, until check returns nil. It is for
// what cannot be watched: files, cgroups, the container runtime.
func Until(ctx context.Context, timeout time.Duration, what string, check func(context.Context) error) error {
	start := time.Now()
	// A check that is under way when time is up may still say how things are.
	ctx, cancel := context.WithTimeout(ctx, timeout+10*time.Second)
	defer cancel()
	ticker := time.NewTicker(30 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check(ctx)
		var stop permanent
		switch {
		case err == nil:
			return nil
		case errors.As(err, &stop):
			return fmt.Errorf("waiting for %s: %w", what, stop.error)
		case time.Since(start) > timeout || ctx.Err() != nil:
			return fmt.Errorf("waited %s for %s; last: %w", since(start), what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s; last: %w", since(start), what, err)
		case <-ticker.C:
		}
	}
}
