package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The addresses are the same on every test node that joins no other: each has
// a network of its own.
const (
	NodeIP     = "10.70.0.2"
	gateway    = "10.70.0.1"
	nodePrefix = "/24"
	podNet     = "10.70.1.0/24"
	serviceNet = "10.96.0.0/16"

	// ClusterDNS is the address that pods are told to ask; nothing answers there.
	ClusterDNS = "10.96.0.10"

	// ManifestDir is where the kubelet looks for static pods.
	ManifestDir = "/etc/kubernetes/manifests"
	// registryConf is the folder that says where images are pulled from: a
	// folder named like the registry, with hosts.toml in it.
	registryConf = "/etc/containerd/certs.d"
	// CNIConf is the folder of the network configuration.
	CNIConf = "/etc/cni/net.d"
	// CNIBin is the folder of the network plugins.
	CNIBin = cniBin
	cniBin = "/var/lib/cni-bin"

	criSocket = "/run/containerd/containerd.sock"
)

// Config of a node.
type Config struct {
	// Name of the node; a DNS label that is unique in the test process.
	Name string
	// ControlPlane runs etcd, kube-apiserver, kube-controller-manager and
	// kube-scheduler on the node.
	ControlPlane bool
	// Containerd is "2.4" or "1.6"; empty means the CONTAINERD environment
	// variable, or "2.4".
	Containerd string
	// Runtime is the OCI runtime, runc or crun; RUNTIME of the environment, or
	// runc, if empty.
	Runtime string
	// Images are further image archives to load, paths on the machine.
	Images []string
	// SystemdCgroups makes containerd leave cgroups to systemd; the kubelet
	// must be told the same.
	SystemdCgroups bool
	// ControlOnly leaves containerd out: a node for the control plane alone.
	ControlOnly bool
	// Join is a node with a control plane to which this one is connected, as
	// another node of its cluster. Address is this node's then, another one
	// of NodeIP's network.
	Join    *Node
	Address string
	// Bare makes the machine itself the node, without namespaces: for a
	// virtual machine that lives as long as the test, where the init is the
	// real one.
	Bare bool
}

// Node is a running test node.
type Node struct {
	Name string
	// Containerd is the version in use, "2.4" or "1.6".
	Containerd string
	// OCIRuntime is what runs its containers, "runc" or "crun": the RUNTIME
	// environment variable, or "runc".
	OCIRuntime string
	// Runtime and Image are the node's container runtime.
	Runtime runtimeapi.RuntimeServiceClient
	Image   runtimeapi.ImageServiceClient
	// Cluster is nil without a control plane.
	Cluster *Cluster

	bare           bool
	systemdCgroups bool
	ip             string

	artifacts     string
	containerdBin string
	cgroupRoot    string // as the kubelet is told it
	init          *exec.Cmd
	lifeline      *os.File
	namespaces    []*os.File
	containerd    *Process
	criConn       *grpc.ClientConn
	features      *runtimeapi.RuntimeHandlerFeatures
}

