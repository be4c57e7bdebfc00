package criconfig

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// maxHostname is HOST_NAME_MAX less the terminating zero, uname(2).
	maxHostname = 63
	// maxNodename is the length of the kernel's nodename field.
	maxNodename = 64
)

// hostname returns the pod's host name and DNS domain
// (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/).
func (b *Builder) hostname(pod *v1.Pod) (host, domain string, err error) {
	if o := pod.Spec.HostnameOverride; o != nil {
		if errs := validation.IsDNS1123Subdomain(*o); len(errs) > 0 {
			return "", "", sandboxErrorf("hostnameOverride %q is no DNS name: %s", *o, strings.Join(errs, "; "))
		}
		host, err = cutHostname(*o)
		return host, "", err
	}
	host = pod.Name
	if h := pod.Spec.Hostname; h != "" {
		if errs := validation.IsDNS1123Label(h); len(errs) > 0 {
			return "", "", sandboxErrorf("hostname %q is no DNS label: %s", h, strings.Join(errs, "; "))
		}
		host = h
	}
	if host, err = cutHostname(host); err != nil {
		return "", "", err
	}
	if s := pod.Spec.Subdomain; s != "" {
		if errs := validation.IsDNS1123Label(s); len(errs) > 0 {
			return "", "", sandboxErrorf("subdomain %q is no DNS label: %s", s, strings.Join(errs, "; "))
		}
		domain = fmt.Sprintf("%s.%s.svc.%s", s, pod.Namespace, b.ClusterDomain)
	}
	return host, domain, nil
}

func cutHostname(name string) (string, error) {
	if len(name) <= maxHostname {
		return name, nil
	}
	cut := strings.TrimRight(name[:maxHostname], "-.")
	if cut == "" {
		return "", sandboxErrorf("host name %q has no usable first %d characters", name, maxHostname)
	}
	return cut, nil
}

// kernelHostname is what uname(2) tells in the pod: the short name, or the
// full one if the pod asks for it.
func (b *Builder) kernelHostname(pod *v1.Pod) (string, error) {
	host, domain, err := b.hostname(pod)
	if err != nil || domain == "" || pod.Spec.SetHostnameAsFQDN == nil || !*pod.Spec.SetHostnameAsFQDN {
		return host, err
	}
	fqdn := host + "." + domain
	if len(fqdn) > maxNodename {
		return "", sandboxErrorf("setHostnameAsFQDN: %q has %d characters and the kernel takes %d; shorten hostname or subdomain",
			fqdn, len(fqdn), maxNodename)
	}
	return fqdn, nil
}
