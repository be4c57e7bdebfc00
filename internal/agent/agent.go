// Package agent is the composition root: it builds every part in plain sight
// and runs them in order.
package agent

import (
	"context"
	"errors"

	"kubelet/internal/config"
)

// Run runs the kubelet until ctx ends.
func Run(ctx context.Context, cfg *config.Config) error {
	return errors.New("run agent: not wired")
}
