package podspec

import "net/netip"

// OrderIPs brings a pod's addresses, which a runtime may tell in any number
// and order, into the form of status.podIPs: the first of the node's primary
// family, then the first of the other family. Addresses that cannot be parsed
// are dropped, the others are written canonically. Without a node address
// IPv4 is primary.
func OrderIPs(ips, nodeIPs []string) []string {
	primaryIs6 := false
	if len(nodeIPs) > 0 {
		if ip, err := netip.ParseAddr(nodeIPs[0]); err == nil {
			primaryIs6 = ip.Unmap().Is6()
		}
	}
	var first, second string
	for _, s := range ips {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			continue
		}
		ip = ip.Unmap()
		switch {
		case ip.Is6() == primaryIs6 && first == "":
			first = ip.String()
		case ip.Is6() != primaryIs6 && second == "":
			second = ip.String()
		}
	}
	ordered := make([]string, 0, 2)
	for _, s := range []string{first, second} {
		if s != "" {
			ordered = append(ordered, s)
		}
	}
	return ordered
}
