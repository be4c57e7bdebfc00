package apiclient

import (
	"context"
	"errors"
	"fmt"
	"sync"

	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// RuntimeClasses resolves RuntimeClass names. It watches from the first time
// that a pod names one; most nodes never see such a pod.
type RuntimeClasses struct {
	listWatch cache.ListerWatcher
	get       func(ctx context.Context, name string) (*nodev1.RuntimeClass, error)
	store     *syncedIndexer

	once   sync.Once
	wanted chan struct{}
}

// NewRuntimeClasses makes an empty cache.
func NewRuntimeClasses(client *Client) (*RuntimeClasses, error) {
	if client == nil {
		return nil, errors.New("make RuntimeClass cache: no API client")
	}
	return &RuntimeClasses{
		listWatch: client.WatchRuntimeClasses(),
		get:       client.GetRuntimeClass,
		store:     newSyncedIndexer(cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil), runtimeClassForHandler),
		wanted:    make(chan struct{}),
	}, nil
}

// Run keeps the cache current until ctx ends.
func (r *RuntimeClasses) Run(ctx context.Context) error {
	select {
	case <-r.wanted:
	case <-ctx.Done():
		return nil
	}
	cache.NewReflectorWithOptions(r.listWatch, &nodev1.RuntimeClass{}, r.store,
		cache.ReflectorOptions{Name: "runtimeclasses"}).RunWithContext(ctx)
	return nil
}

// RuntimeClass returns the handler of a RuntimeClass; the empty name is the
// runtime's default handler. A class that the cache lacks is read from the API
// server, as it may be younger than the cache; the error is NotFound if there
// is none.
func (r *RuntimeClasses) RuntimeClass(ctx context.Context, name string) (handler string, err error) {
	if name == "" {
		return "", nil
	}
	r.once.Do(func() { close(r.wanted) })
	if r.store.isSynced() {
		if item, ok, err := r.store.GetByKey(name); err == nil && ok {
			return item.(*nodev1.RuntimeClass).Handler, nil
		}
	}
	class, err := r.get(ctx, name)
	if err != nil {
		return "", fmt.Errorf("get RuntimeClass %q: %w", name, err)
	}
	return class.Handler, nil
}

func runtimeClassForHandler(in any) any {
	class, ok := in.(*nodev1.RuntimeClass)
	if !ok {
		return in
	}
	return &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: class.Name, ResourceVersion: class.ResourceVersion},
		Handler:    class.Handler,
	}
}
