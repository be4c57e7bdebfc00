package preflight

import (
	"context"
	"errors"
	"strings"
)

// checkUser refuses to run as anybody but root, inside or outside of a user
// namespace: mounts, cgroups and other users' files need it.
func checkUser(_ context.Context, cfg *Config, _ *Report) error {
	if cfg.UID != 0 {
		return errors.New("the kubelet must run as root (in a user namespace: as its root)")
	}
	return nil
}

// inUserNamespace reports whether this process's user IDs are mapped. The
// initial namespace maps all of them to themselves (user_namespaces(7)).
func inUserNamespace(root string) bool {
	text, err := readLine(root, "proc/self/uid_map")
	if err != nil {
		return false // a kernel without user namespaces
	}
	fields := strings.Fields(text)
	return len(fields) != 3 || fields[0] != "0" || fields[1] != "0" || fields[2] != "4294967295"
}
