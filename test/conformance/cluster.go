package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"kubelet/test/harness"
)

// cluster is the node that a run judges.
type cluster struct {
	node    *harness.Node
	kubelet *harness.Kubelet
}

// startCluster starts everything that the suite needs. What it returns is to
// be closed even if there is an error.
func startCluster(ctx context.Context, o options) (*cluster, error) {
	began := time.Now()
	binary, err := binaryOf(o.kubelet)
	if err != nil {
		return nil, err
	}
	config := harness.Config{Name: "conformance", ControlPlane: true, Runtime: o.runtime}
	images, err := openImages(part("images.tar"))
	if err != nil {
		return nil, fmt.Errorf("open the images, which test/setup/conformance.sh makes: %w", err)
	}
	node, err := harness.NewNode(ctx, config)
	if err != nil {
		return nil, err
	}
	c := &cluster{node: node}
	listener, err := node.Listen("127.0.0.1:5010")
	if err != nil {
		return c, fmt.Errorf("listen for the registry: %w", err)
	}
	go func() { _ = (&http.Server{Handler: images}).Serve(listener) }() // ends with the process
	if err := node.PullFrom("http://"+listener.Addr().String(), "registry.k8s.io"); err != nil {
		return c, err
	}
	if err := node.Cluster.StartCoreDNS(ctx, part("coredns")); err != nil {
		return c, err
	}
	if err := node.Cluster.ServeAPIToPods(ctx); err != nil {
		return c, err
	}
	if err := node.StartKubeProxy(); err != nil {
		return c, err
	}
	c.kubelet = node.NewKubelet(harness.KubeletOptions{
		Binary: binary,
		Configure: func(k *kubeletconfig.KubeletConfiguration) {
			// As most nodes have it.
			k.ReadOnlyPort = 0
			k.PodPidsLimit = nil
		},
	})
	if err := c.kubelet.StartAndWait(ctx); err != nil {
		return c, err
	}
	say("control plane, kube-proxy, CoreDNS, registry, containerd %s and %s are up after %s", node.Containerd, binary, time.Since(began).Round(time.Second))
	return c, nil
}

// binaryOf is the kubelet to judge.
func binaryOf(name string) (string, error) {
	switch name {
	case "":
		return harness.KubeletBinary()
	case upstream:
		return harness.UpstreamBinary(), nil
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the kubelet to judge: %w", err)
	}
	return path, nil
}
