package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"kubelet/test/harness"
)

// Columns of the table.
const (
	floorColumn    = "floor"
	upstreamColumn = "upstream"
	ownColumn      = "kubelet"
)

var allColumns = []string{floorColumn, upstreamColumn, ownColumn}

// bench is a run.
type bench struct {
	options
	began  time.Time
	report *report

	control  *harness.Node
	client   kubernetes.Interface
	columns  []*column // in the order of allColumns
	observer *observer
	names    atomic.Int64
	mark     int64 // how far the audit log has been read
}

// column is one of the things that are compared: a node with a kubelet, or
// with the trivial client.
type column struct {
	name    string
	node    *harness.Node
	floor   *floor           // of the floor column
	binary  string           // of the others
	kubelet *harness.Kubelet // nil while stopped
}

// setUp starts control plane, nodes and kubelets.
func (b *bench) setUp(ctx context.Context) (err error) {
	say("building the kubelet and starting a control plane and three nodes")
	own, err := b.options.kubelet, error(nil)
	if own == "" {
		own, err = harness.KubeletBinary()
	} else {
		own, err = filepath.Abs(own)
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(own); err != nil {
		return fmt.Errorf("the kubelet to measure: %w", err)
	}
	b.control, err = harness.NewNode(ctx, harness.Config{Name: "control", ControlPlane: true, ControlOnly: true})
	if err != nil {
		return err
	}
	config := fast(b.control.Cluster.Config)
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	for i, c := range []*column{
		{name: floorColumn}, {name: upstreamColumn, binary: harness.UpstreamBinary()}, {name: ownColumn, binary: own},
	} {
		if !slices.Contains(b.options.columns, c.name) {
			continue
		}
		if c.node, err = harness.NewNode(ctx, harness.Config{
			Name: "node-" + c.name, Join: b.control, Address: fmt.Sprintf("10.70.0.%d", 10+i),
		}); err != nil {
			return err
		}
		b.columns = append(b.columns, c)
		if c.name == floorColumn {
			if c.floor, err = newFloor(ctx, c.node); err != nil {
				return err
			}
		}
	}
	if len(b.columns) == 0 {
		return fmt.Errorf("no column chosen; there are %s", strings.Join(allColumns, ", "))
	}
	if b.observer, err = newObserver(ctx, b.client); err != nil {
		return err
	}
	if err := b.createObjects(ctx); err != nil {
		return err
	}
	return b.report.describe(b)
}

// fast is the configuration of a client that is never its own bottleneck.
func fast(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	c.ContentType, c.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	c.QPS = -1
	return c
}

func (b *bench) close() {
	if b.observer != nil {
		b.observer.stop()
	}
	for _, c := range b.columns {
		if c.kubelet != nil {
			c.kubelet.Kill()
		}
		if c.floor != nil {
			c.floor.close()
		}
		c.node.Close()
	}
	if b.control != nil {
		b.control.Close()
	}
}

// active starts the kubelets of these columns and stops the others'.
func (b *bench) active(ctx context.Context, columns ...*column) error {
	for _, c := range b.columns {
		wanted := false
		for _, other := range columns {
			wanted = wanted || c == other
		}
		switch {
		case c.binary == "" || wanted == (c.kubelet != nil):
		case wanted:
			if err := c.startKubelet(ctx, nil); err != nil {
				return err
			}
		default:
			c.stopKubelet()
		}
	}
	return nil
}

// startKubelet starts the column's kubelet with the configuration that all
// have and waits until its node is Ready.
func (c *column) startKubelet(ctx context.Context, configure func(*kubeletconfig.KubeletConfiguration)) error {
	k := c.node.NewKubelet(harness.KubeletOptions{
		Binary: c.binary,
		Flags:  []string{"-v=" + cmp.Or(os.Getenv("KUBELET_V"), "2")}, // the last one counts
		Configure: func(k *kubeletconfig.KubeletConfiguration) {
			k.ReadOnlyPort = 0
			k.MaxPods = 600
			k.StaticPodPath = ""
			k.PodPidsLimit = nil
			k.EvictionHard = nil
			if configure != nil {
				configure(k)
			}
		},
	})
	if err := k.StartAndWait(ctx); err != nil {
		return fmt.Errorf("start the kubelet of %s: %w", c.name, err)
	}
	c.kubelet = k
	return nil
}

func (c *column) stopKubelet() {
	if c.kubelet != nil {
		c.kubelet.Stop()
		c.kubelet = nil
	}
}

// cpu is the CPU time that the column's kubelet and its children have used;
// the floor's is not told apart from the benchmark's.
func (c *column) cpu() (time.Duration, error) {
	if c.kubelet == nil {
		return 0, nil
	}
	return cpuTime(c.kubelet.Process().Pid())
}

const namespace = "bench"

// createObjects makes what pods refer to.
func (b *bench) createObjects(ctx context.Context) error {
	core := b.client.CoreV1()
	o := metav1.CreateOptions{}
	_, err1 := core.Namespaces().Create(ctx, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, o)
	data := map[string]string{}
	for i := range 4 {
		data[fmt.Sprintf("key-%d", i)] = "value\n"
	}
	_, err2 := core.ConfigMaps(namespace).Create(ctx, &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "config"}, Data: data}, o)
	_, err3 := core.Secrets(namespace).Create(ctx, &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"}, StringData: data}, o)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("make objects: %w", err)
	}
	return harness.Until(ctx, time.Minute, "the service account", func(ctx context.Context) error {
		if _, err := core.ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{}); err != nil {
			return err
		}
		_, err := core.ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// name makes a pod name that was not used before.
func (b *bench) name(prefix string) string {
	return fmt.Sprintf("%s-%d", prefix, b.names.Add(1))
}

// rotate returns the columns in an order that changes with each turn, so that
// none is always the first.
func (b *bench) rotate(turn int) []*column {
	n := len(b.columns)
	order := make([]*column, 0, n)
	for i := range n {
		order = append(order, b.columns[(turn+i)%n])
	}
	if turn/n%2 == 1 {
		order[0], order[n-1] = order[n-1], order[0]
	}
	return order
}

// kubelets are the columns that have one, in an order that changes.
func (b *bench) kubelets(turn int) (columns []*column) {
	for _, c := range b.columns {
		if c.binary != "" {
			columns = append(columns, c)
		}
	}
	if turn%2 == 1 {
		slices.Reverse(columns)
	}
	return columns
}
