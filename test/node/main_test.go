// Package node tests a kubelet without an API server: static pods from files
// and a URL on real containerd, its command line and its local endpoints.
package node

import (
	"context"
	"fmt"
	"testing"
	"time"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"

	"kubelet/test/harness"
)

var (
	node    *harness.Node
	kubelet *harness.Kubelet
)

// noMkdir is a seccomp profile that forbids to make directories.
const noMkdir = `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
  "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}`

// configure sets what the defaults leave off.
func configure(c *kubeletconfig.KubeletConfiguration) {
	c.SeccompDefault = ptr.To(true)
	c.AllowedUnsafeSysctls = []string{"net.core.*"}
	c.FeatureGates = map[string]bool{"DefaultPodSysctls": true, "ContainerStopSignals": true}
	c.DefaultPodSysctls = map[string]string{"net.ipv4.tcp_keepalive_time": "300"}
}

func TestMain(m *testing.M) {
	harness.Main(m, func() (func(), error) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		var err error
		node, err = harness.NewNode(ctx, harness.Config{Name: "standalone-node"})
		if err != nil {
			return nil, err
		}
		if err := node.WriteFile("/var/lib/kubelet/seccomp/profiles/no-mkdir.json", noMkdir, 0o644); err != nil {
			node.Close()
			return nil, err
		}
		kubelet = node.NewKubelet(harness.KubeletOptions{Configure: configure})
		if err := kubelet.StartAndWait(ctx); err != nil {
			node.Close()
			return nil, err
		}
		return func() {
			if !kubelet.Stop() {
				fmt.Println("the kubelet did not end within 10 s of SIGTERM")
			}
			node.Close()
		}, nil
	})
}
