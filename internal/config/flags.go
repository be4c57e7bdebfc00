package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	cliflag "k8s.io/component-base/cli/flag"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// Flags are the settings that exist on the command line only, because they
// belong to one machine or say where the rest of the configuration is.
type Flags struct {
	// ConfigFile and ConfigDir say where the configuration is; empty for none.
	ConfigFile string
	ConfigDir  string
	// StrictConfig makes unknown and repeated fields an error. Our own flag.
	StrictConfig bool
	// ExecRequiresCreate has exec, attach and port-forward over a WebSocket,
	// which upstream authorizes as get, also need create. Our own flag.
	ExecRequiresCreate bool

	// Kubeconfig says how to reach the API server; empty means standalone.
	Kubeconfig          string
	BootstrapKubeconfig string
	CertDir             string

	HostnameOverride string
	// NodeIP is one address, a dual-stack pair with a comma, or "::".
	NodeIP        string
	NodeLabels    map[string]string
	CloudProvider string // "" or "external"

	RootDir                      string
	LockFile                     string
	ExitOnLockContention         bool
	RuntimeCgroups               string
	SeccompDefault               bool
	PodSecurityConfig            string // our own flag
	ImageCredentialProviderFile  string // a file or a directory
	ImageCredentialProviderBin   string
	HousekeepingInterval         time.Duration
	RestartBudget                int           // our own flag; restarts a minute, 0 for no bound
	MinimumContainerTTL          time.Duration // deprecated
	MaxDeadContainersPerPod      int32         // deprecated; per container
	MaxDeadContainers            int32         // deprecated; -1 for no limit
	MounterPath                  string        // deprecated
	AllocatableIgnoresThresholds bool          // deprecated

	// Help and Version ask for a text instead of a start.
	Help    bool
	Version VersionRequest
}

// Standalone reports whether the kubelet runs without an API server.
func (f *Flags) Standalone() bool { return f.Kubeconfig == "" }

// VersionRequest is the value of --version.
type VersionRequest string

// Values of --version.
const (
	NoVersion    VersionRequest = "false"
	ShortVersion VersionRequest = "true"
	RawVersion   VersionRequest = "raw"
)

// Set reads true, false or raw.
func (v *VersionRequest) Set(s string) error {
	if s == string(RawVersion) {
		*v = RawVersion
		return nil
	}
	on, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("%q is none of true, false, raw", s)
	}
	*v = NoVersion
	if on {
		*v = ShortVersion
	}
	return nil
}

func (v *VersionRequest) String() string { return string(*v) }

// Type names the value in the help text.
func (v *VersionRequest) Type() string { return "version" }

// group is a heading of the help text.
type group string

const (
	groupGeneral   group = "Configuration"
	groupNode      group = "Node"
	groupAPIServer group = "API server"
	groupPods      group = "Pods"
	groupRuntime   group = "Runtime, images and logs of containers"
	groupNetwork   group = "Network"
	groupResources group = "Resources and cgroups"
	groupEviction  group = "Eviction, disk and volumes"
	groupServer    group = "Server"
	groupLogging   group = "Logging"
)

// groups is the order of the help text.
func groups() []group {
	return []group{groupGeneral, groupNode, groupAPIServer, groupPods, groupRuntime, groupNetwork, groupResources, groupEviction, groupServer, groupLogging}
}

// groupAnnotation carries the group of a flag through pflag.
const groupAnnotation = "group"

// deprecatedFlags are those that upstream will remove altogether.
func deprecatedFlags() map[string]string {
	return map[string]string{
		"minimum-container-ttl-duration":           "use --eviction-hard or --eviction-soft",
		"maximum-dead-containers-per-container":    "use --eviction-hard or --eviction-soft",
		"maximum-dead-containers":                  "use --eviction-hard or --eviction-soft",
		"experimental-mounter-path":                "use CSI",
		"experimental-allocatable-ignore-eviction": "it will go away",
	}
}

// newFlagSet defines all flags, those of f and those that mirror kc.
func newFlagSet(f *Flags, kc *kubeletconfig.KubeletConfiguration) *pflag.FlagSet {
	fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	fs.SortFlags = false
	defineFlags(fs, f)
	for _, def := range fieldFlags() {
		bindField(fs, def, kc)
		annotate(fs, def.name, def.group)
	}
	return fs
}

func annotate(fs *pflag.FlagSet, name string, g group) {
	if err := fs.SetAnnotation(name, groupAnnotation, []string{string(g)}); err != nil {
		panic(err)
	}
}

