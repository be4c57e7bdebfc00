package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

const (
	firstLeaseRetry = 200 * time.Millisecond
	lastLeaseRetry  = 7 * time.Second
)

var errNoNode = errors.New("the Node object that the lease belongs to is not there yet")

// lease renews the node's lease, by which the control plane sees that the
// kubelet is alive. It waits for nothing but the API server.
// https://kubernetes.io/docs/concepts/architecture/leases/#node-heart-beats
type lease struct {
	api      API
	node     string
	duration time.Duration
	// uid returns the Node object's UID, "" if it is not known.
	uid func() string

	// held is the lease as it was last written or read.
	held *coordinationv1.Lease
}

func (l *lease) run(ctx context.Context) {
	interval := l.duration / 4
	failures := 0
	for {
		delay := interval + rand.N(interval/25+1)
		attempt, cancel := context.WithTimeout(ctx, interval)
		err := l.renew(attempt)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failures = 0
		default:
			delay = min(firstLeaseRetry<<min(failures, 10), lastLeaseRetry, interval)
			failures++
			logger := klog.FromContext(ctx)
			if errors.Is(err, errNoNode) {
				logger.V(2).Info("Node lease is not held yet", "reason", err.Error(), "retryIn", delay)
			} else {
				logger.Error(err, "Node lease is not renewed, will retry", "retryIn", delay)
			}
		}
		if !sleep(ctx, delay) {
			return
		}
	}
}

// renew writes the lease once. It believes its last version to be the newest,
// which saves reading it, and reads it only after that was wrong.
func (l *lease) renew(ctx context.Context) error {
	if l.held == nil {
		held, err := l.api.GetLease(ctx, v1.NamespaceNodeLease, l.node)
		if apierrors.IsNotFound(err) {
			return l.create(ctx)
		}
		if err != nil {
			return fmt.Errorf("read node lease: %w", err)
		}
		l.held = held
	}
	updated, err := l.api.UpdateLease(ctx, l.fresh(l.held.DeepCopy()))
	if err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			l.held = nil
		}
		return fmt.Errorf("update node lease: %w", err)
	}
	l.held = updated
	return nil
}

func (l *lease) create(ctx context.Context) error {
	if l.uid() == "" {
		// Without its owner the lease would outlive the node.
		return errNoNode
	}
	created, err := l.api.CreateLease(ctx, l.fresh(&coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: l.node, Namespace: v1.NamespaceNodeLease},
	}))
	if err != nil {
		return fmt.Errorf("create node lease: %w", err)
	}
	l.held = created
	return nil
}

func (l *lease) fresh(lease *coordinationv1.Lease) *coordinationv1.Lease {
	seconds := int32(l.duration / time.Second)
	lease.Spec.HolderIdentity = &l.node
	lease.Spec.LeaseDurationSeconds = &seconds
	lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
	if uid := types.UID(l.uid()); uid != "" && (len(lease.OwnerReferences) != 1 || lease.OwnerReferences[0].UID != uid) {
		lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: l.node, UID: uid}}
	}
	return lease
}
