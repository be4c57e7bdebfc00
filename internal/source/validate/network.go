package validate

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *check) network(spec *field.Path) {
	s := c.spec
	if s.HostNetwork {
		for i := range s.Containers {
			for j, port := range s.Containers[i].Ports {
				if port.HostPort != port.ContainerPort && port.HostPort != 0 {
					c.invalid(spec.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"), port.HostPort, "must equal containerPort with hostNetwork; leave it out")
				}
			}
		}
	}
	if s.Hostname != "" {
		c.all(spec.Child("hostname"), s.Hostname, validation.IsDNS1123Label(s.Hostname))
	}
	if s.Subdomain != "" {
		c.all(spec.Child("subdomain"), s.Subdomain, validation.IsDNS1123Label(s.Subdomain))
	}
	if o := s.HostnameOverride; o != nil {
		p := spec.Child("hostnameOverride")
		if s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN {
			c.forbidden(p, "does not go with setHostnameAsFQDN")
		}
		if s.HostNetwork {
			c.forbidden(p, "does not go with hostNetwork")
		}
		if len(*o) > 64 { // the kernel's limit on a host name
			c.errs = append(c.errs, field.TooLong(p, *o, 64))
		}
		c.all(p, *o, validation.IsDNS1123Subdomain(*o))
	}
	for i, alias := range s.HostAliases {
		p := spec.Child("hostAliases").Index(i)
		c.ip(p.Child("ip"), alias.IP)
		for j, name := range alias.Hostnames {
			c.all(p.Child("hostnames").Index(j), name, validation.IsDNS1123Subdomain(name))
		}
	}
	c.dns(spec)
}

func (c *check) ip(p *field.Path, value string) {
	c.add(validation.IsValidIPForLegacyField(p, value, c.o.StrictIPCIDRValidation, nil))
}

// Limits of a resolver's configuration, from resolv.conf(5) and from what the
// runtimes' C libraries take.
const (
	maxNameservers  = 3
	maxSearches     = 32
	maxSearchLength = 2048
)

func (c *check) dns(spec *field.Path) {
	s := c.spec
	oneOf(c, spec.Child("dnsPolicy"), s.DNSPolicy, v1.DNSClusterFirstWithHostNet, v1.DNSClusterFirst, v1.DNSDefault, v1.DNSNone)
	p, d := spec.Child("dnsConfig"), s.DNSConfig
	if s.DNSPolicy == v1.DNSNone && (d == nil || len(d.Nameservers) == 0) {
		c.required(p.Child("nameservers"), "dnsPolicy None needs at least one")
	}
	if d == nil {
		return
	}
	if n := len(d.Nameservers); n > maxNameservers {
		c.errs = append(c.errs, field.TooMany(p.Child("nameservers"), n, maxNameservers))
	}
	for i, server := range d.Nameservers {
		c.ip(p.Child("nameservers").Index(i), server)
	}
	if n := len(d.Searches); n > maxSearches {
		c.errs = append(c.errs, field.TooMany(p.Child("searches"), n, maxSearches))
	}
	if all := strings.Join(d.Searches, " "); len(all) > maxSearchLength {
		c.errs = append(c.errs, field.TooLong(p.Child("searches"), all, maxSearchLength))
	}
	for i, domain := range d.Searches {
		if domain != "." {
			domain = strings.TrimSuffix(domain, ".")
			c.all(p.Child("searches").Index(i), domain, validation.IsDNS1123SubdomainWithUnderscore(domain))
		}
	}
	for i, option := range d.Options {
		c.nonEmpty(p.Child("options").Index(i).Child("name"), option.Name)
	}
}
