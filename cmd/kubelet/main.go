// Command kubelet runs the pods of one node.
//
// Exit codes: 0 after a clean end, 1 if the kubelet failed, 2 if command line
// or configuration are wrong (upstream: 1), 128 plus the signal's number if a
// second signal cut the end short.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/component-base/logs"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"

	"kubelet/internal/agent"
	"kubelet/internal/config"
	"kubelet/internal/explain"
)

const (
	exitClean  = 0
	exitFailed = 1
	exitUsage  = 2
)

// command is a word that may stand first on the command line. Without one the
// kubelet itself runs.
type command struct {
	name string
	run  func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

// commands lists them.
func commands() []command {
	return []command{
		{"explain", func(_ context.Context, args []string, stdout, stderr io.Writer) int {
			return explain.Command(args, stdout, stderr)
		}},
		{"standalone", runStandalone},
	}
}

func main() {
	ctx, stop := signalContext(context.Background())
	code := dispatch(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func dispatch(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		for _, c := range commands() {
			if args[0] == c.name {
				return c.run(ctx, args[1:], stdout, stderr)
			}
		}
	}
	cfg, code := parse(args, stdout, stderr)
	if cfg == nil {
		return code
	}
	return start(ctx, cfg, stderr)
}

// parse reads the configuration. It returns none if the command ends here,
// with the exit code.
func parse(args []string, stdout, stderr io.Writer) (*config.Config, int) {
	cfg, err := config.Parse(args)
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "%v\nkubelet: the configuration is wrong (kubelet --help lists the flags)\n", err)
		return nil, exitUsage
	case cfg.Flags.Help:
		fmt.Fprint(stdout, config.Usage())
		return nil, exitClean
	case cfg.Flags.Version == config.RawVersion:
		fmt.Fprintf(stdout, "%#v\n", version.Get())
		return nil, exitClean
	case cfg.Flags.Version == config.ShortVersion:
		fmt.Fprintf(stdout, "Kubernetes %s\n", version.Get())
		return nil, exitClean
	}
	return cfg, exitClean
}

// start sets up logging and runs the agent until ctx ends.
func start(ctx context.Context, cfg *config.Config, stderr io.Writer) int {
	if err := setUpLogging(cfg, nil); err != nil {
		fmt.Fprintf(stderr, "set up logging: %v\n", err)
		return exitFailed
	}
	defer logs.FlushLogs()
	logger := klog.FromContext(ctx)
	logger.Info("Kubelet version", "kubeletVersion", version.Get())
	logEffective(logger, cfg)

	err := agent.Run(ctx, cfg)
	if err != nil && !errors.Is(err, context.Canceled) {
		logger.Error(err, "Kubelet failed")
		return exitFailed
	}
	return exitClean
}
