package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The machine that tests run on may lack CAP_SYS_RESOURCE; hence
// restrict_oom_score_adj. Handler test-handler is upstream's name for the one
// that its tests ask for. The second handler is always Debian's runc, which
// cannot map the owners of mounts.
const containerdConfig2 = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "registry.k8s.io/pause:3.10.2"
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "` + registryConf + `"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["` + cniBin + `"]
  conf_dir = "` + CNIConf + `"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = ${SYSTEMD}
  BinaryName = "${RUNTIME}"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.other]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.test-handler]
  runtime_type = "io.containerd.runc.v2"
`

const containerdConfig1 = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.6"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "` + registryConf + `"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "` + cniBin + `"
  conf_dir = "` + CNIConf + `"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = ${SYSTEMD}
  BinaryName = "${RUNTIME}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.other]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.test-handler]
  runtime_type = "io.containerd.runc.v2"
`

const cniConfig = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": [[{"subnet": "` + podNet + `"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
`

// CNIConfFile is the configuration in use.
const CNIConfFile = CNIConf + "/10-pods.conflist"

func (n *Node) startRuntime(ctx context.Context, images []string) error {
	config := containerdConfig2
	if n.Containerd == "1.6" {
		config = containerdConfig1
	}
	config = strings.ReplaceAll(config, "${SYSTEMD}", strconv.FormatBool(n.systemdCgroups))
	config = strings.ReplaceAll(config, "${RUNTIME}", n.runtimeBinary())
	if err := n.WriteFile("/etc/containerd/config.toml", config, 0o644); err != nil {
		return err
	}
	if n.OCIRuntime == "crun" {
		if err := n.WriteFile(crunPath, crunScript, 0o755); err != nil {
			return err
		}
	}
	if err := n.RestoreCNI(); err != nil {
		return err
	}
	if err := n.StartContainerd(ctx); err != nil {
		return err
	}
	own, err := filepath.Glob(filepath.Join(CacheDir(), "images/*.tar"))
	if err != nil || len(own) == 0 {
		return errors.New("no test images, run test/setup/deps.sh")
	}
	for _, archive := range append(own, images...) {
		// The archive is read on the node, where /root and /tmp are the machine's.
		if out, err := n.Run(ctx, n.Ctr(), "-a", criSocket, "-n", "k8s.io", "images", "import", archive); err != nil {
			return fmt.Errorf("load image %s: %w: %s", archive, err, out)
		}
	}
	return nil
}

// crunPath is where the node has its crun.
const crunPath = "/var/lib/oci-bin/crun"

// crunScript runs Debian 12's crun, 1.8.1, under containerd 2, which writes
// bundles of OCI version 1.3: crun refuses what is not 1.0 or 1.1, but takes
// all that the tests ask for.
const crunScript = `#!/bin/sh
previous=
for argument in "$@"; do
  if [ "$previous" = --bundle ]; then
    sed -i 's/"ociVersion":"1[^"]*"/"ociVersion":"1.0.2"/' "$argument/config.json"
  fi
  previous=$argument
