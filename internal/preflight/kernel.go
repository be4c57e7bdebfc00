package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// kernelSetting is a sysctl that the kubelet depends on.
type kernelSetting struct {
	path  string // below /proc/sys
	value string
	why   string
}

func (s kernelSetting) name() string { return strings.ReplaceAll(s.path, "/", ".") }

// kernelSettings are upstream's, for the same reasons.
func kernelSettings() []kernelSetting {
	return []kernelSetting{
		{"vm/overcommit_memory", "1", "an allocation must not fail because of others' reservations"},
		{"vm/panic_on_oom", "0", "out of memory must kill a process, not the node"},
		{"kernel/panic", "10", "a node that panicked must come back"},
		{"kernel/panic_on_oops", "1", "a node with a broken kernel must not go on"},
		{"kernel/keys/root_maxkeys", "1000000", "each container has a session keyring of root's"},
		{"kernel/keys/root_maxbytes", "25000000", "each container has a session keyring of root's"},
	}
}

// checkKernelSettings sets what differs, or refuses it if the defaults are
// protected.
func checkKernelSettings(_ context.Context, cfg *Config, r *Report) error {
	var problems []error
	for _, s := range kernelSettings() {
		if err := checkKernelSetting(cfg, r, s); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func checkKernelSetting(cfg *Config, r *Report, s kernelSetting) error {
	path := filepath.Join("proc/sys", s.path)
	value, err := readLine(cfg.Root, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.warn("this kernel has no %s", s.name())
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", s.name(), reason(err))
	case value == s.value:
		return nil
	case cfg.ProtectKernelDefaults:
		return fmt.Errorf("%s is %s, must be %s (%s): set it with sysctl, or set protectKernelDefaults: false", s.name(), value, s.value, s.why)
	}
	return setKernelSetting(cfg, r, s, value)
}

func setKernelSetting(cfg *Config, r *Report, s kernelSetting, value string) error {
	err := os.WriteFile(filepath.Join(cfg.Root, "proc/sys", s.path), []byte(s.value), 0)
	switch {
	case err == nil:
		return nil
	case r.UserNamespace && cfg.TolerateUserNamespace:
		r.warn("%s is %s, should be %s, and cannot be set in a user namespace: %v", s.name(), value, s.value, reason(err))
		return nil
	case r.UserNamespace:
		return fmt.Errorf("set %s from %s to %s: %w (the feature gate KubeletInUserNamespace makes this a warning)", s.name(), value, s.value, reason(err))
	}
	return fmt.Errorf("set %s from %s to %s: %w", s.name(), value, s.value, reason(err))
}
