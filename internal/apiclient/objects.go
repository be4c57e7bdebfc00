package apiclient

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// failuresBeforeError is how many attempts to read an object fail before those
// who wait for it get the error. The first may fail because the node
// authorizer has not yet seen that the pod was bound to this node.
const failuresBeforeError = 6

// ObjectsConfig configures Objects.
type ObjectsConfig struct {
	Client *Client
	// Changed is called with the pods that refer to an object when the object
	// has been read for the first time, could not be read, has changed,
	// appeared or gone away. It must not block.
	Changed func(pods []types.UID)
}

// Objects caches the ConfigMaps and Secrets that this node's pods refer to.
// Each object is read once, however many pods refer to it, and is then
// watched by name, which is all that the node authorizer allows; an immutable
// object is not watched. While the API server is away it serves what it knew
// last.
type Objects struct {
	source  objectSource
	changed func([]types.UID)

	mu      sync.Mutex
	run     context.Context // set by Run
	running sync.WaitGroup
	objects map[objectKey]*object
	pods    map[types.UID]map[objectKey]bool
}

// object is one cached object. All fields but key are guarded by Objects.mu.
type object struct {
	key  objectKey
	pods map[types.UID]struct{}
	// stop ends the watcher; nil until Run.
	stop context.CancelFunc
	// dropped: no pod refers to it any longer.
	dropped bool

	// synced: value is what the API server said; nil means absent.
	synced bool
	value  apiObject
	// failures in a row, and the last of them, while not synced.
	failures int
	err      error
	// news is closed at the next change of the above; nil if nobody waits.
	news chan struct{}
}

// NewObjects makes an empty cache.
func NewObjects(cfg ObjectsConfig) (*Objects, error) {
	if cfg.Client == nil {
		return nil, errors.New("make object cache: no API client")
	}
	return newObjects(clientSource{cfg.Client}, cfg.Changed), nil
}

func newObjects(source objectSource, changed func([]types.UID)) *Objects {
	if changed == nil {
		changed = func([]types.UID) {}
	}
	return &Objects{
		source:  source,
		changed: changed,
		objects: make(map[objectKey]*object),
		pods:    make(map[types.UID]map[objectKey]bool),
	}
}

// Run keeps the cache current until ctx ends. Pods may be registered before.
func (o *Objects) Run(ctx context.Context) error {
	o.mu.Lock()
	o.run = ctx
	for _, obj := range o.objects {
		o.startLocked(obj)
	}
	o.mu.Unlock()
	<-ctx.Done()
	o.running.Wait()
	return nil
}

// Register makes the cache hold what the pod refers to. It is idempotent and
// is to be called again when the pod's spec changed.
func (o *Objects) Register(pod *v1.Pod) {
	refs := references(pod)
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.pods[pod.UID]
	for key := range refs {
		if _, ok := before[key]; ok {
			continue
		}
		obj := o.objects[key]
		if obj == nil {
			obj = &object{key: key, pods: make(map[types.UID]struct{}, 1)}
			o.objects[key] = obj
			o.startLocked(obj)
		}
		obj.pods[pod.UID] = struct{}{}
	}
	for key := range before {
		if _, ok := refs[key]; !ok {
			o.releaseLocked(key, pod.UID)
		}
	}
	o.pods[pod.UID] = refs
}

// Unregister drops what only this pod refers to.
func (o *Objects) Unregister(uid types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key := range o.pods[uid] {
		o.releaseLocked(key, uid)
	}
	delete(o.pods, uid)
}

// Cached says whether the pod is registered and every object that it cannot
// run without is in the cache and exists.
func (o *Objects) Cached(pod *v1.Pod) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	refs, registered := o.pods[pod.UID]
	if !registered {
		refs = references(pod)
	}
	for key, needed := range refs {
		if obj := o.objects[key]; needed && (obj == nil || !obj.synced || obj.value == nil) {
			return false
		}
	}
	return true
}

