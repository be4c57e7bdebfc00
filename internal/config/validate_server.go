package config

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	kubeletapis "k8s.io/kubelet/pkg/apis"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

// flags checks what exists on the command line only.
func (v *validator) flags() {
	f := &v.cfg.Flags
	bad := func(flag, format string, args ...any) {
		v.problems = append(v.problems, Problem{Source: "--" + flag, Reason: fmt.Sprintf(format, args...)})
	}
	for _, key := range keysOf(f.NodeLabels) {
		if isKubernetesName(key) && !kubeletapis.IsKubeletLabel(key) {
			bad("node-labels", "%s is reserved: of the kubernetes.io and k8s.io labels a kubelet may set only %s, and those under %s",
				key, strings.Join(kubeletapis.KubeletLabels(), ", "), strings.Join(kubeletapis.KubeletLabelNamespaces(), " and "))
		}
		for _, reason := range validation.IsQualifiedName(key) {
			bad("node-labels", "key %q: %s", key, reason)
		}
		for _, reason := range validation.IsValidLabelValue(f.NodeLabels[key]) {
			bad("node-labels", "value %q of %s: %s", f.NodeLabels[key], key, reason)
		}
	}
	if f.ExitOnLockContention && f.LockFile == "" {
		bad("exit-on-lock-contention", "needs --lock-file")
	}
	if (f.ImageCredentialProviderFile == "") != (f.ImageCredentialProviderBin == "") {
		bad("image-credential-provider-config", "and --image-credential-provider-bin-dir need each other")
	}
	if f.HostnameOverride != "" && !f.Standalone() {
		name := strings.ToLower(strings.TrimSpace(f.HostnameOverride))
		for _, reason := range validation.IsDNS1123Subdomain(name) {
			bad("hostname-override", "%q cannot be the name of a node: %s", f.HostnameOverride, reason)
		}
	}
	v.nodeIP(bad)
}

// nodeIP accepts one address or one of each family. Upstream ignores addresses
// that it cannot read; they are refused here, because a node with another
// address than the one that was asked for helps nobody.
func (v *validator) nodeIP(bad func(flag, format string, args ...any)) {
	text := v.cfg.Flags.NodeIP
	if text == "" {
		return
	}
	var families []bool
	for part := range strings.SplitSeq(text, ",") {
		ip := netutils.ParseIPSloppy(strings.TrimSpace(part))
		if ip == nil {
			bad("node-ip", "%q is not an IP address", part)
			return
		}
		families = append(families, netutils.IsIPv6(ip))
		if len(families) > 1 && ip.IsUnspecified() {
			bad("node-ip", "%q: an unspecified address cannot be part of a pair", text)
			return
		}
	}
	if len(families) > 2 || len(families) == 2 && families[0] == families[1] {
		bad("node-ip", "%q must be one address, or one of IPv4 and one of IPv6", text)
	}
}

func isKubernetesName(key string) bool {
	namespace, _, ok := strings.Cut(key, "/")
	if !ok {
		return false
	}
	for _, domain := range []string{"kubernetes.io", "k8s.io"} {
		if namespace == domain || strings.HasSuffix(namespace, "."+domain) {
			return true
		}
	}
	return false
}

