package volume

import (
	"context"
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Objects reads the API objects that volumes are made of (package apiclient).
type Objects interface {
	// ConfigMap and Secret return the newest known object, which the caller
	// does not change. They may wait for the first answer of a watch until
	// ctx ends. The error of an object that does not exist satisfies
	// apierrors.IsNotFound.
	ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
	// Cached says whether every ConfigMap and Secret that the pod refers to
	// and that is not optional is known to exist right now. It never waits.
	Cached(pod *v1.Pod) bool
	// Pending says whether one of them is just being read for the first time.
	Pending(pod *v1.Pod) bool
}

// Tokens hands out the tokens of projected service accounts (package
// apiclient).
type Tokens interface {
	// Token returns a token bound to the pod, from a cache while it is fresh.
	// An empty audience means the API server's. refreshAt is when the caller
	// should ask again.
	Token(ctx context.Context, pod *v1.Pod, audience string, expirationSeconds int64) (token string, refreshAt time.Time, err error)
}

// ErrNoAPIServer is the cause of every error of Standalone.
var ErrNoAPIServer = errors.New("the kubelet runs without an API server")

// Standalone stands in for Objects and Tokens where there is no API server.
type Standalone struct{}

// ConfigMap returns ErrNoAPIServer.
func (Standalone) ConfigMap(context.Context, string, string) (*v1.ConfigMap, error) {
	return nil, ErrNoAPIServer
}

// Secret returns ErrNoAPIServer.
func (Standalone) Secret(context.Context, string, string) (*v1.Secret, error) {
	return nil, ErrNoAPIServer
}

// Pending says no.
func (Standalone) Pending(*v1.Pod) bool { return false }

// Cached says yes: nothing will ever arrive.
func (Standalone) Cached(*v1.Pod) bool { return true }

// Token returns ErrNoAPIServer.
func (Standalone) Token(context.Context, *v1.Pod, string, int64) (string, time.Time, error) {
	return "", time.Time{}, ErrNoAPIServer
}