// Pending says whether the API server has not answered yet about an object
// that the pod cannot run without. Changed is called when it has, or when that
// takes too many attempts.
func (o *Objects) Pending(pod *v1.Pod) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	refs, registered := o.pods[pod.UID]
	if !registered {
		refs = references(pod)
	}
	for key, needed := range refs {
		if obj := o.objects[key]; needed && (obj == nil || !obj.synced && obj.failures < failuresBeforeError) {
			return true
		}
	}
	return false
}

// ConfigMap returns a ConfigMap, shared, not to be modified. It waits for the
// first answer about it; the error is NotFound if there is none. What no
// registered pod refers to is read from the API server.
func (o *Objects) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	value, err := o.get(ctx, objectKey{kindConfigMap, namespace, name})
	if err != nil {
		return nil, err
	}
	return value.(*v1.ConfigMap), nil
}

// Secret returns a Secret in the way of ConfigMap.
func (o *Objects) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	value, err := o.get(ctx, objectKey{kindSecret, namespace, name})
	if err != nil {
		return nil, err
	}
	return value.(*v1.Secret), nil
}

func (o *Objects) get(ctx context.Context, key objectKey) (apiObject, error) {
	for {
		o.mu.Lock()
		obj := o.objects[key]
		if obj == nil {
			o.mu.Unlock()
			return o.source.get(ctx, key)
		}
		if obj.synced {
			value := obj.value
			o.mu.Unlock()
			if value == nil {
				return nil, apierrors.NewNotFound(schema.GroupResource{Resource: key.kind.resource()}, key.name)
			}
			return value, nil
		}
		err := obj.err
		if obj.failures >= failuresBeforeError {
			o.mu.Unlock()
			return nil, err
		}
		if obj.news == nil {
			obj.news = make(chan struct{})
		}
		news := obj.news
		o.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return nil, fmt.Errorf("wait for %s %s/%s: %w", key.kind.resource(), key.namespace, key.name, err)
		}
	}
}

func (o *Objects) startLocked(obj *object) {
	if o.run == nil || o.run.Err() != nil || obj.stop != nil {
		return
	}
	ctx, cancel := context.WithCancel(o.run)
	obj.stop = cancel
	o.running.Go(func() {
		defer cancel()
		(&objectWatcher{objects: o, object: obj, source: o.source}).run(ctx)
	})
}

func (o *Objects) releaseLocked(key objectKey, uid types.UID) {
	obj := o.objects[key]
	if obj == nil {
		return
	}
	delete(obj.pods, uid)
	if len(obj.pods) > 0 {
		return
	}
	delete(o.objects, key)
	obj.dropped = true
	obj.announceLocked()
	if obj.stop != nil {
		obj.stop()
	}
}

func (obj *object) announceLocked() {
	if obj.news != nil {
		close(obj.news)
		obj.news = nil
	}
}

// held returns what is known of an object.
func (o *Objects) held(obj *object) (value apiObject, synced bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return obj.value, obj.synced
}

// set records the API server's word about an object; nil means absent.
func (o *Objects) set(obj *object, value apiObject) {
	o.mu.Lock()
	same := obj.synced && sameVersion(obj.value, value)
	obj.synced, obj.failures, obj.err = true, 0, nil
	var pods []types.UID
	if !same && !obj.dropped {
		obj.value = value
		pods = slices.Collect(maps.Keys(obj.pods))
	}
	obj.announceLocked()
	o.mu.Unlock()
	if len(pods) > 0 {
		o.changed(pods)
	}
}

// failed records that an object could not be read.
func (o *Objects) failed(obj *object, err error) {
	o.mu.Lock()
	if obj.synced {
		o.mu.Unlock()
		return
	}
	obj.failures++
	obj.err = err
	obj.announceLocked()
	var pods []types.UID
	if obj.failures == failuresBeforeError && !obj.dropped {
		pods = slices.Collect(maps.Keys(obj.pods))
	}
	o.mu.Unlock()
	if len(pods) > 0 {
		o.changed(pods)
	}
}

func sameVersion(a, b apiObject) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.GetUID() == b.GetUID() && a.GetResourceVersion() == b.GetResourceVersion()
}
