package standalone

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Layout is where the private runtime keeps its files, all below one folder.
type Layout struct{ Dir string }

// Paths of the layout.
func (l Layout) config() string   { return filepath.Join(l.Dir, "containerd", "config.toml") }
func (l Layout) log() string      { return filepath.Join(l.Dir, "containerd", "containerd.log") }
func (l Layout) record() string   { return filepath.Join(l.Dir, "containerd", "process.json") }
func (l Layout) root() string     { return filepath.Join(l.Dir, "containerd", "root") }
func (l Layout) state() string    { return filepath.Join(l.Dir, "containerd", "state") }
func (l Layout) networks() string { return filepath.Join(l.Dir, "cni", "net.d") }
func (l Layout) leases() string   { return filepath.Join(l.Dir, "cni", "leases") }

// Socket of the private containerd.
func (l Layout) Socket() string { return filepath.Join(l.Dir, "containerd", "containerd.sock") }

// Root is the kubelet's root directory.
func (l Layout) Root() string { return filepath.Join(l.Dir, "kubelet") }

// PodLogs is the pod log directory.
func (l Layout) PodLogs() string { return filepath.Join(l.Dir, "logs") }

// containerdConfig is in configuration version 2, which containerd 1.6 reads
// and 2.x migrates.
var containerdConfig = template.Must(template.New("config.toml").Parse(`# Written by kubelet standalone at each start.
version = 2
root = "{{.Root}}"
state = "{{.State}}"
[grpc]
  address = "{{.Socket}}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{{.Pause}}"
  restrict_oom_score_adj = {{.Restrict}}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{{.Plugins}}"
    conf_dir = "{{.Networks}}"
`))

const network = `{
  "cniVersion": "1.0.0",
  "name": "standalone",
  "plugins": [
    {"type": "bridge", "bridge": "%s", "isGateway": true, "ipMasq": %t,
     "ipam": {"type": "host-local", "dataDir": "%s",
              "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

// write puts the runtime's configuration and network in place.
func (l Layout) write(o Options) error {
	for _, dir := range []string{filepath.Dir(l.config()), l.root(), l.state(), l.networks(), l.leases(), l.Root(), l.PodLogs()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make folder of the private runtime: %w", err)
		}
	}
	var text strings.Builder
	err := containerdConfig.Execute(&text, map[string]any{
		"Root": l.root(), "State": l.state(), "Socket": l.Socket(), "Pause": o.PauseImage,
		"Restrict": !hasSysResource(), "Plugins": o.CNIPlugins, "Networks": l.networks(),
	})
	if err == nil {
		err = os.WriteFile(l.config(), []byte(text.String()), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write containerd configuration: %w", err)
	}
	_, missing := exec.LookPath("iptables")
	conf := fmt.Sprintf(network, o.Bridge, missing == nil, l.leases(), o.Subnet)
	if err := os.WriteFile(filepath.Join(l.networks(), "10-standalone.conflist"), []byte(conf), 0o600); err != nil {
		return fmt.Errorf("write network configuration: %w", err)
	}
	return nil
}

// hasSysResource says whether this process may set a negative oom_score_adj;
// without, containerd is told not to try.
func hasSysResource() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// removeState removes what is of no use once the runtime has ended. Images
// and their content stay for the next start.
func (l Layout) removeState(o Options) error {
	if link, err := netlink.LinkByName(o.Bridge); err == nil {
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("remove bridge %s: %w", o.Bridge, err)
		}
	}
	for _, path := range []string{l.Socket(), l.Socket() + ".ttrpc", l.networks(), l.leases()} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove state of the private runtime: %w", err)
		}
	}
	return nil
}
