package preflight

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// checkCgroupVersion finds out which cgroup version the machine has. Only the
// root of a unified hierarchy holds cgroup.controllers; in hybrid mode it is
// one level down, beside the v1 hierarchies (kernel cgroup-v2 document).
func checkCgroupVersion(_ context.Context, cfg *Config, r *Report) error {
	_, err := os.Stat(filepath.Join(cfg.Root, "sys/fs/cgroup/cgroup.controllers"))
	r.CgroupV2 = err == nil
	if r.CgroupV2 {
		return nil
	}
	var problems []error
	if cfg.FailCgroupV1 {
		problems = append(problems, errors.New("this machine has cgroup v1: boot it with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false"))
	} else {
		r.warn("this machine has cgroup v1, which Kubernetes will not support for much longer")
	}
	if cfg.LimitedSwap {
		problems = append(problems, errors.New("memorySwap.swapBehavior LimitedSwap needs cgroup v2"))
	}
	if cfg.SingleProcessOOMKill != nil && !*cfg.SingleProcessOOMKill {
		problems = append(problems, errors.New("singleProcessOOMKill: false needs cgroup v2"))
	}
	return errors.Join(problems...)
}
