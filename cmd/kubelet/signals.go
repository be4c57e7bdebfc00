package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"
)

// signalContext returns a context that SIGTERM or SIGINT ends. A second one
// ends the process at once. SIGHUP, which a closing terminal sends, is noted
// and otherwise ignored: the configuration is read at start only.
func signalContext(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		for received := range signals {
			switch {
			case received == syscall.SIGHUP:
				klog.FromContext(ctx).Info("Ignoring SIGHUP, the configuration is read at start only")
			case ctx.Err() == nil:
				klog.FromContext(ctx).Info("Ending, a second signal ends at once", "signal", received.String())
				cancel()
			default:
				klog.Flush()
				os.Exit(128 + int(received.(syscall.Signal)))
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel()
	}
}
