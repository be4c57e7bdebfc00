package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

// KubeletConfigFile is where the node's kubelet has its configuration.
const KubeletConfigFile = "/var/lib/kubelet/config.yaml"

const healthzURL = "http://127.0.0.1:10248/healthz"

// kubeletBinary is built once per run.
var kubeletBinary = sync.OnceValues(findKubelet)

// findKubelet returns the kubelet under test: KUBELET names another than our
// own, "upstream-kubelet" the upstream one, against which the tests can be
// checked. RACE=1 builds ours with the race detector.
func findKubelet() (string, error) {
	switch path := os.Getenv("KUBELET"); {
	case path == "upstream-kubelet":
		return controlPlaneBinary(path), nil
	case path != "":
		return filepath.Abs(path)
	}
	start := time.Now()
	out := filepath.Join(artifactsRoot(), "kubelet")
	root, err := projectRoot()
	if err != nil {
		return "", err
	}
	// As everybody builds it, version stamp and all; make knows RACE, too.
	cmd := exec.Command("make", "--no-print-directory", "-C", root, "build", "OUT="+out)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the kubelet: %w\n%s", err, text)
	}
	progress("kubelet built in %s", since(start))
	return out, nil
}

// projectRoot is the folder of go.mod, above the one that tests run in.
func projectRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the project: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// KubeletBinary builds the kubelet under test, once, and returns its path.
func KubeletBinary() (string, error) { return kubeletBinary() }

// UpstreamBinary is the path of the upstream kubelet.
func UpstreamBinary() string { return controlPlaneBinary("upstream-kubelet") }

// Upstream says whether the upstream kubelet is under test.
func Upstream() bool { return filepath.Base(os.Getenv("KUBELET")) == "upstream-kubelet" }

// KubeletOptions change how a kubelet is started.
type KubeletOptions struct {
	// Configure edits the configuration before it is written.
	Configure func(*kubeletconfig.KubeletConfiguration)
	// Flags are added to the command line.
	Flags []string
	// Standalone leaves the API server out even if there is one.
	Standalone bool
	// Binary is another kubelet than the one under test.
	Binary string
}

// Kubelet is a kubelet of a node; it may be killed and started again.
type Kubelet struct {
	node    *Node
	options KubeletOptions
	process *Process
}

// NewKubelet prepares a kubelet of the node without starting it.
func (n *Node) NewKubelet(o KubeletOptions) *Kubelet { return &Kubelet{node: n, options: o} }

// config of the kubelet; what is not set here has upstream's default.
func (k *Kubelet) config() *kubeletconfig.KubeletConfiguration {
	standalone := k.standalone()
	driver := "cgroupfs"
	if k.node.systemdCgroups {
		driver = "systemd"
	}
	c := &kubeletconfig.KubeletConfiguration{
		TypeMeta:                    metav1.TypeMeta{APIVersion: "kubelet.config.k8s.io/v1beta1", Kind: "KubeletConfiguration"},
		StaticPodPath:               ManifestDir,
		ContainerRuntimeEndpoint:    "unix://" + criSocket,
		CgroupDriver:                driver,
		CgroupRoot:                  k.node.cgroupRoot,
		FailCgroupV1:                ptr.To(false),
		FailSwapOn:                  ptr.To(false),
		ResolverConfig:              ptr.To("/etc/resolv.conf"),
		ClusterDNS:                  []string{ClusterDNS},
		ClusterDomain:               "cluster.local",
		ReadOnlyPort:                10255,
		Address:                     k.node.ip,
		ImageGCHighThresholdPercent: ptr.To[int32](100),
		EvictionHard:                map[string]string{"memory.available": "20Mi"},
		PodPidsLimit:                ptr.To[int64](4096),
	}
	c.Authentication.Anonymous.Enabled = ptr.To(false)
	if standalone {
		c.Authentication.Webhook.Enabled = ptr.To(false)
		c.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeAlwaysAllow
	} else {
		c.Authentication.X509.ClientCAFile = pkiDir + "/ca.crt"
	}
	if k.options.Configure != nil {
		k.options.Configure(c)
	}
	return c
}

