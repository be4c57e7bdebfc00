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
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	ticker := time.NewTicker(30 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		err := check(ctx)
		if ctx.Err() == nil || last == nil {
			last = err // what it says once time is up is only that
		}
		var stop permanent
		switch {
		case err == nil:
			return nil
		case errors.As(err, &stop):
			return fmt.Errorf("waiting for %s: %w", what, stop.error)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s; last: %w", since(start), what, last)
		case <-ticker.C:
		}
	}
}
