package apiclient

import (
	"context"
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/klog/v2"
)

// apiObject is a ConfigMap or a Secret.
type apiObject interface {
	runtime.Object
	metav1.Object
}

// objectSource is the API server, as the object cache needs it.
type objectSource interface {
	// get reads the newest version of an object.
	get(ctx context.Context, key objectKey) (apiObject, error)
	// watch opens a watch on one object "from any version": it begins with an
	// event for the object as the server's cache has it, if it has it.
	watch(ctx context.Context, key objectKey) (watch.Interface, error)
}

type clientSource struct{ client *Client }

func (s clientSource) get(ctx context.Context, key objectKey) (apiObject, error) {
	if key.kind == kindConfigMap {
		configMap, err := s.client.GetConfigMap(ctx, key.namespace, key.name)
		if err != nil {
			return nil, err
		}
		return configMap, nil
	}
	secret, err := s.client.GetSecret(ctx, key.namespace, key.name)
	if err != nil {
		return nil, err
	}
	return secret, nil
}

func (s clientSource) watch(ctx context.Context, key objectKey) (watch.Interface, error) {
	return s.client.watch(ctx, s.client.coreWatch, key.kind.resource(), key.namespace, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector("metadata.name", key.name).String(),
		ResourceVersion: "0",
		TimeoutSeconds:  watchSeconds(),
	})
}

const (
	// firstEventWait is how long after its opening a watch may stay silent
	// about an object that is held before the object is read again.
	firstEventWait = time.Second

	// restBeforeWatch is how long after it was first read an object is not
	// watched yet. Its pod is being started meanwhile, and what the API server
	// does for the watch would take from that; of a pod that is over sooner,
	// it is never asked for. The watch tells of changes since the read.
	restBeforeWatch = time.Second

	// The first read of an object may come before the node authorizer has
	// seen the pod, which is a matter of milliseconds.
	firstRetry = 10 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// objectWatcher keeps one cached object true.
//
// It reads the object first: that is one cheap, consistent request, and the
// pod that waits for the object waits for no more. The watch follows a second
// later, off that path. It starts from any version, as the version of an object that has
// not changed for long is too old to start from; what the server's cache then
// says may be older than what was read, or lack it. Hence the rule: events
// newer than what is held are applied, and whatever is doubtful is settled by
// reading once more.
type objectWatcher struct {
	objects *Objects
	object  *object
	source  objectSource
}

func (w *objectWatcher) run(ctx context.Context) {
	delay := firstRetry
	read, rested := true, false
	for ctx.Err() == nil {
		var err error
		if read {
			err = w.read(ctx)
			if err == nil && w.immutable() {
				return
			}
			if err == nil && !rested && w.exists() && !sleep(ctx, jitter(restBeforeWatch)) {
				return
			}
			rested = err == nil
		}
		if err == nil {
			read = false
			var lasted time.Duration
			lasted, err = w.follow(ctx)
			if err == nil && w.immutable() {
				return
			}
			if lasted > lastRetry {
				delay = firstRetry
			}
		}
		if err != nil && ctx.Err() == nil {
			read = true
			key := w.object.key
			klog.FromContext(ctx).V(2).Info("Object is not being watched, will retry", "resource", key.kind.resource(),
				"object", klog.KRef(key.namespace, key.name), "retryIn", delay, "err", err)
		}
		// Also after a watch that ended in order: all watches of a node end
		// together when the connection does.
		if !sleep(ctx, jitter(delay)) {
			return
		}
		delay = min(2*delay, lastRetry)
	}
}

// read asks the API server for the object and records the answer.
func (w *objectWatcher) read(ctx context.Context) error {
	value, err := w.source.get(ctx, w.object.key)
	switch {
	case apierrors.IsNotFound(err):
		w.objects.set(w.object, nil)
		return nil
	case err != nil:
		if ctx.Err() == nil {
			w.objects.failed(w.object, err)
		}
		return err
	}
	w.objects.set(w.object, trimmed(value))
	return nil
}

// exists says whether the object is held; for one that is not, pods wait.
func (w *objectWatcher) exists() bool {
	value, _ := w.objects.held(w.object)
	return value != nil
}

func (w *objectWatcher) immutable() bool {
	value, _ := w.objects.held(w.object)
	switch value := value.(type) {
	case *v1.ConfigMap:
		return value.Immutable != nil && *value.Immutable
	case *v1.Secret:
		return value.Immutable != nil && *value.Immutable
	}
	return false
}

// follow watches the object until the watch ends. It returns how long that
// took.
func (w *objectWatcher) follow(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	stream, err := w.source.watch(ctx, w.object.key)
	if err != nil {
		return 0, err
	}
	defer stream.Stop()
	var silent <-chan time.Time
	if value, _ := w.objects.held(w.object); value != nil {
		timer := time.NewTimer(firstEventWait)
		defer timer.Stop()
		silent = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return time.Since(start), ctx.Err()
		case <-silent:
			// Deleted between reading and watching, or the cache is late.
			silent = nil
			if err := w.read(ctx); err != nil {
				return time.Since(start), err
			}
		case event, open := <-stream.ResultChan():
			if !open {
				return time.Since(start), nil
			}
			silent = nil
			if event.Type == watch.Error {
				return time.Since(start), apierrors.FromObject(event.Object)
			}
			if err := w.apply(ctx, event); err != nil {
				return time.Since(start), err
			}
			if w.immutable() {
				return time.Since(start), nil
			}
		}
	}
}

func (w *objectWatcher) apply(ctx context.Context, event watch.Event) error {
	value, ok := event.Object.(apiObject)
	if !ok || value.GetName() != w.object.key.name {
		return nil
	}
	held, _ := w.objects.held(w.object)
	if held != nil {
		order, err := resourceversion.CompareResourceVersion(value.GetResourceVersion(), held.GetResourceVersion())
		if err == nil && order == 0 && event.Type != watch.Deleted {
			return nil
		}
		if err == nil && order <= 0 {
			// Older than what is held: a cache that is late, or a server
			// whose data were restored from a backup.
			return w.read(ctx)
		}
	}
	if event.Type == watch.Deleted {
		w.objects.set(w.object, nil)
		return nil
	}
	w.objects.set(w.object, trimmed(value))
	return nil
}

// trimmed drops what no pod can see and what is often larger than the data.
func trimmed(value apiObject) apiObject {
	value.SetManagedFields(nil)
	if annotations := value.GetAnnotations(); annotations[v1.LastAppliedConfigAnnotation] != "" {
		delete(annotations, v1.LastAppliedConfigAnnotation)
	}
	return value
}

// jitter spreads a delay over half to one and a half of it.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d)
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