// NewNode starts a node: namespaces, containerd with images and network, and
// the control plane if there shall be one. No kubelet runs yet.
func NewNode(ctx context.Context, c Config) (_ *Node, err error) {
	start := time.Now()
	version := first(c.Containerd, os.Getenv("CONTAINERD"), "2.4")
	n := &Node{Name: c.Name, Containerd: version, OCIRuntime: first(c.Runtime, os.Getenv("RUNTIME"), "runc"), bare: c.Bare, systemdCgroups: c.SystemdCgroups, ip: first(c.Address, NodeIP)}
	switch n.OCIRuntime {
	case "runc":
	case "crun":
		if _, err := os.Stat("/usr/bin/crun"); err != nil {
			return nil, fmt.Errorf("crun is missing, run test/setup/deps.sh crun: %w", err)
		}
	default:
		return nil, fmt.Errorf("unknown runtime %q: RUNTIME is runc or crun", n.OCIRuntime)
	}
	switch version {
	case "2.4":
		n.containerdBin = filepath.Join(CacheDir(), "containerd-2.4.2/bin")
	case "1.6":
		n.containerdBin = "/usr/bin"
	default:
		return nil, fmt.Errorf("unknown containerd version %q: CONTAINERD is 2.4 or 1.6", version)
	}
	if _, err := os.Stat(filepath.Join(n.containerdBin, "containerd")); err != nil {
		return nil, fmt.Errorf("containerd %s is missing, run test/setup/deps.sh: %w", version, err)
	}
	n.artifacts = filepath.Join(artifactsRoot(), c.Name)
	if err := os.MkdirAll(n.artifacts, 0o755); err != nil {
		return nil, fmt.Errorf("make artifacts folder: %w", err)
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if c.Bare {
		if err := setUpBare(initConfig{Address: n.ip + nodePrefix, Gateway: gateway}); err != nil {
			return nil, err
		}
	} else {
		if err := n.startInit(); err != nil {
			return nil, err
		}
		n.cgroupRoot = "/" + cgroupName(c.Name)
		if err := errors.Join(makeCgroup(n.cgroupRoot), n.makeAccount()); err != nil {
			return nil, err
		}
	}
	progress("node %s: namespaces ready after %s, its files are in %s", c.Name, since(start), n.artifacts)

	if c.Join != nil {
		if err := n.join(c.Join); err != nil {
			return nil, err
		}
	}
	// The control plane starts while containerd loads its images.
	ready := make(chan error, 1)
	if c.ControlPlane {
		go func() { ready <- n.startControlPlane(ctx) }()
	} else {
		ready <- nil
	}
	if !c.ControlOnly {
		if err := n.startRuntime(ctx, c.Images); err != nil {
			return nil, errors.Join(err, <-ready)
		}
		progress("node %s: containerd %s ready after %s", c.Name, version, since(start))
	}
	if err := <-ready; err != nil {
		return nil, err
	}
	if c.ControlPlane {
		progress("node %s: control plane ready after %s", c.Name, since(start))
	}
	return n, nil
}

// startInit starts the node's first process and opens its namespaces.
func (n *Node) startInit() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	config, err := json.Marshal(initConfig{Hostname: n.Name, Address: n.ip + nodePrefix, Gateway: gateway, PureV1: n.OCIRuntime == "crun"})
	if err != nil {
		return fmt.Errorf("encode init config: %w", err)
	}
	stdin, lifeline, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer stdin.Close()
	n.lifeline = lifeline
	readyR, readyW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer readyR.Close()
	out, err := os.Create(filepath.Join(n.artifacts, "init.log"))
	if err != nil {
		return fmt.Errorf("make init log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), initEnv+"="+string(config))
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, out
	cmd.ExtraFiles = []*os.File{readyW}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true, // a Ctrl-C at the terminal is for the test only
	}
	if err := cmd.Start(); err != nil {
		readyW.Close()
		return fmt.Errorf("start node (are namespaces allowed here?): %w", err)
	}
	readyW.Close()
	n.init = cmd
	if k, err := readyR.Read(make([]byte, 1)); k != 1 {
		text, _ := os.ReadFile(out.Name())
		return fmt.Errorf("set up node: %w: %s", err, text)
	}
	// The PID namespace comes last but one and the mount namespace last: the
	// paths of the others are looked up in the machine's.
	for _, kind := range []string{"net", "uts", "ipc", "pid", "mnt"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", cmd.Process.Pid, kind))
		if err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		n.namespaces = append(n.namespaces, f)
	}
	return nil
}

// Close ends the node and removes what it left on the machine.
func (n *Node) Close() {
	if n.criConn != nil {
		n.criConn.Close()
	}
	if n.bare && n.containerd != nil {
		n.containerd.Stop(10 * time.Second)
	}
	if n.init != nil {
		n.lifeline.Close()
		_ = n.init.Process.Kill()
		_ = n.init.Wait()
	}
	for _, f := range n.namespaces {
		f.Close()
	}
	if n.cgroupRoot != "" {
		if err := errors.Join(removeCgroup(n.cgroupRoot), removeCgroup(n.accountName())); err != nil {
			progress("node %s: %v", n.Name, err)
		}
	}
}

// Path is where the test finds a file of the node.
func (n *Node) Path(path string) string {
	if n.bare {
		return path
	}
	return filepath.Join("/proc", strconv.Itoa(n.init.Process.Pid), "root", path)
}

// OwnUsers says whether the runtime has user namespaces.
func (n *Node) OwnUsers() bool { return n.features.GetUserNamespaces() }

// RecursiveReadOnly says whether the runtime has recursively read-only mounts.
func (n *Node) RecursiveReadOnly() bool { return n.features.GetRecursiveReadOnlyMounts() }

// IP is the node's address.
func (n *Node) IP() string { return n.ip }

// Artifacts is the folder on the machine with the logs of the node's programs.
func (n *Node) Artifacts() string { return n.artifacts }

// CgroupRoot is the cgroupRoot that the node's kubelet is configured with;
// empty for the machine's own.
func (n *Node) CgroupRoot() string { return n.cgroupRoot }

// WriteFile writes a file of the node, in place.
func (n *Node) WriteFile(path, text string, mode os.FileMode) error {
	full := n.Path(path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(full, []byte(text), mode); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// HTTPClient is a client on the node. Addresses must be literal.
func (n *Node) HTTPClient() *http.Client {
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true},
	}
}

// Shell is the command by which a person enters the node.
func (n *Node) Shell() string {
	return fmt.Sprintf("nsenter -t %d --net --uts --ipc --pid --mount sh", n.init.Process.Pid)
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func since(t time.Time) time.Duration { return time.Since(t).Round(10 * time.Millisecond) }

// progress prints a line about a step that takes long.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "    "+strings.TrimSuffix(format, "\n")+"\n", args...)
}
