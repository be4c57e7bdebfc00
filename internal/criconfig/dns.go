package criconfig

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits of a pod's resolv.conf, as the API documents and validates them.
const (
	maxNameservers      = 3
	maxSearches         = 32
	maxSearchListLength = 2048
	// maxResolvConf bounds what is read of the node's file, in bytes.
	maxResolvConf = 10 << 20
)

// dns makes the pod's resolver config by its dnsPolicy
// (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy).
// The node's file is read at each call: it changes when the node's network
// does.
func (b *Builder) dns(pod *v1.Pod) (*runtimeapi.DNSConfig, error) {
	dns := &runtimeapi.DNSConfig{}
	policy := pod.Spec.DNSPolicy
	cluster := policy == v1.DNSClusterFirstWithHostNet ||
		(policy != v1.DNSNone && policy != v1.DNSDefault && !(policy == v1.DNSClusterFirst && pod.Spec.HostNetwork))
	if policy != v1.DNSNone {
		var err error
		if dns, err = b.nodeDNS(); err != nil {
			return nil, err
		}
	}
	if cluster && len(b.ClusterDNS) == 0 {
		message := fmt.Sprintf("clusterDNS is not configured on this node: dnsPolicy %s falls back to %s", policy, v1.DNSDefault)
		b.warn(pod, "MissingClusterDNS", message)
		b.warnNode("MissingClusterDNS", message)
		cluster = false
	}
	switch {
	case policy == v1.DNSNone:
	case cluster:
		dns.Servers = append([]string(nil), b.ClusterDNS...)
		if d := b.ClusterDomain; d != "" {
			dns.Searches = unique(append([]string{pod.Namespace + ".svc." + d, "svc." + d, d}, dns.Searches...))
		}
		dns.Options = []string{"ndots:5"}
	case b.ResolverConfig == "":
		dns.Servers, dns.Searches = b.loopbackDNS(), []string{"."}
	}
	if extra := pod.Spec.DNSConfig; extra != nil {
		dns.Servers = unique(append(dns.Servers, extra.Nameservers...))
		dns.Searches = unique(append(dns.Searches, extra.Searches...))
		for _, o := range extra.Options {
			option := o.Name
			if o.Value != nil && *o.Value != "" {
				option += ":" + *o.Value
			}
			dns.Options = setOption(dns.Options, option)
		}
	}
	b.limitDNS(pod, dns)
	return dns, nil
}

// nodeDNS reads the node's resolver config; without one it is empty.
func (b *Builder) nodeDNS() (*runtimeapi.DNSConfig, error) {
	if b.ResolverConfig == "" {
		return &runtimeapi.DNSConfig{}, nil
	}
	content, err := b.readResolvConf()
	if err != nil {
		return nil, err
	}
	b.checkResolvConf(content)
	dns, err := parseResolvConf(strings.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("read resolvConf %s: %w", b.ResolverConfig, err)
	}
	return dns, nil
}

