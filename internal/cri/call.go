package cri

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
)

const (
	// probeTimeout bounds calls that any live runtime answers from memory
	// (Version, Status, RuntimeConfig).
	probeTimeout = 10 * time.Second
	// readTimeout bounds calls that read the state of pods and images. They
	// may wait for a lock inside the runtime, so they get longer.
	readTimeout = 20 * time.Second
)

// Call is one call that the runtime has not answered yet.
type Call struct {
	// Operation is the operation_type of the metrics, for example
	// "container_status".
	Operation string
	// Object is what the call is about: a pod, a container, an image; empty
	// for calls about the runtime itself.
	Object string
	Since  time.Time
}

// inFlight is the list of calls without an answer.
type inFlight struct {
	mu    sync.Mutex
	calls map[*Call]struct{}
}

func (f *inFlight) begin(operation, object string) *Call {
	call := &Call{Operation: operation, Object: object, Since: time.Now()}
	f.mu.Lock()
	if f.calls == nil {
		f.calls = map[*Call]struct{}{}
	}
	f.calls[call] = struct{}{}
	f.mu.Unlock()
	return call
}

func (f *inFlight) end(call *Call) {
	f.mu.Lock()
	delete(f.calls, call)
	f.mu.Unlock()
}

// InFlight returns the calls that the runtime has not answered yet, oldest
// first. Event streams are not among them.
func (c *Client) InFlight() []Call {
	c.calls.mu.Lock()
	calls := make([]Call, 0, len(c.calls.calls))
	for call := range c.calls.calls {
		calls = append(calls, *call)
	}
	c.calls.mu.Unlock()
	slices.SortFunc(calls, func(a, b Call) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Object, b.Object))
	})
	return calls
}

// verb is how one call is named in metrics and in errors.
type verb struct{ operation, does string }

// do makes one call with its deadline (0: the context's alone), accounts for
// it, and wraps its error as "does object: cause"; the cause keeps its gRPC
// status (status.FromError looks through the wrapping).
func do[Req, Resp any](ctx context.Context, c *Client, v verb, object string, timeout time.Duration,
	f func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req, opts ...grpc.CallOption) (Resp, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	call := c.calls.begin(v.operation, object)
	resp, err := f(ctx, req, opts...)
	c.calls.end(call)
	c.metrics.observe(v.operation, time.Since(call.Since), err)
	if err != nil {
		if object == "" {
			return resp, fmt.Errorf("%s: %w", v.does, err)
		}
		return resp, fmt.Errorf("%s %s: %w", v.does, object, err)
	}
	return resp, nil
}

// read is the deadline of a call that reads.
func (c *Client) read() time.Duration { return min(c.timeout, readTimeout) }

// probe is the deadline of a call about the runtime itself.
func (c *Client) probe() time.Duration { return min(c.timeout, probeTimeout) }
