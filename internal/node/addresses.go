package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/klog/v2"
)

const (
	// addressesFor is how long addresses that were found are taken as true:
	// asking names of a resolver at every status would load it for nothing.
	addressesFor  = time.Minute
	lookupTimeout = 2 * time.Second
)

// addressFinder finds the node's addresses. It is used by one goroutine.
type addressFinder struct {
	name, hostname string
	// primary and secondary are the addresses that were asked for.
	primary, secondary netip.Addr
	external           bool

	found   []v1.NodeAddress
	until   time.Time
	network *network
}

// network is what a machine knows of its addresses.
type network struct {
	onHost       func() ([]netip.Addr, error)
	lookup       func(ctx context.Context, host string) ([]netip.Addr, error)
	defaultRoute func(ctx context.Context, family netip.Addr) (netip.Addr, error)
}

func hostNetwork() *network {
	return &network{onHost: hostAddresses, lookup: lookupHost, defaultRoute: routeAddress}
}

func newAddressFinder(cfg Config) (*addressFinder, error) {
	f := &addressFinder{
		name: cfg.Name, hostname: cfg.Hostname, external: cfg.ExternalCloudProvider,
		network: cfg.network,
	}
	switch len(cfg.IPs) {
	case 0:
	case 2:
		if cfg.IPs[0].Unmap().Is4() == cfg.IPs[1].Unmap().Is4() {
			return nil, fmt.Errorf("node IPs %s and %s are of one family", cfg.IPs[0], cfg.IPs[1])
		}
		f.secondary = cfg.IPs[1].Unmap()
		fallthrough
	case 1:
		f.primary = cfg.IPs[0].Unmap()
	default:
		return nil, fmt.Errorf("%d node IPs, want two at most", len(cfg.IPs))
	}
	for _, ip := range []netip.Addr{f.primary, f.secondary} {
		if ip.IsValid() && !ip.IsUnspecified() {
			if err := usable(ip); err != nil {
				return nil, err
			}
		}
	}
	if ip, err := netip.ParseAddr(cfg.Hostname); err == nil {
		if err := usable(ip.Unmap()); err != nil {
			return nil, fmt.Errorf("hostname: %w", err)
		}
	}
	return f, nil
}

// usable says why an address can never be a node's. Other nodes and the API
// server have to reach it: the API server refuses to proxy to loopback.
func usable(ip netip.Addr) error {
	switch {
	case ip.IsLoopback():
		return fmt.Errorf("node IP %s is a loopback address, which nothing outside this machine can reach", ip)
	case ip.IsMulticast():
		return fmt.Errorf("node IP %s is a multicast address", ip)
	case ip.IsLinkLocalUnicast():
		return fmt.Errorf("node IP %s is a link-local address", ip)
	case ip.IsUnspecified():
		return fmt.Errorf("node IP %s stands for any address", ip)
	}
	return nil
}

// specified says whether the addresses were given, not left to be found.
func (f *addressFinder) specified() bool { return f.primary.IsValid() && !f.primary.IsUnspecified() }

// provided is the value of the annotation that tells an external cloud
// provider which addresses were asked for; "" for none.
func (f *addressFinder) provided() string {
	if !f.external || !f.specified() {
		return ""
	}
	if f.secondary.IsValid() && !f.secondary.IsUnspecified() {
		return f.primary.String() + "," + f.secondary.String()
	}
	return f.primary.String()
}

// find returns the addresses: what was asked for, if this machine has it;
// else the hostname if it is an address; else what the name resolves to; else
// the address on the default route.
func (f *addressFinder) find(ctx context.Context, now time.Time) ([]v1.NodeAddress, error) {
	if f.found != nil && now.Before(f.until) {
		return f.found, nil
	}
	ips, err := f.ips(ctx)
	if err != nil {
		return nil, fmt.Errorf("find addresses of node %s: %w", f.name, err)
	}
	found := make([]v1.NodeAddress, 0, len(ips)+1)
	for _, ip := range ips {
		found = append(found, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip.String()})
	}
	f.found = append(found, v1.NodeAddress{Type: v1.NodeHostName, Address: f.hostname})
	f.until = now.Add(addressesFor)
	return f.found, nil
}

func (f *addressFinder) ips(ctx context.Context) ([]netip.Addr, error) {
	if f.external && !f.primary.IsValid() {
		// The cloud provider sets them.
		return nil, nil
	}
	onHost, err := f.network.onHost()
	if err != nil {
		return nil, fmt.Errorf("list addresses of this machine: %w", err)
	}
	if f.specified() {
		wanted := []netip.Addr{f.primary}
		if f.secondary.IsValid() && !f.secondary.IsUnspecified() {
			wanted = append(wanted, f.secondary)
		}
		for _, ip := range wanted {
			if !slices.Contains(onHost, ip) {
				return nil, fmt.Errorf("node IP %s is on no network interface", ip)
			}
		}
		return wanted, nil
	}
	if ip, err := netip.ParseAddr(f.hostname); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	wantIPv4 := !f.primary.IsValid() || f.primary.Is4()
	var other netip.Addr
	lookupCtx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	// A name that does not resolve is the ordinary case.
	resolved, _ := f.network.lookup(lookupCtx, f.name)
	for _, ip := range resolved {
		ip = ip.Unmap()
		if usable(ip) != nil || !slices.Contains(onHost, ip) {
			continue
		}
		if ip.Is4() == wantIPv4 {
			return []netip.Addr{ip}, nil
		}
		if !other.IsValid() {
			other = ip
		}
	}
	if other.IsValid() {
		return []netip.Addr{other}, nil
	}
	ip, err := f.network.defaultRoute(ctx, f.primary)
	if err != nil {
		return nil, fmt.Errorf("%w (set --node-ip if this machine has no default route)", err)
	}
	if err := usable(ip); err != nil {
		return nil, err
	}
	return []netip.Addr{ip}, nil
}

func hostAddresses() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, addr := range addrs {
		if prefix, err := netip.ParsePrefix(addr.String()); err == nil {
			out = append(out, prefix.Addr().Unmap())
		}
	}
	return out, nil
}

func lookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// routeAddress returns the address of the interface with the default route;
// an unspecified address asks for its family.
func routeAddress(ctx context.Context, family netip.Addr) (netip.Addr, error) {
	var bind net.IP
	if family.IsValid() {
		bind = family.AsSlice()
	}
	ip, err := utilnet.ResolveBindAddressWithLogger(klog.FromContext(ctx), bind)
	if err != nil {
		return netip.Addr{}, err
	}
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Addr{}, errors.New("no address on the default route")
	}
	return addr.Unmap(), nil
}

func hostIPs(node *v1.Node) []string {
	var all []netip.Addr
	for _, kind := range []v1.NodeAddressType{v1.NodeInternalIP, v1.NodeExternalIP} {
		for _, address := range node.Status.Addresses {
			if address.Type != kind {
				continue
			}
			if ip, err := netip.ParseAddr(strings.TrimSpace(address.Address)); err == nil {
				all = append(all, ip.Unmap())
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	out := []string{all[0].String()}
	for _, ip := range all[1:] {
		if ip.Is4() != all[0].Is4() {
			return append(out, ip.String())
		}
	}
	return out
}
