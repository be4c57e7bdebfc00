package apiclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

func ofNode(nodeName string) fields.Selector {
	return fields.OneTermEqualSelector("spec.nodeName", nodeName)
}

// ListPods returns the pods bound to a node.
func (c *Client) ListPods(ctx context.Context, nodeName string, opts metav1.ListOptions) (*v1.PodList, error) {
	opts.FieldSelector = ofNode(nodeName).String()
	pods := &v1.PodList{}
	err := c.do(ctx, c.core.Get().Resource("pods").VersionedParams(&opts, c.codecs.parameters), pods)
	return pods, err
}

// WatchPods is the list and watch of the pods bound to a node, for a
// reflector.
func (c *Client) WatchPods(nodeName string) cache.ListerWatcher {
	return c.listWatch(c.core, c.coreWatch, "pods", "", ofNode(nodeName), func() runtime.Object { return &v1.PodList{} })
}

// GetPod reads a pod, newest version.
func (c *Client) GetPod(ctx context.Context, namespace, name string) (*v1.Pod, error) {
	pod := &v1.Pod{}
	err := c.do(ctx, c.core.Get().Namespace(namespace).Resource("pods").Name(name), pod)
	return pod, err
}

// CreatePod creates a (mirror) pod.
func (c *Client) CreatePod(ctx context.Context, pod *v1.Pod) (*v1.Pod, error) {
	created := &v1.Pod{}
	err := c.do(ctx, c.core.Post().Namespace(pod.Namespace).Resource("pods").Body(pod), created)
	return created, err
}

// DeletePod deletes a pod; opts carries grace period and UID precondition.
func (c *Client) DeletePod(ctx context.Context, namespace, name string, opts metav1.DeleteOptions) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	// The answer is a Pod or a Status, and of no interest.
	return c.core.Delete().Namespace(namespace).Resource("pods").Name(name).Body(&opts).Do(ctx).Error()
}

// PatchPodStatus applies a strategic merge patch to the status subresource.
// The UID goes into the patch as a precondition: if another pod has taken the
// name, the error is Conflict.
func (c *Client) PatchPodStatus(ctx context.Context, namespace, name string, uid types.UID, patch []byte) (*v1.Pod, error) {
	patch, err := withUID(patch, uid)
	if err != nil {
		return nil, fmt.Errorf("patch status of pod %s/%s: %w", namespace, name, err)
	}
	pod := &v1.Pod{}
	err = c.do(ctx, c.core.Patch(types.StrategicMergePatchType).Namespace(namespace).Resource("pods").
		Name(name).SubResource("status").Body(patch), pod)
	if apierrors.IsInvalid(err) && isAboutUID(err) {
		// How newer servers put it: an attempt to change the UID.
		err = apierrors.NewConflict(v1.Resource("pods"), name, fmt.Errorf("the pod does not have the UID %s any longer: %w", uid, err))
	}
	return pod, err
}

func isAboutUID(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	for _, cause := range status.Status().Details.Causes {
		if cause.Field == "metadata.uid" {
			return true
		}
	}
	return false
}

// withUID sets metadata.uid in a patch.
func withUID(patch []byte, uid types.UID) ([]byte, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(patch, &top); err != nil {
		return nil, fmt.Errorf("parse patch: %w", err)
	}
	meta := map[string]json.RawMessage{}
	if raw, ok := top["metadata"]; ok {
		if err := json.Unmarshal(raw, &meta); err != nil {
			return nil, fmt.Errorf("parse metadata of patch: %w", err)
		}
	}
	if top == nil || meta == nil {
		return nil, fmt.Errorf("parse patch: null where an object belongs")
	}
	quoted, err := json.Marshal(string(uid))
	if err != nil {
		return nil, err
	}
	meta["uid"] = quoted
	if top["metadata"], err = json.Marshal(meta); err != nil {
		return nil, err
	}
	return json.Marshal(top)
}