done
exec /usr/bin/crun "$@"
`

// runtimeBinary is the program that runs containers: crun if RUNTIME asks for
// it; with containerd 2 the runc that test/setup built, or where there is none
// (in the guest) Debian's.
func (n *Node) runtimeBinary() string {
	if n.OCIRuntime == "crun" {
		return crunPath
	}
	if n.Containerd == "1.6" {
		return "runc"
	}
	built, _ := filepath.Glob(filepath.Join(CacheDir(), "runc-*/bin/runc"))
	if len(built) == 0 {
		return "runc"
	}
	return built[len(built)-1]
}

// RuntimeVersions names what runs the node's containers, "containerd 2.4.2,
// runc 1.4.3".
func (n *Node) RuntimeVersions(ctx context.Context) (string, error) {
	v, err := n.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return "", fmt.Errorf("ask for version of containerd: %w", err)
	}
	binary := n.runtimeBinary()
	if !filepath.IsAbs(binary) {
		if binary, err = exec.LookPath(binary); err != nil {
			return "", fmt.Errorf("find %s: %w", n.OCIRuntime, err)
		}
	}
	// The first line is "runc version 1.4.3".
	out, err := n.Run(ctx, binary, "--version")
	if err != nil {
		return "", fmt.Errorf("ask for version of %s: %w: %s", n.OCIRuntime, err, out)
	}
	line, _, _ := strings.Cut(out, "\n")
	// Without the marks of whoever built it, "1.6.20~ds1" and "2.4.2+unknown".
	release := func(version string) string {
		if i := strings.IndexAny(version, "+~"); i >= 0 {
			version = version[:i]
		}
		return strings.TrimPrefix(version, "v")
	}
	return fmt.Sprintf("%s %s, %s %s", v.GetRuntimeName(), release(v.GetRuntimeVersion()), n.OCIRuntime, release(line[strings.LastIndex(line, " ")+1:])), nil
}

// Ctr is containerd's own client on the node.
func (n *Node) Ctr() string { return filepath.Join(n.containerdBin, "ctr") }

// RestoreCNI writes the ordinary network configuration.
func (n *Node) RestoreCNI() error { return n.WriteFile(CNIConfFile, cniConfig, 0o644) }

// InstallCNIPlugin makes a script of the machine a network plugin of the node
// and lets it take the place of the bridge plugin; RestoreCNI undoes that.
func (n *Node) InstallCNIPlugin(script string) error {
	text, err := os.ReadFile(script)
	if err != nil {
		return fmt.Errorf("read CNI plugin: %w", err)
	}
	name := strings.TrimSuffix(filepath.Base(script), ".sh")
	if err := n.WriteFile(filepath.Join(CNIBin, name), string(text), 0o755); err != nil {
		return err
	}
	return n.WriteFile(CNIConfFile, strings.Replace(cniConfig, `"type": "bridge"`, `"type": "`+name+`"`, 1), 0o644)
}

// StartContainerd starts containerd (again) and waits until it answers.
func (n *Node) StartContainerd(ctx context.Context) error {
	p, err := n.Start(Command{Name: "containerd", Path: filepath.Join(n.containerdBin, "containerd"), Args: []string{"--config", "/etc/containerd/config.toml"}})
	if err != nil {
		return err
	}
	n.containerd = p
	if n.criConn == nil {
		n.criConn, err = grpc.NewClient("passthrough:///"+criSocket,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, path string) (net.Conn, error) { return n.Dial(ctx, "unix", path) }),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
		if err != nil {
			return fmt.Errorf("make CRI client: %w", err)
		}
		n.Runtime = runtimeapi.NewRuntimeServiceClient(n.criConn)
		n.Image = runtimeapi.NewImageServiceClient(n.criConn)
	}
	return Until(ctx, 60*time.Second, "containerd to answer", func(ctx context.Context) error {
		select {
		case <-p.Done():
			return Permanent(fmt.Errorf("containerd ended with code %d, see %s", p.ExitCode(), p.Log))
		default:
		}
		status, err := n.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
		if err != nil {
			n.criConn.ResetConnectBackoff()
			return err
		}
		for _, c := range status.GetStatus().GetConditions() {
			// containerd adds conditions of its own, about deprecations.
			if !c.GetStatus() && (c.GetType() == runtimeapi.RuntimeReady || c.GetType() == runtimeapi.NetworkReady) {
				return fmt.Errorf("%s: %s: %s", c.GetType(), c.GetReason(), c.GetMessage())
			}
		}
		for _, h := range status.GetRuntimeHandlers() {
			if h.GetName() == "" { // the default one
				n.features = h.GetFeatures()
			}
		}
		return nil
	})
}

// KillContainerd ends containerd with SIGKILL; its containers stay.
func (n *Node) KillContainerd() { n.containerd.Kill() }

// SignalContainerd signals containerd itself; SIGSTOP makes every call hang.
func (n *Node) SignalContainerd(s syscall.Signal) error { return n.containerd.Signal(s) }