func defineFlags(fs *pflag.FlagSet, f *Flags) {
	f.NodeLabels = map[string]string{}
	f.Version = NoVersion
	in := func(g group, names ...string) {
		for _, name := range names {
			annotate(fs, name, g)
		}
	}

	fs.StringVar(&f.ConfigFile, "config", "", "File with a KubeletConfiguration, in YAML or JSON. Flags win over it.")
	fs.StringVar(&f.ConfigDir, "config-dir", "", "Directory of drop-ins, merged over --config in the order of their names. Only *.conf is read, also in subdirectories.")
	fs.BoolVar(&f.StrictConfig, "strict-config", false, "Refuse to start on unknown or repeated fields, instead of warning.")
	fs.BoolVarP(&f.Help, "help", "h", false, "Print this text.")
	fs.Var(&f.Version, "version", "Print the version, or all of it with --version=raw.")
	fs.Lookup("version").NoOptDefVal = string(ShortVersion)
	in(groupGeneral, "config", "config-dir", "strict-config", "help", "version")

	fs.StringVar(&f.RootDir, "root-dir", "/var/lib/kubelet", "Directory of the kubelet's files, volumes among them.")
	fs.StringVar(&f.HostnameOverride, "hostname-override", "", "Name of the node, instead of the host's name.")
	fs.StringVar(&f.NodeIP, "node-ip", "", "IP address of the node, or an IPv4 and an IPv6 address with a comma; :: prefers IPv6. Found out if not given.")
	fs.Var((*cliflag.ConfigurationMap)(&f.NodeLabels), "node-labels", "Labels of a newly registered node, as key=value[,key=value]. Of the kubernetes.io and k8s.io names only those that kubelets may set.")
	fs.StringVar(&f.CloudProvider, "cloud-provider", "", "external if a cloud controller manager completes the node, else empty.")
	fs.StringVar(&f.LockFile, "lock-file", "", "File that is locked while the kubelet runs, so that only one does.")
	fs.BoolVar(&f.ExitOnLockContention, "exit-on-lock-contention", false, "End when somebody else opens the --lock-file.")
	fs.BoolVar(&f.SeccompDefault, "seccomp-default", false, "Give containers the seccomp profile RuntimeDefault if they ask for none.")
	fs.StringVar(&f.PodSecurityConfig, "pod-security-config", "", "File with a PodSecurityConfiguration that pods of all sources are judged by; docs/pod-security.md describes it.")
	in(groupPods, "pod-security-config")
	in(groupNode, "root-dir", "hostname-override", "node-ip", "node-labels", "cloud-provider", "lock-file", "exit-on-lock-contention", "seccomp-default")

	fs.StringVar(&f.Kubeconfig, "kubeconfig", "", "File that says how to reach the API server. Without it the kubelet is standalone.")
	fs.StringVar(&f.BootstrapKubeconfig, "bootstrap-kubeconfig", "", "kubeconfig used to get the first client certificate, if --kubeconfig does not exist yet.")
	fs.StringVar(&f.CertDir, "cert-dir", "/var/lib/kubelet/pki", "Directory of the kubelet's certificates.")
	in(groupAPIServer, "kubeconfig", "bootstrap-kubeconfig", "cert-dir")

	fs.BoolVar(&f.ExecRequiresCreate, "exec-requires-create", false, "Let only those exec, attach and port-forward over a WebSocket, whose request is a GET, who may create nodes/proxy.")
	in(groupServer, "exec-requires-create")

	fs.StringVar(&f.RuntimeCgroups, "runtime-cgroups", "", "cgroup of the container runtime, for its statistics.")
	fs.DurationVar(&f.HousekeepingInterval, "housekeeping-interval", 10*time.Second, "Of no effect: nothing is sampled on a timer.")
	fs.BoolVar(&f.AllocatableIgnoresThresholds, "experimental-allocatable-ignore-eviction", false, "Leave hard eviction thresholds out of the allocatable resources.")
	in(groupResources, "runtime-cgroups", "housekeeping-interval", "experimental-allocatable-ignore-eviction")

	fs.StringVar(&f.ImageCredentialProviderFile, "image-credential-provider-config", "", "Configuration of credential provider plugins: a file, or a directory of files.")
	fs.StringVar(&f.ImageCredentialProviderBin, "image-credential-provider-bin-dir", "", "Directory of the credential provider plugins.")
	fs.IntVar(&f.RestartBudget, "restart-budget", 0, "Restarts of crashing containers a minute, on the whole node, after which further ones wait their turn; a quarter may come at once. Pods of system-critical priority and static pods are not counted. 0 for no bound.")
	fs.DurationVar(&f.MinimumContainerTTL, "minimum-container-ttl-duration", 0, "Time for which a dead container is kept at least.")
	fs.Int32Var(&f.MaxDeadContainersPerPod, "maximum-dead-containers-per-container", 1, "Dead instances kept of each container.")
	fs.Int32Var(&f.MaxDeadContainers, "maximum-dead-containers", -1, "Dead containers kept in all; negative for no limit.")
	fs.StringVar(&f.MounterPath, "experimental-mounter-path", "", "Program that mounts, instead of mount(8).")
	in(groupPods, "restart-budget")
	in(groupRuntime, "image-credential-provider-config", "image-credential-provider-bin-dir",
		"minimum-container-ttl-duration", "maximum-dead-containers-per-container", "maximum-dead-containers", "experimental-mounter-path")
}

// Usage is the text of --help.
func Usage() string {
	all := allFlags()
	var text strings.Builder
	text.WriteString(`The kubelet runs the pods of one node: those that the API server binds to it,
and those of local manifests.

Usage:
  kubelet [flags]
  kubelet standalone [flags]   the same with a private containerd
  kubelet explain [pod]        why each pod is where it is

Flags win over --config-dir, which wins over --config. Most flags mirror a field
of the configuration file, where they are better kept. docs/compatibility.md
says of every flag, field and feature gate whether it is acted on.
`)
	for _, g := range groups() {
		section := pflag.NewFlagSet(string(g), pflag.ContinueOnError)
		all.VisitAll(func(flag *pflag.Flag) {
			if flag.Annotations[groupAnnotation][0] == string(g) {
				section.AddFlag(flag)
			}
		})
		const width = 100
		fmt.Fprintf(&text, "\n%s:\n%s", g, section.FlagUsagesWrapped(width))
	}
	return text.String()
}
