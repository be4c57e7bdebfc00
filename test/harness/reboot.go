package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// switchOff ends what the pods and their runtime have running, and then takes
// away what a machine that is switched off does not keep: mounts, networks,
// /run. The files on disk stay. ROOT is the cgroup of the node's pods.
const switchOff = `set -e
for p in /proc/[0-9]*; do
  case "$(cat "$p/comm" 2>/dev/null)" in containerd-shim*) kill -KILL "${p#/proc/}" 2>/dev/null || true;; esac
done
for n in $(seq 200); do
  procs=$(find /sys/fs/cgroup/*/"$ROOT" /sys/fs/cgroup/"$ROOT" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u)
  test -n "$procs" || break
  kill -KILL $procs 2>/dev/null || true
  sleep 0.05
done
tac /proc/self/mountinfo | cut -d' ' -f5 |
  grep -E '^(/var/lib/kubelet/pods|/var/lib/containerd|/run/containerd|/run/netns)/' | xargs -r -n1 umount -l
rm -rf /run/containerd /run/netns /run/cni-ipam
mkdir -p /run/containerd /run/netns
ip link delete cni0 2>/dev/null || true
`

// Reboot does to the node's pods and runtime what switching a machine off and
// on does, and starts containerd again. No kubelet may run meanwhile; the
// control plane, if there is one, goes on as if it were elsewhere. The boot ID
// is the machine's and stays: a file mounted over it would keep user
// namespaces from mounting their /proc.
func (n *Node) Reboot(ctx context.Context) error {
	if n.bare {
		return errors.New("reboot node: it is the machine itself")
	}
	n.KillContainerd()
	if out, err := n.Run(ctx, "/bin/sh", "-c", "ROOT="+filepath.Base(n.cgroupRoot)+"\n"+switchOff); err != nil {
		return fmt.Errorf("switch node off: %w: %s", err, out)
	}
	err := Until(ctx, 10*time.Second, "the cgroups of pods to go", func(context.Context) error { return n.removePodCgroups() })
	if err != nil {
		return err
	}
	return n.StartContainerd(ctx)
}

// removePodCgroups removes what is below the node's cgroup.
func (n *Node) removePodCgroups() error {
	var all error
	for _, top := range cgroupHierarchies() {
		entries, err := os.ReadDir(filepath.Join(top, n.cgroupRoot))
		if err != nil {
			return fmt.Errorf("list cgroups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() {
				all = errors.Join(all, removeTree(filepath.Join(top, n.cgroupRoot, e.Name())))
			}
		}
	}
	if errors.Is(all, unix.EBUSY) {
		return fmt.Errorf("a process is not gone yet: %w", all)
	}
	return all
}

// ForgetPods takes all records of pods from the runtime, as if it had been set
// up anew; their images stay.
func (n *Node) ForgetPods(ctx context.Context) error {
	sandboxes, err := n.Sandboxes(ctx, "", "")
	if err != nil {
		return err
	}
	for _, s := range sandboxes {
		if err := n.removeSandbox(ctx, s.Id); err != nil {
			return err
		}
	}
	return nil
}
