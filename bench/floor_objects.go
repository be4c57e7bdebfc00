package main

import (
	"context"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// once reads an object, or waits for who reads it already.
func (f *floor) once(key string, read func() (map[string][]byte, error)) (map[string][]byte, error) {
	f.mu.Lock()
	get := f.objects[key]
	if get == nil {
		get = sync.OnceValues(read)
		f.objects[key] = get
	}
	f.mu.Unlock()
	return get()
}

func (f *floor) configMap(ctx context.Context, name string) (map[string][]byte, error) {
	return f.once("configmap/"+name, func() (map[string][]byte, error) {
		o, err := authorized(ctx, func() (*v1.ConfigMap, error) {
			return f.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		})
		files := map[string][]byte{}
		if err == nil {
			for k, text := range o.Data {
				files[k] = []byte(text)
			}
		}
		return files, err
	})
}

func (f *floor) secret(ctx context.Context, name string) (map[string][]byte, error) {
	return f.once("secret/"+name, func() (map[string][]byte, error) {
		o, err := authorized(ctx, func() (*v1.Secret, error) {
			return f.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		})
		if err != nil {
			return nil, err
		}
		return o.Data, nil
	})
}

func (f *floor) token(ctx context.Context, pod *v1.Pod) ([]byte, error) {
	t, err := authorized(ctx, func() (*authenticationv1.TokenRequest, error) {
		return f.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3607), BoundObjectRef: &authenticationv1.BoundObjectReference{
				APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID,
			}},
		}, metav1.CreateOptions{})
	})
	if err != nil {
		return nil, err
	}
	return []byte(t.Status.Token), nil
}

// authorized asks again while the API server's node authorizer and admission
// have not yet seen the pod and that it was bound to this node.
func authorized[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	for end := time.Now().Add(10 * time.Second); ; {
		answer, err := ask()
		if !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) || time.Now().After(end) || ctx.Err() != nil {
			return answer, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}
