package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StartMetricsServer starts a metrics-server beside the control plane and
// registers its API, metrics.k8s.io. The caller stops the process.
func (c *Cluster) StartMetricsServer(ctx context.Context) (*Process, error) {
	binary := filepath.Join(CacheDir(), "metrics-server-v0.9.0", "metrics-server")
	if _, err := os.Stat(binary); err != nil {
		return nil, fmt.Errorf("metrics-server is not built, run test/setup/metricsserver.sh: %w", err)
	}
	p, err := c.node.Start(Command{Name: "metrics-server", Path: binary, Args: []string{
		"--kubeconfig=/etc/kubernetes/admin.conf", "--authentication-kubeconfig=/etc/kubernetes/admin.conf",
		"--authorization-kubeconfig=/etc/kubernetes/admin.conf",
		"--bind-address=" + NodeIP, "--secure-port=4443", "--cert-dir=/var/lib/metrics-server",
		"--kubelet-insecure-tls", "--kubelet-preferred-address-types=InternalIP", "--kubelet-use-node-status-port",
		"--metric-resolution=10s", "--kubelet-request-timeout=9s", "-v=2",
	}})
	if err != nil {
		return nil, err
	}
	// The API server reaches it by the address that the service stands for.
	name := metav1.ObjectMeta{Name: "metrics-server", Namespace: metav1.NamespaceSystem}
	_, err = c.Client.CoreV1().Services(name.Namespace).Create(ctx, &v1.Service{ObjectMeta: name, Spec: v1.ServiceSpec{
		Type: v1.ServiceTypeExternalName, ExternalName: NodeIP, Ports: []v1.ServicePort{{Port: 4443}},
	}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		p.Kill()
		return nil, fmt.Errorf("make service of metrics-server: %w", err)
	}
	err = c.Client.Discovery().RESTClient().Post().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices").
		SetHeader("Content-Type", "application/json").Body([]byte(`{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService",
		"metadata":{"name":"v1beta1.metrics.k8s.io"},"spec":{"group":"metrics.k8s.io","version":"v1beta1","insecureSkipTLSVerify":true,
		"groupPriorityMinimum":100,"versionPriority":100,"service":{"name":"metrics-server","namespace":"kube-system","port":4443}}}`)).
		Do(ctx).Error()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		p.Kill()
		return nil, fmt.Errorf("register metrics API: %w", err)
	}
	return p, nil
}
