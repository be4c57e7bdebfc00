// Package node tests a kubelet without an API server: static pods from files
// and a URL on real containerd, its command line and its local endpoints.
package node

import (
	"context"
	"fmt"
	"testing"
	"time"

	"kubelet/test/harness"
)

var (
	node    *harness.Node
	kubelet *harness.Kubelet
)

func TestMain(m *testing.M) {
	harness.Main(m, func() (func(), error) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		var err error
		node, err = harness.NewNode(ctx, harness.Config{Name: "standalone-node"})
		if err != nil {
			return nil, err
		}
		kubelet = node.NewKubelet(harness.KubeletOptions{})
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
