package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"k8s.io/component-base/logs"
	"k8s.io/klog/v2"

	"kubelet/internal/agent"
	"kubelet/internal/config"
	"kubelet/internal/standalone"
)

// runStandalone is `kubelet standalone`.
func runStandalone(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	options, err := standalone.ParseOptions(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitClean
	case err != nil:
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	defer logs.FlushLogs()
	err = standalone.Run(ctx, options, func(ctx context.Context, args []string) (standalone.Agent, error) {
		cfg, err := config.Parse(args)
		if err != nil {
			return nil, err
		}
		var log io.Writer
		if options.Table {
			if log, err = os.OpenFile(filepath.Join(options.Dir, "kubelet.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
				return nil, fmt.Errorf("open log: %w", err)
			}
		}
		if err := setUpLogging(cfg, log); err != nil {
			return nil, fmt.Errorf("set up logging: %w", err)
		}
		logEffective(klog.FromContext(ctx), cfg)
		return agent.New(ctx, cfg)
	})
	if err != nil {
		fmt.Fprintf(stderr, "kubelet standalone: %v\n", err)
		return exitFailed
	}
	return exitClean
}
