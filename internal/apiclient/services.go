package apiclient

import (
	"context"
	"errors"
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// Services caches the Services of all namespaces for the environment
// variables of service links. Of each it keeps only name, namespace, cluster
// IP and ports: a cluster may have many thousands.
type Services struct {
	listWatch cache.ListerWatcher
	store     *syncedIndexer
}

// NewServices makes an empty cache.
func NewServices(client *Client) (*Services, error) {
	if client == nil {
		return nil, errors.New("make service cache: no API client")
	}
	return newServices(client.WatchServices()), nil
}

func newServices(listWatch cache.ListerWatcher) *Services {
	return &Services{
		listWatch: listWatch,
		store: newSyncedIndexer(cache.NewIndexer(cache.MetaNamespaceKeyFunc,
			cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}), serviceForEnv),
	}
}

// Run keeps the cache current until ctx ends.
func (s *Services) Run(ctx context.Context) error {
	cache.NewReflectorWithOptions(s.listWatch, &v1.Service{}, s.store,
		cache.ReflectorOptions{Name: "services"}).RunWithContext(ctx)
	return nil
}

// Services returns the Services of a namespace, shared, not to be modified,
// in no order. synced is false until the API server has been asked once.
func (s *Services) Services(namespace string) (services []*v1.Service, synced bool) {
	items, err := s.store.ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		// Only for an index that does not exist.
		return nil, false
	}
	services = make([]*v1.Service, 0, len(items))
	for _, item := range items {
		services = append(services, item.(*v1.Service))
	}
	return services, s.store.isSynced()
}

// WaitSynced blocks until Services has an answer.
func (s *Services) WaitSynced(ctx context.Context) error {
	if err := s.store.wait(ctx); err != nil {
		return fmt.Errorf("wait for the list of services: %w", err)
	}
	return nil
}

// serviceForEnv strips a Service down to what environment variables are made
// of.
func serviceForEnv(in any) any {
	service, ok := in.(*v1.Service)
	if !ok {
		return in
	}
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: service.Name, Namespace: service.Namespace, ResourceVersion: service.ResourceVersion,
		},
		Spec: v1.ServiceSpec{ClusterIP: service.Spec.ClusterIP, Ports: service.Spec.Ports, Type: service.Spec.Type},
	}
}

// syncedIndexer is a store for a reflector that can be waited for and keeps
// transformed objects.
type syncedIndexer struct {
	cache.Indexer
	transform func(any) any
	once      sync.Once
	synced    chan struct{}
}

func newSyncedIndexer(indexer cache.Indexer, transform func(any) any) *syncedIndexer {
	return &syncedIndexer{Indexer: indexer, transform: transform, synced: make(chan struct{})}
}

// Add stores an object.
func (s *syncedIndexer) Add(obj any) error { return s.Indexer.Add(s.transform(obj)) }

// Update stores an object.
func (s *syncedIndexer) Update(obj any) error { return s.Indexer.Update(s.transform(obj)) }

// Replace stores a whole list; the first one makes the store synced.
func (s *syncedIndexer) Replace(list []any, resourceVersion string) error {
	kept := make([]any, len(list))
	for i := range list {
		kept[i] = s.transform(list[i])
	}
	err := s.Indexer.Replace(kept, resourceVersion)
	if err == nil {
		s.once.Do(func() { close(s.synced) })
	}
	return err
}

func (s *syncedIndexer) isSynced() bool {
	select {
	case <-s.synced:
		return true
	default:
		return false
	}
}

func (s *syncedIndexer) wait(ctx context.Context) error {
	select {
	case <-s.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
