package status

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// Delays between attempts to write a pod's status. When the API server
// answers again after it was away, those that wait for it are tried at once.
const (
	firstRetry = 200 * time.Millisecond
	maxRetry   = 30 * time.Second
)

// write makes one attempt to bring the newest status of a pod to the API
// server, and returns when to make another one.
func (w *Writer) write(ctx context.Context, uid types.UID) time.Duration {
	w.mu.Lock()
	e := w.pods[uid]
	if e == nil || e.gone || e.isSettled() { // it was asked for once more while it was written
		w.mu.Unlock()
		return 0
	}
	e.writing = true
	pod, status, version, known := e.pod, e.status, e.version, e.object
	t := target{namespace: pod.Namespace, name: pod.Name, uid: uid, mirror: podspec.IsStatic(pod)}
	firstAttempt := e.failures == 0
	w.mu.Unlock()

	if t.mirror {
		mirror := w.config.Mirror(podspec.FullName(pod))
		if mirror == nil || !mirrors(mirror, pod) {
			// Observe brings it on when there is one.
			return w.finish(uid, e, func() time.Duration { e.object = nil; return 0 })
		}
		t.uid = mirror.UID
		if known != nil && known.uid != mirror.UID {
			known = nil
		}
		if known == nil && firstAttempt && mirror.ResourceVersion != "" {
			known = &object{uid: mirror.UID, resourceVersion: mirror.ResourceVersion, status: mirror.Status}
		}
	}
	newest, err := w.bring(ctx, t, known, status)
	return w.finish(uid, e, func() time.Duration {
		logger := klog.FromContext(ctx)
		switch {
		case err == nil:
			w.written(e, newest, version)
			return 0
		case isGone(err):
			logger.V(3).Info("Pod is gone from the API server", "pod", klog.KObj(pod), "podUID", uid)
			e.object, e.failures = nil, 0
			if !t.mirror {
				e.gone = true
				w.announce(e)
			}
			return 0
		case ctx.Err() != nil:
			return 0
		}
		// The patch may have arrived, so what the object holds now is
		// unknown.
		e.object = nil
		e.failures++
		w.away = w.away || unreachable(err)
		delay := backoff(e.failures, err)
		if e.failures == 1 || logger.V(3).Enabled() { // an outage is told once per pod
			logger.Error(err, "Failed to write pod status, will be repeated until accepted", "pod", klog.KObj(pod), "podUID", uid, "failures", e.failures, "retryIn", delay)
		}
		return delay
	})
}

// finish ends an attempt: it runs update under the lock, and then takes what
// came meanwhile.
func (w *Writer) finish(uid types.UID, e *entry, update func() time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := e.seen
	e.writing, e.seen = false, nil
	if w.pods[uid] != e {
		return 0 // forgotten meanwhile
	}
	delay := update()
	if seen != nil {
		w.learn(e, seen)
	}
	return delay
}

func (w *Writer) written(e *entry, newest *object, version uint64) {
	e.object, e.settled, e.failures = newest, newest.resourceVersion, 0
	if e.accepted < version {
		w.duration.Observe(time.Since(e.since).Seconds())
	}
	w.accept(e, version)
	if e.version != version {
		e.since = time.Now()
	}
	if w.away {
		w.away = false
		w.queue.hurry()
	}
}

// unreachable says whether no API server answered.
func unreachable(err error) bool {
	var answer apierrors.APIStatus
	return !errors.As(err, &answer)
}

// backoff doubles with each failure, spread by half of it either way so that
// the pods of many nodes do not come back in step; a server that names a
// delay gets it.
func backoff(failures int, err error) time.Duration {
	delay := min(firstRetry<<min(failures-1, 10), maxRetry)
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
		delay = max(delay, time.Duration(seconds)*time.Second)
	}
	return time.Duration(float64(delay) * (0.5 + rand.Float64()))
}

type target struct {
	namespace, name string
	uid             types.UID
	mirror          bool
}

// goneError says that the object does not exist any more, or that another
// pod has its name.
type goneError struct{ err error }

func (e goneError) Error() string { return e.err.Error() }
func (e goneError) Unwrap() error { return e.err }

func isGone(err error) bool { _, ok := err.(goneError); return ok }

// bring makes the object's status the wanted one and returns what it then is.
// It patches what is known to differ, and reads the object first if it is not
// known.
func (w *Writer) bring(ctx context.Context, t target, known *object, wanted v1.PodStatus) (*object, error) {
	if known == nil {
		var err error
		if known, err = w.read(ctx, t); err != nil {
			return nil, err
		}
	}
	newest, err := w.patch(ctx, t, known, wanted)
	if apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
		// The name may belong to another pod, or the patch was made against
		// an old copy. Look, and try once more.
		if known, err = w.read(ctx, t); err != nil {
			return nil, err
		}
		newest, err = w.patch(ctx, t, known, wanted)
	}
	if apierrors.IsNotFound(err) {
		return nil, goneError{err}
	}
	return newest, err
}

func (w *Writer) read(ctx context.Context, t target) (*object, error) {
	ctx, cancel := context.WithTimeout(ctx, w.config.Timeout)
	defer cancel()
	pod, err := w.config.Client.GetPod(ctx, t.namespace, t.name)
	if apierrors.IsNotFound(err) {
		return nil, goneError{err}
	}
	if err != nil {
		return nil, fmt.Errorf("read pod: %w", err)
	}
	if pod.UID != t.uid {
		return nil, goneError{fmt.Errorf("read pod: it has UID %s now", pod.UID)}
	}
	return &object{uid: pod.UID, resourceVersion: pod.ResourceVersion, status: pod.Status}, nil
}

func (w *Writer) patch(ctx context.Context, t target, known *object, wanted v1.PodStatus) (*object, error) {
	merged := merge(known.status, wanted)
	if !t.mirror { // a static pod may well begin a new life behind its mirror
		var violations []string
		if merged, violations = forward(known.status, merged); len(violations) > 0 {
			klog.FromContext(ctx).Error(nil, "API object is ahead of the status, kept", "pod", klog.KRef(t.namespace, t.name), "podUID", t.uid, "changes", violations)
		}
	}
	body, err := patch(known.status, merged)
	if err != nil || body == nil {
		return known, err
	}
	ctx, cancel := context.WithTimeout(ctx, w.config.Timeout)
	defer cancel()
	pod, err := w.config.Client.PatchPodStatus(ctx, t.namespace, t.name, t.uid, body)
	if err != nil {
		return nil, fmt.Errorf("patch pod status: %w", err)
	}
	return &object{uid: pod.UID, resourceVersion: pod.ResourceVersion, status: pod.Status}, nil
}
