package preflight

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// checkOpenFiles raises the limit of open files. A refusal is a warning: the
// kubelet works with what it has.
func checkOpenFiles(_ context.Context, cfg *Config, r *Report) error {
	if cfg.MaxOpenFiles <= 0 {
		return nil
	}
	if got, err := cfg.setOpenFiles(uint64(cfg.MaxOpenFiles)); err != nil {
		r.warn("maxOpenFiles %d is refused (%v), the limit is %d", cfg.MaxOpenFiles, err, got)
	}
	return nil
}

// setOpenFiles sets both limits to want, or, if that is not allowed, the soft
// one to the hard one. It returns the soft limit in the end.
func setOpenFiles(want uint64) (uint64, error) {
	refused := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: want, Max: want})
	if refused == nil {
		return want, nil
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, refused
	}
	raised := unix.Rlimit{Cur: min(want, limit.Max), Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
		return limit.Cur, refused
	}
	return raised.Cur, refused
}

// checkOOMScore makes the kubelet a later or earlier victim of the kernel's
// OOM killer. Lowering the score needs CAP_SYS_RESOURCE (proc_pid_oom_score_adj(5)),
// which a kubelet in a container may lack: a warning.
func checkOOMScore(_ context.Context, cfg *Config, r *Report) error {
	path := filepath.Join(cfg.Root, "proc/self/oom_score_adj")
	if err := os.WriteFile(path, []byte(strconv.Itoa(int(cfg.OOMScoreAdj))), 0); err != nil {
		r.warn("%v", fmt.Errorf("oomScoreAdj %d is refused: %w", cfg.OOMScoreAdj, reason(err)))
	}
	return nil
}
