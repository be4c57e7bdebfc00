package preflight

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// LeaveUnit moves a child of this process out of the systemd service that the
// process runs in, into a scope of its own. With the default
// KillMode=control-group systemd ends all that is left in a service's cgroup
// when its main process has died (systemd.kill(5)). The scope ends with the
// child. Outside a service nothing is to be done.
func LeaveUnit(ctx context.Context, pid int) error {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("read own cgroup: %w", err)
	}
	if !inService(string(own)) {
		return nil
	}
	if running, err := systemdRunning(); err != nil || !running {
		return err
	}
	bus, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("connect to systemd: %w", err)
	}
	defer bus.Close()
	done := make(chan string, 1)
	name := fmt.Sprintf("kubelet-child-%d.scope", pid)
	_, err = bus.StartTransientUnitContext(ctx, name, "replace", []dbus.Property{
		dbus.PropDescription("Child of the kubelet that outlives it"),
		{Name: "PIDs", Value: godbus.MakeVariant([]uint32{uint32(pid)})},
	}, done)
	if err != nil {
		return fmt.Errorf("start unit %s: %w", name, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("start unit %s: job ended as %q", name, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("start unit %s: %w", name, ctx.Err())
	}
}

// inService says whether a process's cgroups (cgroups(7), /proc/PID/cgroup)
// are a systemd service: on version 2 its only one, on version 1 that of the
// hierarchy name=systemd.
func inService(cgroups string) bool {
	for line := range strings.Lines(cgroups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || parts[1] != "" && parts[1] != "name=systemd" {
			continue
		}
		if strings.Contains(parts[2]+"/", ".service/") {
			return true
		}
	}
	return false
}

// systemdRunning is sd_booted(3).
func systemdRunning() (bool, error) {
	info, err := os.Lstat("/run/systemd/system")
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.IsDir(), err
}
