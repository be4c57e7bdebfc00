package image

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Back-off after failed pulls
// (https://kubernetes.io/docs/concepts/containers/images/#imagepullbackoff):
// the delay doubles with each failure, and is forgotten after twice the
// longest delay without one.
const (
	firstDelay  = 10 * time.Second
	maxDelay    = 300 * time.Second
	forgetAfter = 2 * maxDelay
)

type backoffKey struct {
	pod         types.UID
	image       string
	credentials string
}

type backoff struct {
	delay time.Duration
	until time.Time
	last  *Error
	told  bool // somebody asked within this span
}

// backoffs by pod, image and credentials. The zero value is ready.
type backoffs struct {
	mu   sync.Mutex
	keys map[backoffKey]*backoff
}

// inside returns when the back-off ends, zero outside of one, with the error
// that began it and whether this is the first question in this span.
func (b *backoffs) inside(key backoffKey, now time.Time) (until time.Time, last *Error, first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.keys[key]
	if !ok || !now.Before(e.until) {
		return time.Time{}, nil, false
	}
	first, e.told = !e.told, true
	return e.until, e.last, first
}

// failed notes a failure and returns when to try again.
func (b *backoffs) failed(key backoffKey, err *Error, now time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.keys == nil {
		b.keys = map[backoffKey]*backoff{}
	}
	for k, e := range b.keys {
		if now.Sub(e.until) > forgetAfter {
			delete(b.keys, k)
		}
	}
	e, ok := b.keys[key]
	if ok {
		e.delay = min(2*e.delay, maxDelay)
	} else {
		e = &backoff{delay: firstDelay}
		b.keys[key] = e
	}
	e.until, e.last, e.told = now.Add(e.delay), err, false
	return e.until
}

func (b *backoffs) succeeded(key backoffKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.keys, key)
}

func (b *backoffs) forget(pod types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k := range b.keys {
		if k.pod == pod {
			delete(b.keys, k)
		}
	}
}
