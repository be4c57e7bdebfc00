package node

import (
	"context"
	"fmt"
	"runtime"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

const (
	firstRegisterRetry = 100 * time.Millisecond
	lastRegisterRetry  = 7 * time.Second

	annotationAttachDetach = "volumes.kubernetes.io/controller-managed-attach-detach"
	taintUninitialized     = "node.cloudprovider.kubernetes.io/uninitialized"
	labelOSBeta            = "beta.kubernetes.io/os"
	labelArchBeta          = "beta.kubernetes.io/arch"
)

// ownLabels are the labels that the kubelet keeps at its own values on a Node
// object that is there already; other labels are the administrator's from
// then on.
var ownLabels = [...]string{
	v1.LabelHostname, v1.LabelOSStable, v1.LabelArchStable, labelOSBeta, labelArchBeta,
	v1.LabelTopologyZone, v1.LabelTopologyRegion, v1.LabelFailureDomainBetaZone, v1.LabelFailureDomainBetaRegion,
	v1.LabelInstanceTypeStable, v1.LabelInstanceType,
}

// initialNode is the Node object as this kubelet would create it, without
// status.
func initialNode(cfg Config) *v1.Node {
	node := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: cfg.Name,
			Labels: map[string]string{
				v1.LabelHostname:   cfg.Hostname,
				v1.LabelOSStable:   runtime.GOOS,
				v1.LabelArchStable: runtime.GOARCH,
				labelOSBeta:        runtime.GOOS,
				labelArchBeta:      runtime.GOARCH,
			},
		},
		Spec: v1.NodeSpec{ProviderID: cfg.ProviderID, Unschedulable: cfg.Unschedulable},
	}
	for key, value := range cfg.Labels {
		node.Labels[key] = value
	}
	node.Spec.Taints = append(node.Spec.Taints, cfg.Taints...)
	if cfg.ExternalCloudProvider {
		node.Spec.Taints = append(node.Spec.Taints, v1.Taint{
			Key: taintUninitialized, Value: "true", Effect: v1.TaintEffectNoSchedule,
		})
	}
	if cfg.ControllerAttachDetach {
		setAnnotation(node, annotationAttachDetach, "true")
	}
	return node
}

// register creates the Node object or takes over the one that is there, and
// says which. It tries until it succeeds or ctx ends.
func (n *Node) register(ctx context.Context) (created bool) {
	logger := klog.FromContext(ctx)
	for delay := firstRegisterRetry; ; delay = min(2*delay, lastRegisterRetry) {
		n.runtime.ask(ctx)
		wanted := n.generate(ctx, initialNode(n.cfg))
		n.table.setLocal(wanted)
		n.metrics.attempt(time.Now())
		registered, created, err := n.tryRegister(ctx, wanted)
		if err == nil {
			if created {
				n.metrics.registered(time.Now())
			}
			n.table.setServer(registered)
			logger.Info("Node registered", "node", klog.KObj(registered), "created", created)
			return created
		}
		if ctx.Err() != nil {
			return false
		}
		logger.Error(err, "Node is not registered yet, will retry", "node", klog.KRef("", n.cfg.Name), "retryIn", delay)
		if !sleep(ctx, delay) {
			return false
		}
	}
}

func (n *Node) tryRegister(ctx context.Context, wanted *v1.Node) (node *v1.Node, created bool, err error) {
	node, err = n.cfg.API.CreateNode(ctx, wanted)
	switch {
	case err == nil:
		return node, true, nil
	case apierrors.IsAlreadyExists(err):
	case apierrors.IsForbidden(err):
		// A kubelet that may not create its node may still find it there.
	default:
		return nil, false, fmt.Errorf("create node: %w", err)
	}
	existing, getErr := n.cfg.API.GetNode(ctx, n.cfg.Name)
	if getErr != nil {
		if apierrors.IsNotFound(getErr) {
			return nil, false, fmt.Errorf("create node: %w", err)
		}
		return nil, false, fmt.Errorf("read existing node: %w", getErr)
	}
	zero := n.cfg.ZeroExtendedResources != nil && n.cfg.ZeroExtendedResources()
	reconciled := reconcile(existing, wanted, zero)
	patch, err := statusPatch(existing, reconciled)
	if err != nil {
		return nil, false, err
	}
	if string(patch) == "{}" {
		return existing, false, nil
	}
	node, err = n.cfg.API.PatchNodeStatus(ctx, n.cfg.Name, patch)
	if err != nil {
		return nil, false, fmt.Errorf("update existing node: %w", err)
	}
	return node, false, nil
}

// reconcile returns an existing Node object as this kubelet takes it over: its
// own labels, the attach-detach annotation, huge pages that the machine has
// no longer, and extended resources that have to be announced anew. Taints
// and other labels are only for nodes that are created. existing is not
// modified.
func reconcile(existing, wanted *v1.Node, zeroExtended bool) *v1.Node {
	node := existing.DeepCopy()
	if node.Labels == nil {
		node.Labels = make(map[string]string)
	}
	for _, key := range ownLabels {
		value, ok := wanted.Labels[key]
		switch {
		case !ok:
		case value == "":
			delete(node.Labels, key)
		default:
			node.Labels[key] = value
		}
	}
	if value, ok := wanted.Annotations[annotationAttachDetach]; ok {
		setAnnotation(node, annotationAttachDetach, value)
	} else {
		delete(node.Annotations, annotationAttachDetach)
	}
	for name := range node.Status.Capacity {
		if _, ok := wanted.Status.Capacity[name]; isHugePages(name) && !ok {
			delete(node.Status.Capacity, name)
			delete(node.Status.Allocatable, name)
		}
	}
	if node.Status.Capacity == nil {
		node.Status.Capacity = v1.ResourceList{}
	}
	if node.Status.Allocatable == nil {
		node.Status.Allocatable = v1.ResourceList{}
	}
	for name, amount := range wanted.Status.Capacity {
		if _, ok := node.Status.Capacity[name]; isHugePages(name) || !ok {
			node.Status.Capacity[name] = amount
			node.Status.Allocatable[name] = wanted.Status.Allocatable[name]
		}
	}
	if zeroExtended {
		for name := range node.Status.Capacity {
			if isExtended(name) {
				node.Status.Capacity[name] = *resource.NewQuantity(0, resource.DecimalSI)
				node.Status.Allocatable[name] = *resource.NewQuantity(0, resource.DecimalSI)
			}
		}
	}
	return node
}