func (k *Kubelet) standalone() bool { return k.options.Standalone || k.node.Cluster == nil }

// Start writes the configuration and starts the kubelet, without waiting for
// more than the process.
func (k *Kubelet) Start() error {
	text, err := yaml.Marshal(k.config())
	if err != nil {
		return fmt.Errorf("encode kubelet configuration: %w", err)
	}
	if err := k.node.WriteFile(KubeletConfigFile, string(text), 0o644); err != nil {
		return err
	}
	args := []string{"--config=" + KubeletConfigFile, "--node-ip=" + k.node.ip, "-v=" + first(os.Getenv("KUBELET_V"), "4")}
	if !k.standalone() {
		args = append(args, "--kubeconfig="+KubeletKubeconfig)
	}
	binary, err := k.options.Binary, error(nil)
	if binary == "" {
		binary, err = kubeletBinary()
	}
	if err != nil {
		return err
	}
	k.process, err = k.node.Start(Command{Name: "kubelet", Path: binary, Args: append(args, k.options.Flags...)})
	return err
}

// RunKubelet runs the kubelet binary with other arguments to its end, or for
// ten seconds, and returns its output and exit code (-1 if it was still
// running).
func (n *Node) RunKubelet(ctx context.Context, args ...string) (string, int, error) {
	binary, err := kubeletBinary()
	if err != nil {
		return "", 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := n.Run(ctx, binary, args...)
	if err == nil {
		return out, 0, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out, exit.ExitCode(), nil
	}
	return out, -1, err
}

// StartAndWait starts the kubelet and waits until it is healthy and, with a
// control plane, its node Ready.
func (k *Kubelet) StartAndWait(ctx context.Context) error {
	if err := k.Start(); err != nil {
		return err
	}
	return k.WaitHealthy(ctx)
}

// WaitHealthy waits until the kubelet answers on its health port, and its node
// is Ready if there is a control plane.
func (k *Kubelet) WaitHealthy(ctx context.Context) error {
	client := k.node.HTTPClient()
	err := Until(ctx, 60*time.Second, "the kubelet to be healthy", func(ctx context.Context) error {
		if err := k.Alive(); err != nil {
			return Permanent(err)
		}
		_, err := get(ctx, client, healthzURL)
		return err
	})
	if err != nil || k.standalone() {
		return err
	}
	return k.node.Cluster.WaitNode(ctx, k.node.Name, "Ready", 60*time.Second, func(node *v1.Node) bool {
		return nodeCondition(node, v1.NodeReady) == v1.ConditionTrue
	})
}

// Alive returns an error if the process has ended.
func (k *Kubelet) Alive() error {
	select {
	case <-k.process.Done():
		return fmt.Errorf("the kubelet ended with code %d: %s", k.process.ExitCode(), tail(k.process.Log, 5))
	default:
		return nil
	}
}

// Kill ends the kubelet with SIGKILL.
func (k *Kubelet) Kill() { k.process.Kill() }

// Stop ends it with SIGTERM and says whether it did so within ten seconds.
func (k *Kubelet) Stop() bool { return k.process.Stop(10 * time.Second) }

// Process is the running or last process.
func (k *Kubelet) Process() *Process { return k.process }

// Pods are the pods as the kubelet's read-only port shows them.
func (k *Kubelet) Pods(ctx context.Context) ([]v1.Pod, error) {
	text, err := get(ctx, k.node.HTTPClient(), "http://"+k.node.ip+":10255/pods")
	if err != nil {
		return nil, err
	}
	var list v1.PodList
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("decode /pods: %w", err)
	}
	return list.Items, nil
}

// Get is an HTTP GET on the node.
func (n *Node) Get(ctx context.Context, url string) (string, error) {
	text, err := get(ctx, n.HTTPClient(), url)
	return string(text), err
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s: %s", url, resp.Status, strings.TrimSpace(string(text)))
	}
	return text, nil
}

// tail returns the last lines of a file.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
