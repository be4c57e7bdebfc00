package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// AdminKubeconfig is a cluster administrator's, a file of the node with the
// control plane.
const AdminKubeconfig = "/etc/kubernetes/admin.conf"

// StartKubeProxy starts kube-proxy on the node, so that services have
// addresses.
func (n *Node) StartKubeProxy() error {
	_, err := n.Start(Command{Name: "kube-proxy", Path: controlPlaneBinary("kube-proxy"), Args: []string{
		"--kubeconfig=" + AdminKubeconfig, "--hostname-override=" + n.Name, "--proxy-mode=iptables", "--cluster-cidr=" + podNet,
		// These are the machine's, and a namespace may not set them.
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
		"-v=2",
	}})
	return err
}

// corefile serves the cluster's names, and the node's: everything else does
// not exist, which is said at once.
const corefile = `.:53 {
    bind ` + NodeIP + `
    errors
    ready ` + NodeIP + `:8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        endpoint ` + apiServer + `
        kubeconfig ` + AdminKubeconfig + `
        pods insecure
        ttl 30
    }
    cache 30
    loadbalance
}
`

// StartCoreDNS starts a CoreDNS on the node with the control plane, makes the
// service by which pods ask it, and lets the node itself ask it.
func (c *Cluster) StartCoreDNS(ctx context.Context, binary string) error {
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("CoreDNS is not built, run test/setup/conformance.sh: %w", err)
	}
	n := c.node
	const file = "/etc/coredns/Corefile"
	if err := n.WriteFile(file, corefile, 0o644); err != nil {
		return err
	}
	if err := n.WriteFile("/etc/resolv.conf", "nameserver "+NodeIP+"\n", 0o644); err != nil {
		return err
	}
	p, err := n.Start(Command{Name: "coredns", Path: binary, Args: []string{"-conf", file}})
	if err != nil {
		return err
	}
	if err := Until(ctx, 30*time.Second, "CoreDNS to be ready", func(ctx context.Context) error {
		select {
		case <-p.Done():
			return Permanent(fmt.Errorf("coredns ended with code %d, see %s", p.ExitCode(), p.Log))
		default:
		}
		_, err := n.Get(ctx, "http://"+NodeIP+":8181/ready")
		return err
	}); err != nil {
		return err
	}
	_, err = c.Client.CoreV1().Services(metav1.NamespaceSystem).Create(ctx, &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-dns", Labels: map[string]string{"k8s-app": "kube-dns"}},
		Spec: v1.ServiceSpec{ClusterIP: ClusterDNS, Ports: []v1.ServicePort{
			{Name: "dns", Port: 53, Protocol: v1.ProtocolUDP}, {Name: "dns-tcp", Port: 53, Protocol: v1.ProtocolTCP},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make service kube-dns: %w", err)
	}
	return c.endpoints(ctx, metav1.NamespaceSystem, "kube-dns",
		discoveryv1.EndpointPort{Name: ptr.To("dns"), Port: ptr.To[int32](53), Protocol: ptr.To(v1.ProtocolUDP)},
		discoveryv1.EndpointPort{Name: ptr.To("dns-tcp"), Port: ptr.To[int32](53), Protocol: ptr.To(v1.ProtocolTCP)})
}

// ServeAPIToPods gives the service by which pods reach the API server its
// endpoint, which the API server here does not write itself.
func (c *Cluster) ServeAPIToPods(ctx context.Context) error {
	return c.endpoints(ctx, metav1.NamespaceDefault, "kubernetes",
		discoveryv1.EndpointPort{Name: ptr.To("https"), Port: ptr.To[int32](6443), Protocol: ptr.To(v1.ProtocolTCP)})
}

// endpoints makes the node with the control plane the endpoint of a service
// that has no selector.
func (c *Cluster) endpoints(ctx context.Context, namespace, service string, ports ...discoveryv1.EndpointPort) error {
	_, err := c.Client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{NodeIP}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}},
		Ports:       ports,
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make endpoints of service %s: %w", service, err)
	}
	return nil
}

// PullFrom makes the node pull the images of these registries from another
// place, an http:// address.
func (n *Node) PullFrom(address string, registries ...string) error {
	for _, registry := range registries {
		text := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", address, address)
		if err := n.WriteFile(filepath.Join(registryConf, registry, "hosts.toml"), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
