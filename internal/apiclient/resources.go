package apiclient

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Nodes: reads and writes of the own Node go out as heartbeats, beside the
// ordinary limiter.

// GetNode reads a node, newest version.
func (c *Client) GetNode(ctx context.Context, name string) (*v1.Node, error) {
	node := &v1.Node{}
	err := c.beat(ctx, c.coreHeartbeat.Get().Resource("nodes").Name(name), node)
	return node, err
}

// CreateNode registers a node.
func (c *Client) CreateNode(ctx context.Context, node *v1.Node) (*v1.Node, error) {
	created := &v1.Node{}
	err := c.beat(ctx, c.coreHeartbeat.Post().Resource("nodes").Body(node), created)
	return created, err
}

// PatchNode applies a strategic merge patch to a node's metadata and spec.
func (c *Client) PatchNode(ctx context.Context, name string, patch []byte) (*v1.Node, error) {
	node := &v1.Node{}
	err := c.beat(ctx, c.coreHeartbeat.Patch(types.StrategicMergePatchType).Resource("nodes").Name(name).Body(patch), node)
	return node, err
}

// PatchNodeStatus applies a strategic merge patch to a node's status and
// metadata.
func (c *Client) PatchNodeStatus(ctx context.Context, name string, patch []byte) (*v1.Node, error) {
	node := &v1.Node{}
	err := c.beat(ctx, c.coreHeartbeat.Patch(types.StrategicMergePatchType).Resource("nodes").Name(name).
		SubResource("status").Body(patch), node)
	return node, err
}

// WatchNode is the list and watch of one node, for a reflector.
func (c *Client) WatchNode(name string) cache.ListerWatcher {
	return c.listWatch(c.coreHeartbeat, c.coreWatch, "nodes", "", fields.OneTermEqualSelector("metadata.name", name),
		func() runtime.Object { return &v1.NodeList{} })
}

// GetLease reads a lease.
func (c *Client) GetLease(ctx context.Context, namespace, name string) (*coordinationv1.Lease, error) {
	lease := &coordinationv1.Lease{}
	err := c.beat(ctx, c.leases.Get().Namespace(namespace).Resource("leases").Name(name), lease)
	return lease, err
}

// CreateLease creates a lease.
func (c *Client) CreateLease(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	created := &coordinationv1.Lease{}
	err := c.beat(ctx, c.leases.Post().Namespace(lease.Namespace).Resource("leases").Body(lease), created)
	return created, err
}

// UpdateLease replaces a lease; the server answers Conflict if it is not the
// version that was read.
func (c *Client) UpdateLease(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	updated := &coordinationv1.Lease{}
	err := c.beat(ctx, c.leases.Put().Namespace(lease.Namespace).Resource("leases").Name(lease.Name).Body(lease), updated)
	return updated, err
}

// CreateEvent records an event, within the events' own limit.
func (c *Client) CreateEvent(ctx context.Context, event *v1.Event) (*v1.Event, error) {
	created := &v1.Event{}
	err := c.do(ctx, c.coreEvents.Post().Namespace(event.Namespace).Resource("events").Body(event), created)
	return created, err
}

// PatchEvent counts a recurring event up by a strategic merge patch.
func (c *Client) PatchEvent(ctx context.Context, namespace, name string, patch []byte) (*v1.Event, error) {
	event := &v1.Event{}
	err := c.do(ctx, c.coreEvents.Patch(types.StrategicMergePatchType).Namespace(namespace).Resource("events").
		Name(name).Body(patch), event)
	return event, err
}

// CreateToken asks for a service account's token.
func (c *Client) CreateToken(ctx context.Context, namespace, serviceAccount string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	token := &authenticationv1.TokenRequest{}
	err := c.do(ctx, c.core.Post().Namespace(namespace).Resource("serviceaccounts").Name(serviceAccount).
		SubResource("token").Body(request), token)
	return token, err
}

// GetConfigMap reads a ConfigMap, newest version.
func (c *Client) GetConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	configMap := &v1.ConfigMap{}
	err := c.do(ctx, c.core.Get().Namespace(namespace).Resource("configmaps").Name(name), configMap)
	return configMap, err
}

// GetSecret reads a Secret, newest version.
func (c *Client) GetSecret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	secret := &v1.Secret{}
	err := c.do(ctx, c.core.Get().Namespace(namespace).Resource("secrets").Name(name), secret)
	return secret, err
}

// WatchServices is the list and watch of all Services, for a reflector.
func (c *Client) WatchServices() cache.ListerWatcher {
	return c.listWatch(c.core, c.coreWatch, "services", "", nil, func() runtime.Object { return &v1.ServiceList{} })
}

// GetRuntimeClass reads a RuntimeClass, newest version.
func (c *Client) GetRuntimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
	class := &nodev1.RuntimeClass{}
	err := c.do(ctx, c.runtimeClasses.Get().Resource("runtimeclasses").Name(name), class)
	return class, err
}

// WatchRuntimeClasses is the list and watch of all RuntimeClasses, for a
// reflector.
func (c *Client) WatchRuntimeClasses() cache.ListerWatcher {
	return c.listWatch(c.runtimeClasses, c.runtimeClassWatch, "runtimeclasses", "", nil,
		func() runtime.Object { return &nodev1.RuntimeClassList{} })
}