func (v *validator) server() {
	kc := v.kc
	v.port("port", kc.Port, false)
	v.port("readOnlyPort", kc.ReadOnlyPort, true)
	v.port("healthzPort", ptr.Deref(kc.HealthzPort, 0), true)
	for path, text := range map[string]string{"address": kc.Address, "healthzBindAddress": kc.HealthzBindAddress} {
		if netutils.ParseIPSloppy(text) == nil {
			v.bad(path, "is %q, must be an IP address", text)
		}
	}
	v.oneOf("authorization.mode", string(kc.Authorization.Mode),
		string(kubeletconfig.KubeletAuthorizationModeAlwaysAllow), string(kubeletconfig.KubeletAuthorizationModeWebhook))

	known := cliflag.TLSCipherPossibleValues()
	for i, name := range kc.TLSCipherSuites {
		if !slices.Contains(known, name) {
			v.bad(fmt.Sprintf("tlsCipherSuites[%d]", i), "%q is not a cipher suite of this build", name)
		}
	}
	if versions := cliflag.TLSPossibleVersions(); kc.TLSMinVersion != "" && !slices.Contains(versions, kc.TLSMinVersion) {
		v.bad("tlsMinVersion", "is %q, must be one of %s", kc.TLSMinVersion, strings.Join(versions, ", "))
	}
	if _, err := cliflag.TLSCurvePreferences(kc.TLSCurvePreferences); err != nil {
		v.bad("tlsCurvePreferences", "%v", err)
	}
	if kc.ServerTLSBootstrap && !v.cfg.Gates.Enabled(RotateKubeletServerCertificate) {
		v.bad("serverTLSBootstrap", "needs the feature gate %s", RotateKubeletServerCertificate)
	}
	if ptr.Deref(kc.EnableSystemLogQuery, false) && !ptr.Deref(kc.EnableSystemLogHandler, false) {
		v.bad("enableSystemLogQuery", "needs enableSystemLogHandler")
	}
	if kc.StaticPodURL != "" {
		if u, err := url.Parse(kc.StaticPodURL); err != nil || u.Scheme == "" {
			v.bad("staticPodURL", "is %q, must be a URL", kc.StaticPodURL)
		}
	}
	v.tracing()
}

func (v *validator) tracing() {
	tracing := v.kc.Tracing
	if tracing == nil {
		return
	}
	if rate := tracing.SamplingRatePerMillion; rate != nil {
		between(v, "tracing.samplingRatePerMillion", *rate, 0, 1000000)
	}
	endpoint := ptr.Deref(tracing.Endpoint, "")
	if endpoint == "" {
		return
	}
	if !strings.Contains(endpoint, "//") {
		endpoint = "dns://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		v.bad("tracing.endpoint", "is %q, must be host:port or a gRPC target", endpoint)
	} else if !slices.Contains([]string{"dns", "unix", "unix-abstract"}, u.Scheme) {
		v.bad("tracing.endpoint", "has the scheme %q, must have none or dns, unix, unix-abstract", u.Scheme)
	}
}

func (v *validator) logging() {
	logging := &v.kc.Logging
	v.oneOf("logging.format", logging.Format, "text", "json")
	if logging.FlushFrequency.Duration.Duration <= 0 {
		v.bad("logging.flushFrequency", "must be more than 0")
	}
	if logging.Verbosity > math.MaxInt32 {
		v.bad("logging.verbosity", "is %d, must be at most %d", logging.Verbosity, math.MaxInt32)
	}
	if len(logging.VModule) > 0 && logging.Format != "text" {
		v.bad("logging.vmodule", "works only with the format text")
	}
	for i, item := range logging.VModule {
		path := fmt.Sprintf("logging.vmodule[%d]", i)
		if item.FilePattern == "" || strings.ContainsAny(item.FilePattern, "=,") {
			v.bad(path, "file pattern %q must not be empty and must not contain = or ,", item.FilePattern)
		}
		if item.Verbosity > math.MaxInt32 {
			v.bad(path, "verbosity %d must be at most %d", item.Verbosity, math.MaxInt32)
		}
	}
	alpha := v.cfg.Gates.Enabled(Gate(logsapi.LoggingAlphaOptions))
	for path, options := range map[string]logsapi.OutputRoutingOptions{
		"logging.options.text": logging.Options.Text.OutputRoutingOptions,
		"logging.options.json": logging.Options.JSON.OutputRoutingOptions,
	} {
		if options.SplitStream && !alpha {
			v.bad(path+".splitStream", "needs the feature gate %s", logsapi.LoggingAlphaOptions)
		}
		if options.InfoBufferSize.Value() != 0 && !alpha {
			v.bad(path+".infoBufferSize", "needs the feature gate %s", logsapi.LoggingAlphaOptions)
		}
	}
}
