package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// initEnv carries initConfig to the program when it is started as the first
// process of a node.
const initEnv = "KUBELET_TEST_NODE_INIT"

type initConfig struct {
	Hostname string
	Address  string // of the node, with prefix length
	Gateway  string
	// PureV1 hides the unified hierarchy that lies beside those of cgroup v1:
	// crun refuses to run if it has controllers.
	PureV1 bool
}

// RunIfInit turns the program into the first process of a node if it was
// started as one; then it never returns.
func RunIfInit() {
	text, ok := os.LookupEnv(initEnv)
	if !ok {
		return
	}
	var c initConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		fatal(fmt.Errorf("read %s: %w", initEnv, err))
	}
	// Set-up and reaping may run at the same time: nothing is started here.
	if err := setUpNode(c); err != nil {
		fatal(err)
	}
	// The test waits for this byte on the third descriptor.
	ready := os.NewFile(3, "ready")
	if _, err := ready.Write([]byte{1}); err != nil {
		fatal(err)
	}
	ready.Close()
	go reap()
	// The other end of the standard input is the test's. When the test ends,
	// however it ends, the pipe closes and the kernel kills all of the node.
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "node init:", err)
	os.Exit(1)
}

func reap() {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, unix.SIGCHLD)
	for range signals {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
				break
			}
		}
	}
}

func setUpNode(c initConfig) error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := setUpMounts(); err != nil {
		return err
	}
	if c.PureV1 {
		if err := unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("hide the unified cgroup hierarchy: %w", err)
		}
	}
	return setUpNetwork(c)
}

// setUpMounts gives the node folders of its own where a node keeps its state,
// and an /etc that it may write to.
func setUpMounts() error {
	mount := func(source, target, kind string, flags uintptr, data string) error {
		if err := unix.Mount(source, target, kind, flags, data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", kind, target, err)
		}
		return nil
	}
	// Mounts made here stay here; mounts made on the machine are still seen.
	if err := mount("", "/", "propagation", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/var/lib", "/var/log"} {
		if err := mount("node", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return err
		}
	}
	const upper, work = "/run/.etc/upper", "/run/.etc/work"
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return fmt.Errorf("make layers of /etc: %w", err)
	}
	if err := mount("etc", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+upper+",workdir="+work); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	// As on a machine under systemd: containers see later mounts of the node.
	if err := mount("", "/", "propagation", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	return fillDirectories()
}

// fillDirectories makes the folders and files that a node has before its first
// program starts.
func fillDirectories() error {
	for _, dir := range []string{
		"/run/lock", "/run/containerd", "/run/netns", "/var/lib/kubelet", "/var/lib/containerd", cniBin,
		"/var/lib/etcd", "/var/log/pods", "/var/log/containers", "/etc/kubernetes/manifests", "/etc/cni/net.d",
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	// The machine's may be a link into a folder that is hidden now.
	if err := os.Remove("/etc/resolv.conf"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace resolv.conf: %w", err)
	}
	if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver 10.70.0.53\nsearch node.example\noptions ndots:2\n"), 0o644); err != nil {
		return fmt.Errorf("write resolv.conf: %w", err)
	}
	plugins, err := filepath.Glob("/usr/lib/cni/*")
	if err != nil || len(plugins) == 0 {
		return errors.New("no CNI plugins in /usr/lib/cni; run test/setup/deps.sh")
	}
	for _, p := range plugins {
		if err := os.Symlink(p, filepath.Join(cniBin, filepath.Base(p))); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link CNI plugin: %w", err)
		}
	}
	return nil
}

// setUpBare makes the machine itself the node. A second node of the same
// machine, after the first has ended, finds most of it there.
func setUpBare(c initConfig) error {
	if err := fillDirectories(); err != nil {
		return err
	}
	if _, err := netlink.LinkByName("node0"); err == nil {
		return nil
	}
	return setUpNetwork(c)
}

// setUpNetwork makes a bridge that holds the node's address. Nothing is
// plugged into it: what leaves the node is dropped there.
func setUpNetwork(c initConfig) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "node0"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make bridge node0: %w", err)
	}
	addr, err := netlink.ParseAddr(c.Address)
	if err != nil {
		return fmt.Errorf("parse node address: %w", err)
	}
	if err := netlink.AddrAdd(bridge, addr); err != nil {
		return fmt.Errorf("add address to node0: %w", err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set node0 up: %w", err)
	}
	route := &netlink.Route{LinkIndex: bridge.Attrs().Index, Gw: net.ParseIP(c.Gateway)}
	if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}
