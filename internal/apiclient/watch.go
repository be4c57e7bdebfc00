package apiclient

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// watchOverrun is how long after the time a watch should have ended at the
// server the client gives up on it: a stream without end or events is
// otherwise not to be told from a dead one.
const watchOverrun = 30 * time.Second

var errWatchSilent = errors.New("API server did not answer the watch request")

// listWatch makes what a reflector needs. list and watch are the clients for
// either (they differ in their limiter).
func (c *Client) listWatch(list, watcher *rest.RESTClient, resource, namespace string, selector fields.Selector, newList func() runtime.Object) *cache.ListWatch {
	limit := func(opts *metav1.ListOptions) {
		if selector != nil {
			opts.FieldSelector = selector.String()
		}
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			limit(&opts)
			into := newList()
			err := c.do(ctx, list.Get().NamespaceIfScoped(namespace, namespace != "").Resource(resource).
				VersionedParams(&opts, c.codecs.parameters), into)
			return into, err
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			limit(&opts)
			return c.watch(ctx, watcher, resource, namespace, opts)
		},
	}
}

// watch opens a watch. The opening has a deadline, and the whole has one if
// opts.TimeoutSeconds is set.
func (c *Client) watch(ctx context.Context, client *rest.RESTClient, resource, namespace string, opts metav1.ListOptions) (watch.Interface, error) {
	opts.Watch = true
	ctx, cancel := context.WithCancelCause(ctx)
	guard := time.AfterFunc(c.timeout, func() { cancel(errWatchSilent) })
	w, err := client.Get().NamespaceIfScoped(namespace, namespace != "").Resource(resource).
		VersionedParams(&opts, c.codecs.parameters).Watch(ctx)
	if err != nil {
		guard.Stop()
		if errors.Is(context.Cause(ctx), errWatchSilent) {
			err = fmt.Errorf("watch %s: %w", resource, errWatchSilent)
		}
		cancel(nil)
		return nil, err
	}
	if opts.TimeoutSeconds != nil {
		guard.Reset(time.Duration(*opts.TimeoutSeconds)*time.Second + watchOverrun)
	} else {
		guard.Stop()
	}
	return &guardedWatch{Interface: w, cancel: cancel, guard: guard}, nil
}

type guardedWatch struct {
	watch.Interface
	cancel context.CancelCauseFunc
	guard  *time.Timer
}

func (w *guardedWatch) Stop() {
	w.guard.Stop()
	w.cancel(nil)
	w.Interface.Stop()
}

// watchSeconds spreads the end of watches over time, so that they are not all
// opened again at once. Twice as long as a reflector's: a node has many of
// them, and nearly all are silent.
func watchSeconds() *int64 {
	seconds := int64(20*60 + rand.IntN(20*60))
	return &seconds
}
