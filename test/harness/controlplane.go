package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	pkiDir    = "/etc/kubernetes/pki"
	apiServer = "https://" + NodeIP + ":6443"
	auditLog  = "/var/log/audit.log"

	// KubeletKubeconfig is the kubelet's way to the API server, a file of the node.
	KubeletKubeconfig = "/etc/kubernetes/kubelet.conf"
)

// auditPolicy records each request of the node's kubelet once, when it
// arrives, so that tests can count them.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete, Panic]
rules:
- level: Metadata
  userGroups: ["system:nodes"]
- level: None
`

// Cluster is the control plane of a node.
type Cluster struct {
	// Client acts as a cluster administrator, from the test.
	Client kubernetes.Interface
	// Config is what Client was made with.
	Config *rest.Config

	node      *Node
	apiserver *Process
	ca        *authority
}

func controlPlaneBinary(name string) string {
	return filepath.Join(CacheDir(), "controlplane-v1.37.2", name)
}

func (n *Node) startControlPlane(ctx context.Context) error {
	if _, err := os.Stat(controlPlaneBinary("kube-apiserver")); err != nil {
		return fmt.Errorf("the control plane is not built, run test/setup/controlplane.sh: %w", err)
	}
	c := &Cluster{node: n}
	if err := c.writeCredentials(); err != nil {
		return err
	}
	if _, err := n.Start(Command{Name: "etcd", Path: "/usr/bin/etcd", Args: []string{
		"--data-dir=/var/lib/etcd", "--name=test",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--logger=zap",
	}}); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	if _, err := n.Start(Command{Name: "kube-controller-manager", Path: controlPlaneBinary("kube-controller-manager"), Args: []string{
		"--kubeconfig=" + AdminKubeconfig, "--leader-elect=false",
		"--root-ca-file=" + pkiDir + "/ca.crt", "--service-account-private-key-file=" + pkiDir + "/sa.key",
		// A node on which tests put a taint keeps its other pods.
		"--controllers=*,-taint-eviction-controller",
		"--allocate-node-cidrs=false", "--kube-api-qps=200", "--kube-api-burst=400",
		// An autoscaler acts as soon as there are metrics.
		"--horizontal-pod-autoscaler-sync-period=2s", "--horizontal-pod-autoscaler-cpu-initialization-period=1s",
		"--horizontal-pod-autoscaler-initial-readiness-delay=1s",
	}}); err != nil {
		return err
	}
	if _, err := n.Start(Command{Name: "kube-scheduler", Path: controlPlaneBinary("kube-scheduler"), Args: []string{
		"--kubeconfig=" + AdminKubeconfig, "--leader-elect=false", "--kube-api-qps=200", "--kube-api-burst=400",
	}}); err != nil {
		return err
	}
	// Pods can be made once the controllers have given the namespace its
	// service account.
	if err := c.waitServiceAccount(ctx, metav1.NamespaceDefault); err != nil {
		return err
	}
	n.Cluster = c
	return nil
}

// StartAPIServer starts the API server (again) and waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	p, err := c.node.Start(Command{Name: "kube-apiserver", Path: controlPlaneBinary("kube-apiserver"), Args: []string{
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + NodeIP, "--bind-address=" + NodeIP, "--secure-port=6443",
		"--service-cluster-ip-range=" + serviceNet, "--endpoint-reconciler-type=none",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--client-ca-file=" + pkiDir + "/ca.crt",
		"--tls-cert-file=" + pkiDir + "/apiserver.crt", "--tls-private-key-file=" + pkiDir + "/apiserver.key",
		"--kubelet-client-certificate=" + pkiDir + "/admin.crt", "--kubelet-client-key=" + pkiDir + "/admin.key",
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + pkiDir + "/sa.key",
		"--service-account-signing-key-file=" + pkiDir + "/sa.key",
		// For APIs that other servers add, such as metrics-server.
		"--requestheader-client-ca-file=" + pkiDir + "/ca.crt", "--requestheader-allowed-names=front-proxy",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + pkiDir + "/front-proxy.crt", "--proxy-client-key-file=" + pkiDir + "/front-proxy.key",
		"--audit-policy-file=/etc/kubernetes/audit.yaml", "--audit-log-path=" + auditLog,
		// A real cluster's API server answers many kubelets; here one node
		// and the test share it, and neither shall be queued.
		"--max-requests-inflight=0", "--max-mutating-requests-inflight=0", "--enable-priority-and-fairness=false",
	}})
	if err != nil {
		return err
	}
	c.apiserver = p
	return Until(ctx, 120*time.Second, "the API server to be ready", func(ctx context.Context) error {
		select {
		case <-p.Done():
			return Permanent(fmt.Errorf("kube-apiserver ended with code %d, see %s", p.ExitCode(), p.Log))
		default:
		}
		return c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(5 * time.Second).Do(ctx).Error()
	})
}

// StopAPIServer takes the API server away at once.
func (c *Cluster) StopAPIServer() { c.apiserver.Kill() }

// writeCredentials makes all certificates and kubeconfig files of the node.
func (c *Cluster) writeCredentials() error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	c.ca = ca
	files := map[string][]byte{
		pkiDir + "/ca.crt":           ca.pem,
		"/etc/kubernetes/audit.yaml": []byte(auditPolicy),
	}
	issue := func(file, name string, groups []string, ips []net.IP, hosts []string) (pair, error) {
		p, err := ca.issue(name, groups, ips, hosts)
		files[pkiDir+"/"+file+".crt"], files[pkiDir+"/"+file+".key"] = p.cert, p.key
		return p, err
	}
	_, err1 := issue("apiserver", "kube-apiserver", nil,
		[]net.IP{net.ParseIP(NodeIP), net.ParseIP("127.0.0.1"), net.ParseIP("10.96.0.1")},
		[]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"})
	_, err2 := issue("sa", "service-accounts", nil, nil, nil)
	_, err5 := issue("front-proxy", "front-proxy", nil, nil, nil)
	admin, err3 := issue("admin", "admin", []string{"system:masters"}, nil, nil)
	kubelet, err4 := issue("kubelet", "system:node:"+c.node.Name, []string{"system:nodes"}, nil, nil)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return err
	}
	for path, p := range map[string]pair{AdminKubeconfig: admin, KubeletKubeconfig: kubelet} {
		text, err := kubeconfig(ca, p)
		if err != nil {
			return err
		}
		files[path] = text
	}
	for path, text := range files {
		if err := c.node.WriteFile(path, string(text), 0o600); err != nil {
			return err
		}
	}
	c.Config = &rest.Config{
		Host:            apiServer,
		TLSClientConfig: rest.TLSClientConfig{CAData: ca.pem, CertData: admin.cert, KeyData: admin.key},
		Dial:            c.node.Dial,
		QPS:             1000,
		Burst:           1000,
	}
	c.Client, err = kubernetes.NewForConfig(c.Config)
	if err != nil {
		return fmt.Errorf("make API client: %w", err)
	}
	return nil
}

func kubeconfig(ca *authority, p pair) ([]byte, error) {
	text, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"test": {Server: apiServer, CertificateAuthorityData: ca.pem}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"user": {ClientCertificateData: p.cert, ClientKeyData: p.key}},
		Contexts:       map[string]*clientcmdapi.Context{"test": {Cluster: "test", AuthInfo: "user"}},
		CurrentContext: "test",
	})
	if err != nil {
		return nil, fmt.Errorf("encode kubeconfig: %w", err)
	}
	return text, nil
}

func (c *Cluster) waitServiceAccount(ctx context.Context, namespace string) error {
	return Until(ctx, 60*time.Second, "the service account of "+namespace, func(ctx context.Context) error {
		if _, err := c.Client.CoreV1().ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{}); err != nil {
			return err
		}
		_, err := c.Client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// join connects the node with another's network and gives its kubelet the
// credentials for the cluster there.
func (n *Node) join(other *Node) error {
	if other.Cluster == nil || n.bare || other.bare {
		return fmt.Errorf("join node %s: it has no control plane, or a node is the machine itself", other.Name)
	}
	link := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "port" + n.ip[strings.LastIndexByte(n.ip, '.'):], // at most 15 characters
			Namespace: netlink.NsPid(other.init.Process.Pid)},
		PeerName: "uplink", PeerNamespace: netlink.NsPid(n.init.Process.Pid),
	}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("connect with node %s: %w", other.Name, err)
	}
	for end, node := range map[string]*Node{link.Name: other, link.PeerName: n} {
		if err := node.inside(func() error { return plugIn(end) }); err != nil {
			return fmt.Errorf("plug %s into the bridge of node %s: %w", end, node.Name, err)
		}
	}
	p, err := other.Cluster.ca.issue("system:node:"+n.Name, []string{"system:nodes"}, nil, nil)
	if err != nil {
		return err
	}
	text, err := kubeconfig(other.Cluster.ca, p)
	if err != nil {
		return err
	}
	for path, text := range map[string][]byte{pkiDir + "/ca.crt": other.Cluster.ca.pem, KubeletKubeconfig: text} {
		if err := n.WriteFile(path, string(text), 0o600); err != nil {
			return err
		}
	}
	n.Cluster = other.Cluster
	return nil
}

// plugIn makes an interface a port of the node's bridge.
func plugIn(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	bridge, err := netlink.LinkByName("node0")
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetUp(link))
}

// ClientConfig is how the node's kubelet would reach the API server, from the
// test.
func (n *Node) ClientConfig() (*rest.Config, error) {
	text, err := os.ReadFile(n.Path(KubeletKubeconfig))
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.Dial = n.Dial
	return config, nil
}

// NewNamespace makes a namespace in which pods can be created at once.
func (c *Cluster) NewNamespace(ctx context.Context, prefix string) (string, error) {
	ns, err := c.Client.CoreV1().Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix + "-"}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("make namespace: %w", err)
	}
	return ns.Name, c.waitServiceAccount(ctx, ns.Name)
}

// Request is one API request of the node's kubelet.
type Request struct {
	Verb     string
	Resource string // with its subresource: "pods/status"
	Name     string
	Path     string
	Agent    string
	User     string // "system:node:" and the node's name
}

// Requests returns the kubelet's API requests since the mark, and a new mark.
// A mark is a position in the audit log; 0 is its beginning.
func (c *Cluster) Requests(mark int64) ([]Request, int64, error) {
	f, err := os.Open(c.node.Path(auditLog))
	if err != nil {
		return nil, mark, fmt.Errorf("open audit log: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(mark, 0); err != nil {
		return nil, mark, fmt.Errorf("seek in audit log: %w", err)
	}
	var requests []Request
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil { // an incomplete last line is read the next time
			return requests, mark, nil
		}
		mark += int64(len(line))
		var event struct {
			Verb       string `json:"verb"`
			RequestURI string `json:"requestURI"`
			UserAgent  string `json:"userAgent"`
			User       struct {
				Username string `json:"username"`
			} `json:"user"`
			ObjectRef struct {
				Resource, Subresource, Name string
			} `json:"objectRef"`
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, mark, fmt.Errorf("parse audit log: %w", err)
		}
		resource := event.ObjectRef.Resource
		if s := event.ObjectRef.Subresource; s != "" {
			resource += "/" + s
		}
		requests = append(requests, Request{Verb: event.Verb, Resource: resource, Name: event.ObjectRef.Name, Path: event.RequestURI, Agent: event.UserAgent, User: event.User.Username})
	}
}
