package critest

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// stream is one open stream of container events. Its queue has no limit, so
// that a slow reader never holds the model up.
type stream struct {
	queue []*runtimeapi.ContainerEventResponse
	more  chan struct{} // has room for one
	end   chan struct{}
}

// emit sends an event to all streams. The lock is held.
func (r *Runtime) emit(id string, s *sandbox, kind runtimeapi.ContainerEventType) {
	if r.muted || len(r.streams) == 0 {
		return
	}
	event := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: r.now().UnixNano()}
	if _, ok := r.sandboxes.get(s.id); ok {
		event.PodSandboxStatus = s.status()
		r.containers.each(func(c *container) {
			if c.sandbox == s {
				event.ContainersStatuses = append(event.ContainersStatuses, r.statusOf(c))
			}
		})
	}
	for st := range r.streams {
		st.queue = append(st.queue, event)
		select {
		case st.more <- struct{}{}:
		default:
		}
	}
}

// events serves one stream until its context ends, or the stream is dropped.
func (r *Runtime) events(ctx context.Context, send func(*runtimeapi.ContainerEventResponse) error) error {
	if r.cfg.NoEvents {
		return status.Error(codes.Unimplemented, "method GetContainerEvents not implemented")
	}
	st := &stream{more: make(chan struct{}, 1), end: make(chan struct{})}
	r.mu.Lock()
	r.counts["GetContainerEvents"]++
	if r.closed {
		r.mu.Unlock()
		return errRestarted
	}
	r.streams[st] = struct{}{}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.streams, st)
		r.mu.Unlock()
	}()
	for {
		r.mu.Lock()
		queue := st.queue
		st.queue = nil
		r.mu.Unlock()
		for _, e := range queue {
			if err := send(e); err != nil {
				return err
			}
		}
		select {
		case <-st.more:
		case <-st.end:
			return errRestarted
		case <-ctx.Done():
			return fromContext(ctx)
		}
	}
}

// MuteEvents makes streams stay open and silent.
func (r *Runtime) MuteEvents(mute bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.muted = mute
}

// DropStreams ends all event streams, as when the connection breaks.
func (r *Runtime) DropStreams() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropStreams()
}

func (r *Runtime) dropStreams() {
	for st := range r.streams {
		close(st.end)
		delete(r.streams, st)
	}
}

// Streams is how many event streams are open.
func (r *Runtime) Streams() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.streams)
}
