// Package preflight checks the machine before the kubelet starts, and sets the
// few things of it that the kubelet needs: kernel settings, its own limits,
// the iptables chains that other components look for. It also holds what ties
// the process to its surroundings: the lock file, and systemd's readiness and
// watchdog.
//
// It reads /proc, /sys and the iptables commands, writes /proc/sys, its own
// oom_score_adj and iptables chains, and keeps no state. Files are read under
// an injected root, so that each check is a function of a directory. What
// cannot be fixed by waiting is an error; what only degrades is a warning.
package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Config says what to check.
type Config struct {
	// Root is prepended to the paths that are read and written; "/" if empty.
	Root string
	// UID that the kubelet runs as.
	UID int

	FailSwapOn   bool
	FailCgroupV1 bool
	// LimitedSwap is memorySwap.swapBehavior LimitedSwap, which needs cgroup v2.
	LimitedSwap bool
	// SingleProcessOOMKill is the field of that name; false needs cgroup v2.
	SingleProcessOOMKill *bool
	// ProtectKernelDefaults refuses other kernel settings than the wanted
	// ones, instead of setting them.
	ProtectKernelDefaults bool
	// TolerateUserNamespace is the feature gate KubeletInUserNamespace.
	TolerateUserNamespace bool
	// MaxOpenFiles is the wanted limit; 0 leaves it.
	MaxOpenFiles int64
	// OOMScoreAdj of the kubelet itself, -1000 to 1000.
	OOMScoreAdj int32
	// IPTables says whether to keep the iptables chains.
	IPTables bool

	// run executes a command; os/exec unless a test says otherwise.
	run runner
	// setOpenFiles raises the limit; setrlimit(2) unless a test says otherwise.
	setOpenFiles func(want uint64) (got uint64, err error)
}

// Report is what was found out on the way.
type Report struct {
	// CgroupV2 is true on a machine with the unified hierarchy only.
	CgroupV2 bool
	// SwapOn is true if any swap device or file is in use.
	SwapOn bool
	// SwapTotal is the size of all of them, in bytes.
	SwapTotal int64
	// SwapController is true if the kernel accounts swap per cgroup.
	SwapController bool
	// TmpfsNoswap is true if tmpfs can be kept out of swap (mount option
	// noswap, Linux 6.4, not in a user namespace).
	TmpfsNoswap bool
	// UserNamespace is true if the kubelet does not run in the initial one.
	UserNamespace bool
	// Warnings are to be logged, one line each.
	Warnings []string
}

func (r *Report) warn(format string, args ...any) {
	r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
}

// Check runs all checks. The error joins everything that forbids a start, one
// line for each.
func Check(ctx context.Context, cfg Config) (Report, error) {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.run == nil {
		cfg.run = execute
	}
	if cfg.setOpenFiles == nil {
		cfg.setOpenFiles = setOpenFiles
	}
	var r Report
	r.UserNamespace = inUserNamespace(cfg.Root)
	var problems []error
	for _, check := range []func(context.Context, *Config, *Report) error{
		checkUser,
		checkCgroupVersion,
		checkSwap,
		checkSwapController,
		checkKernelSettings,
		checkOpenFiles,
		checkOOMScore,
		checkIPTables,
	} {
		if err := check(ctx, &cfg, &r); err != nil {
			problems = append(problems, err)
		}
	}
	return r, errors.Join(problems...)
}

// readLine reads a one-line file of /proc or /sys.
func readLine(root, path string) (string, error) {
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(data)), nil
}

// reason drops the operation and the path of an error, which are said anyway.
func reason(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		return pathErr.Err
	}
	return err
}
