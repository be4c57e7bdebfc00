package simulation

import (
	"context"
	"errors"
	"path"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/worker"
)

// errKilled is what the goroutines of a killed agent get for an answer.
var errKilled = errors.New("this agent was killed")

// wire is all that connects one agent with the world.
type wire struct {
	w    *world
	dead atomic.Bool
	// life ends with the wire, and with it what the world is doing for the
	// agent.
	life context.Context
	end  context.CancelFunc
	// phase is where the agent's worker of a pod stands.
	phase func(types.UID) worker.Phase
}

func newWire(w *world) *wire {
	life, end := context.WithCancel(context.Background())
	return &wire{w: w, life: life, end: end}
}

func (x *wire) cut() {
	x.dead.Store(true)
	x.end()
}

// tie gives a context for one call, which ends with the caller's or with the
// wire.
func (x *wire) tie(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(x.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// travel is the way of a call to the world, or back: some time, in which the
// caller may give up or be killed.
func (x *wire) travel(ctx context.Context, d time.Duration) error {
	if x.dead.Load() {
		return errKilled
	}
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if x.dead.Load() {
		return errKilled
	}
	return ctx.Err()
}

// runtimeWire is the connection to the runtime.
type runtimeWire struct {
	*wire
	inner grpc.ClientConnInterface
}

func asStatus(err error) error {
	if errors.Is(err, errKilled) {
		return status.Error(codes.Unavailable, err.Error())
	}
	return status.FromContextError(err).Err()
}

// Invoke implements grpc.ClientConnInterface.
func (x *runtimeWire) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	name := path.Base(method)
	fate := x.w.fate(name, subjectOf(args))
	there, back := time.Duration(fate.IntN(3000))*time.Microsecond, time.Duration(fate.IntN(3000))*time.Microsecond
	switch name {
	case "RunPodSandbox":
		there += time.Duration(fate.IntN(300)) * time.Millisecond
	case "CreateContainer", "StartContainer", "StopPodSandbox", "RemovePodSandbox":
		there += time.Duration(fate.IntN(60)) * time.Millisecond
	}
	ctx, release := x.tie(ctx)
	defer release()
	if err := x.travel(ctx, there); err != nil {
		return asStatus(err)
	}
	x.judge(ctx, args)
	if err := x.inner.Invoke(ctx, method, args, reply, opts...); err != nil {
		return err
	}
	if err := x.travel(ctx, back); err != nil {
		return asStatus(err)
	}
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (x *runtimeWire) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := x.travel(ctx, time.Millisecond); err != nil {
		return nil, asStatus(err)
	}
	return x.inner.NewStream(ctx, desc, method, opts...)
}

// subjectOf names what a request is about, without going through all of it.
func subjectOf(req any) string {
	switch q := req.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		return q.GetConfig().GetMetadata().GetUid()
	case *runtimeapi.CreateContainerRequest:
		return q.GetPodSandboxId() + q.GetConfig().GetMetadata().GetName()
	case interface{ GetContainerId() string }:
		return q.GetContainerId()
	case interface{ GetPodSandboxId() string }:
		return q.GetPodSandboxId()
	case *runtimeapi.ListPodSandboxRequest:
		return q.String()
	case *runtimeapi.ListContainersRequest:
		return q.String()
	case interface{ GetImage() *runtimeapi.ImageSpec }:
		return q.GetImage().GetImage()
	}
	return ""
}
