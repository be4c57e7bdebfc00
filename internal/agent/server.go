package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	cliflag "k8s.io/component-base/cli/flag"
	verbosity "k8s.io/component-base/logs"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"kubelet/internal/config"
	"kubelet/internal/logs"
	"kubelet/internal/server"
	"kubelet/internal/server/authn"
	"kubelet/internal/server/authz"
	"kubelet/internal/server/serving"
)

// nodeLogDir is where the node's own logs are.
const nodeLogDir = "/var/log"

// shown is what the HTTPS port and the read-only port show.
func (a *Agent) shown() (server.Shown, error) {
	measured, err := server.NewMetrics(a.registry)
	if err != nil {
		return server.Shown{}, fmt.Errorf("set up metrics of the ports: %w", err)
	}
	return server.Shown{
		Pods: a.podList, Handlers: a.statsHandlers(), Measured: measured,
		Checks: map[string]func() error{"syncloop": a.healthy},
	}, nil
}

// newHTTPS makes the HTTPS port.
func (a *Agent) newHTTPS(shown server.Shown, started time.Time) (*server.Server, error) {
	k, f, gates := &a.cfg.Kubelet, &a.cfg.Flags, a.cfg.Gates
	c := server.Config{
		Address: k.Address, Port: int(k.Port),
		ExecNeedsCreate: f.ExecRequiresCreate,
		Shown:           shown, Desired: a.desired, Observed: a.observed, Runtime: a.runtime,
		Logs:                containerLogs{a},
		Tracer:              a.tracing.Tracer(),
		SplitLogStreams:     gates.Enabled("PodLogsQuerySplitStreams"),
		WebSockets:          gates.Enabled("ExtendWebSocketsToKubelet"),
		Debugging:           deref(k.EnableDebuggingHandlers, true),
		SystemLogs:          deref(k.EnableSystemLogHandler, true),
		SystemLogQuery:      deref(k.EnableSystemLogQuery, false) && gates.Enabled("NodeLogQuery"),
		SystemLogDir:        nodeLogDir,
		Profiling:           deref(k.EnableProfilingHandler, true),
		ContentionProfiling: k.EnableContentionProfiling,
		Configz:             k,
	}
	if deref(k.EnableDebugFlagsHandler, true) {
		c.SetVerbosity = verbosity.GlogSetter
	}
	if gates.Enabled("KubeletAllocatedPodsEndpoint") {
		c.AllocatedPods = a.allocatedPods
	}
	if gates.Enabled("ContainerCheckpoint") {
		c.CheckpointDir = filepath.Join(f.RootDir, "checkpoints")
	}
	if gates.Enabled("ComponentFlagz") {
		c.Flagz = a.cfg.FlagValues()
	}
	if gates.Enabled("ComponentStatusz") {
		v := version.Get()
		c.Statusz = &server.Statusz{
			Started: started, GoVersion: runtime.Version(), BinaryVersion: strings.TrimPrefix(v.GitVersion, "v"),
			EmulationVersion: v.Major + "." + v.Minor,
		}
	}
	cas, err := a.clientCAs()
	if err != nil {
		return nil, err
	}
	c.Authenticator, c.Authorizer = a.authenticator(cas), a.authorizer()
	if c.TLS, err = a.servingTLS(cas); err != nil {
		return nil, err
	}
	return server.New(c)
}

// clientCAs are the authorities of client certificates; nil for none.
func (a *Agent) clientCAs() (*serving.ClientCAs, error) {
	file := a.cfg.Kubelet.Authentication.X509.ClientCAFile
	if file == "" {
		return nil, nil
	}
	return serving.NewClientCAs(file, a.cfg.Gates.Enabled("ReloadKubeletClientCAFile"))
}

// authenticator resolves who may be known, and how.
func (a *Agent) authenticator(cas *serving.ClientCAs) server.Authenticator {
	k := &a.cfg.Kubelet.Authentication
	c := authn.Config{TokenTTL: k.Webhook.CacheTTL.Duration, Anonymous: deref(k.Anonymous.Enabled, false)}
	if cas != nil {
		c.ClientCAs = cas
	}
	if deref(k.Webhook.Enabled, true) {
		if a.api != nil {
			c.Tokens = a.api
		} else {
			klog.Background().Info("Warning: without an API server nobody can be known by a token; set authentication.webhook.enabled to false")
		}
	}
	return authn.New(c)
}

