// Package cluster tests the kubelet against a real control plane:
// kube-apiserver, kube-controller-manager and kube-scheduler, with containerd
// underneath. All tests share one node. Those that disturb the node for others
// (kill the kubelet, take the API server away) do not run in parallel; go test
// runs them first.
package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"kubelet/test/harness"
)

var (
	node    *harness.Node
	kubelet *harness.Kubelet
)

type kubeletConfig = kubeletconfig.KubeletConfiguration

// nodeFlags are given to every kubelet of the node. The many log files are for
// a follower on a machine that is busy with other tests: what it has not read
// must still be there.
var nodeFlags = []string{"--node-labels=test.example/label=yes", "--container-log-max-size=10Mi", "--container-log-max-files=60"}

func TestMain(m *testing.M) {
	harness.Main(m, func() (func(), error) {
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
		defer cancel()
		var err error
		node, err = harness.NewNode(ctx, harness.Config{Name: "cluster-node", ControlPlane: true})
		if err != nil {
			return nil, err
		}
		kubelet = node.NewKubelet(harness.KubeletOptions{Flags: nodeFlags})
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