func (b *Builder) readResolvConf() (string, error) {
	f, err := os.Open(b.ResolverConfig)
	if err != nil {
		return "", fmt.Errorf("read resolvConf: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return "", fmt.Errorf("read resolvConf %s: %w", b.ResolverConfig, err)
	}
	return string(content), nil
}

// CheckResolvConf warns about a node's resolver configuration that pods cannot
// have in full. It is asked at the start; later changes of the file are looked
// at when a pod needs it.
func (b *Builder) CheckResolvConf() {
	if b.ResolverConfig == "" {
		return
	}
	content, err := b.readResolvConf()
	if err != nil {
		b.warnNode(reasonResolvConf, err.Error())
		return
	}
	b.checkResolvConf(content)
}

// reasonResolvConf is the reason of the node's events about the file.
const reasonResolvConf = "CheckLimitsForResolvConf"

// checkResolvConf tells about a content once.
func (b *Builder) checkResolvConf(content string) {
	if old := b.resolver.Swap(&content); old != nil && *old == content {
		return
	}
	if problem := resolvConfProblem(content, b.ClusterDomain != ""); problem != "" {
		b.warnNode(reasonResolvConf, fmt.Sprintf("resolvConf %s: %s", b.ResolverConfig, problem))
	}
}

// resolvConfProblem says what of the file does not fit into that of a pod,
// where three names of the cluster come before those of the node.
func resolvConfProblem(content string, cluster bool) string {
	dns, err := parseResolvConf(strings.NewReader(content))
	if err != nil {
		return err.Error()
	}
	most := maxSearches
	if cluster {
		most -= 3
	}
	if n := len(dns.Searches); n > most {
		return fmt.Sprintf("the search line has %d names, and pods can have %d of them", n, most)
	}
	for _, s := range dns.Searches {
		if len(s) > validation.DNS1123SubdomainMaxLength {
			return fmt.Sprintf("the search name %.40s... has %d characters, more than %d", s, len(s), validation.DNS1123SubdomainMaxLength)
		}
	}
	if n := len(strings.Join(dns.Searches, " ")); n > maxSearchListLength {
		return fmt.Sprintf("the search line has %d characters, more than %d", n, maxSearchListLength)
	}
	return ""
}

// parseResolvConf reads resolv.conf(5): nameservers add up, the last search
// line counts, and of an option the last value.
func parseResolvConf(r io.Reader) (*runtimeapi.DNSConfig, error) {
	dns := &runtimeapi.DNSConfig{}
	lines := bufio.NewScanner(io.LimitReader(r, maxResolvConf))
	lines.Buffer(nil, maxResolvConf)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if len(fields) < 2 {
				return nil, fmt.Errorf("line %d: nameserver without an address", n)
			}
			dns.Servers = append(dns.Servers, fields[1])
		case "search":
			dns.Searches = nil
			for _, s := range fields[1:] {
				// A name is the same with and without the dot at its end.
				if s != "." {
					dns.Searches = append(dns.Searches, strings.TrimSuffix(s, "."))
				}
			}
		case "options":
			for _, o := range fields[1:] {
				dns.Options = setOption(dns.Options, o)
			}
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, errors.New("a line is too long")
	} else if err != nil {
		return nil, err
	}
	return dns, nil
}

// setOption replaces the option of that name, or adds it.
func setOption(options []string, option string) []string {
	name, _, _ := strings.Cut(option, ":")
	for i, o := range options {
		if old, _, _ := strings.Cut(o, ":"); old == name {
			options[i] = option
			return options
		}
	}
	return append(options, option)
}

func (b *Builder) loopbackDNS() []string {
	var servers []string
	for _, ip := range b.HostIPs() {
		if addr, err := netip.ParseAddr(ip); err == nil && addr.Unmap().Is6() {
			servers = append(servers, "::1")
		} else {
			servers = append(servers, "127.0.0.1")
		}
	}
	if len(servers) == 0 {
		servers = []string{"127.0.0.1"}
	}
	return servers
}

// limitDNS cuts the config to what resolvers take, and says so.
func (b *Builder) limitDNS(pod *v1.Pod, dns *runtimeapi.DNSConfig) {
	if len(dns.Servers) > maxNameservers {
		dns.Servers = dns.Servers[:maxNameservers]
		b.warn(pod, "DNSConfigForming", fmt.Sprintf(
			"More than %d nameservers: the rest is left out, these remain: %s", maxNameservers, strings.Join(dns.Servers, " ")))
	}
	kept := make([]string, 0, len(dns.Searches))
	length := -1
	for _, s := range dns.Searches {
		// glibc 2.28 aborts on a search name that is no possible name.
		if len(s) > validation.DNS1123SubdomainMaxLength {
			continue
		}
		if len(kept) == maxSearches || length+1+len(s) > maxSearchListLength {
			break
		}
		kept = append(kept, s)
		length += 1 + len(s)
	}
	if len(kept) < len(dns.Searches) {
		b.warn(pod, "DNSConfigForming", fmt.Sprintf(
			"The search list exceeds its limits (%d names, %d characters): the rest is left out, these remain: %s",
			maxSearches, maxSearchListLength, strings.Join(kept, " ")))
	}
	dns.Searches = kept
}

// unique drops repetitions and keeps the order.
func unique(list []string) []string {
	seen := make(map[string]bool, len(list))
	kept := list[:0:0]
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			kept = append(kept, s)
		}
	}
	return kept
}