// authorizer resolves who decides.
func (a *Agent) authorizer() server.Authorizer {
	k := &a.cfg.Kubelet.Authorization
	switch {
	case k.Mode == kubeletconfig.KubeletAuthorizationModeAlwaysAllow:
		return authz.AlwaysAllow{}
	case a.api == nil:
		klog.Background().Info("Warning: without an API server nobody decides who may use the kubelet's API, so nobody may; set authorization.mode to AlwaysAllow")
		return authz.NeverAllow{}
	}
	return authz.NewWebhook(authz.WebhookConfig{
		Reviewer: a.api, Node: a.nodeName,
		AllowedTTL: k.Webhook.CacheAuthorizedTTL.Duration, DeniedTTL: k.Webhook.CacheUnauthorizedTTL.Duration,
	})
}

// servingTLS resolves how the port speaks TLS. Names were checked by package
// config.
func (a *Agent) servingTLS(cas *serving.ClientCAs) (c server.TLSConfig, err error) {
	k := &a.cfg.Kubelet
	if c.CipherSuites, err = cliflag.TLSCipherSuites(k.TLSCipherSuites); err != nil {
		return c, fmt.Errorf("set up TLS: %w", err)
	}
	if c.MinVersion, err = cliflag.TLSVersion(k.TLSMinVersion); err != nil {
		return c, fmt.Errorf("set up TLS: %w", err)
	}
	if c.Curves, err = cliflag.TLSCurvePreferences(k.TLSCurvePreferences); err != nil {
		return c, fmt.Errorf("set up TLS: %w", err)
	}
	for name, id := range cliflag.InsecureTLSCiphers() {
		for _, used := range c.CipherSuites {
			if used == id {
				klog.Background().Info("Warning: a cipher suite of tlsCipherSuites is insecure", "cipher", name)
			}
		}
	}
	if c.MinVersion == tls.VersionTLS13 && len(c.CipherSuites) > 0 {
		klog.Background().Info("Warning: tlsCipherSuites has no effect on TLS 1.3, which tlsMinVersion asks for")
	}
	if cas != nil {
		c.ClientCAs = cas
	}
	c.Certificate, err = a.servingCertificate()
	return c, err
}

// servingCertificate is the configured certificate, or one that nobody vouches
// for.
func (a *Agent) servingCertificate() (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	k := &a.cfg.Kubelet
	if k.TLSCertFile != "" || k.TLSPrivateKeyFile != "" {
		cert, err := serving.NewCertificate(k.TLSCertFile, k.TLSPrivateKeyFile, a.cfg.Gates.Enabled("ReloadKubeletServerCertificateFile"))
		if err != nil {
			return nil, err
		}
		return cert.Get, nil
	}
	var ips []net.IP
	for _, text := range a.node.HostIPs() {
		if ip := net.ParseIP(text); ip != nil {
			ips = append(ips, ip)
		}
	}
	cert, err := serving.NewSelfSigned(a.cfg.Flags.CertDir, a.nodeName, ips)
	if err != nil {
		return nil, err
	}
	return cert.Get, nil
}

// allocatedPods are the pods that were accepted.
func (a *Agent) allocatedPods() (pods []*v1.Pod) {
	for _, d := range a.desired.List() {
		pods = append(pods, a.alloc.Apply(d.Pod))
	}
	return pods
}

// declaredFeatures are those of the node that other components read in its
// status (KEP-5328).
func (a *Agent) declaredFeatures() (names []string) {
	if !a.cfg.Gates.Enabled("NodeDeclaredFeatures") {
		return nil
	}
	if deref(a.cfg.Kubelet.EnableServer, true) && a.cfg.Gates.Enabled("ExtendWebSocketsToKubelet") {
		names = append(names, "ExtendWebSocketsToKubelet")
	}
	for _, gate := range []config.Gate{"InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers"} {
		if a.cfg.Gates.Enabled(gate) {
			names = append(names, string(gate))
		}
	}
	if a.cfg.Gates.Enabled("RestartAllContainersOnContainerExits") {
		names = append(names, "RestartAllContainersOnContainerExits")
	}
	return names
}

// containerLogs finds whose log is meant and reads it.
type containerLogs struct{ a *Agent }

func (c containerLogs) Read(ctx context.Context, pod *v1.Pod, container string, opts *v1.PodLogOptions, stdout, stderr io.Writer) error {
	status, ok := c.a.writer.Get(pod.UID)
	if !ok {
		status = pod.Status
	}
	id, err := logs.ContainerID(pod.Name, &status, container, opts.Previous)
	if err != nil {
		return err
	}
	return c.a.logFiles.Read(ctx, pod, id, opts, stdout, stderr)
}
