package critest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
)

var errRestarted = status.Error(codes.Unavailable, "error reading from server: EOF")

func fromContext(ctx context.Context) error { return status.FromContextError(ctx.Err()).Err() }

// call makes one call: what is due happens first, then the faults, then the
// core, which runs with the lock held and never waits itself.
func call[Req, Resp proto.Message](ctx context.Context, r *Runtime, method string, req Req, core func(Req) (Resp, error)) (Resp, error) {
	var none Resp
	if ctx.Err() != nil {
		return none, fromContext(ctx)
	}
	r.mu.Lock()
	r.advance()
	s := r.subject(method, req)
	r.counts[method]++
	generation := r.generation
	begin := r.now()
	in := r.faultFor(s)
	if in == nil {
		resp, err := run(ctx, r, generation, s, req, core)
		return resp, err
	}
	f := in.fault
	r.mu.Unlock()

	if f.Delay > 0 && r.cfg.Clock == nil {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-generation:
			return none, errRestarted
		case <-ctx.Done():
			return none, fromContext(ctx)
		}
	}

	var first func() (Resp, error)
	r.mu.Lock()
	switch f.Effect {
	case EffectFirst:
		r.advance()
		resp, err := core(req)
		r.log(s, "(effect only) ", resp, err)
		r.advance()
		first = func() (Resp, error) { return resp, err }
	case EffectLate:
		release := r.reserve(req)
		r.log(s, fmt.Sprintf("(effect comes %v later) ", f.Late), none, nil)
		r.at(begin.Add(f.Late), func() {
			release()
			r.late = true
			resp, err := core(req)
			r.late = false
			r.log(s, "(late effect) ", resp, err)
		})
		r.advance()
	}
	r.mu.Unlock()

	if f.Hang {
		err := r.hang(ctx, in, generation, s)
		if err != nil {
			return none, err
		}
		if f.Effect == EffectFirst {
			return first()
		}
		r.mu.Lock()
		r.advance()
		return run(ctx, r, generation, s, req, core)
	}
	if f.Code != codes.OK {
		err := status.Error(f.Code, f.Message)
		r.mu.Lock()
		r.log(s, "(fault) ", none, err)
		r.mu.Unlock()
		return none, err
	}
	var resp Resp
	var err error
	if first != nil {
		resp, err = first()
	} else {
		r.mu.Lock()
		r.advance()
		resp, err = run(ctx, r, generation, s, req, core)
	}
	if err == nil && f.Lie != nil {
		resp = proto.Clone(resp).(Resp)
		f.Lie(resp)
	}
	return resp, err
}

// run runs the core, waiting as it asks to. The lock is held when it is
// called and free when it returns.
func run[Req, Resp proto.Message](ctx context.Context, r *Runtime, generation <-chan struct{}, s subject, req Req, core func(Req) (Resp, error)) (Resp, error) {
	var none Resp
	resp, err := core(req)
	var b *blocked
	if !errors.As(err, &b) {
		r.log(s, "", resp, err)
		r.advance()
		r.mu.Unlock()
		return resp, err
	}
	r.advance()
	r.mu.Unlock()
	if err := r.wait(ctx, generation, b.done, b.at); err != nil {
		r.mu.Lock()
		r.log(s, "", none, err)
		r.mu.Unlock()
		return none, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.advance()
	answer, err := b.then()
	if err == nil {
		resp = answer.(Resp)
	}
	r.log(s, "", resp, err)
	return resp, err
}

// hang waits until the fault is released (nil), or the caller goes away.
func (r *Runtime) hang(ctx context.Context, in *Injection, generation <-chan struct{}, s subject) error {
	r.mu.Lock()
	in.waiting++
	released := in.released
	r.mu.Unlock()
	err := r.wait(ctx, generation, released, time.Time{})
	r.mu.Lock()
	in.waiting--
	if err != nil {
		r.log(s, "(hung) ", nil, err)
	}
	r.mu.Unlock()
	return err
}

// subject is what a call is about, by names where they are known.
type subject struct {
	method                         string
	pod, podUID, container, id     string
	image                          string
	sandboxAttempt, containAttempt uint32
}

// subject finds out what a request is about. The lock is held.
func (r *Runtime) subject(method string, req any) subject {
	s := subject{method: method}
	switch q := req.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		s.ofPod(q.GetConfig())
	case *runtimeapi.CreateContainerRequest:
		if sb, ok := r.sandboxes.get(q.GetPodSandboxId()); ok {
			s.ofPod(sb.config)
		} else {
			s.ofPod(q.GetSandboxConfig())
		}
		s.container = q.GetConfig().GetMetadata().GetName()
		s.containAttempt = q.GetConfig().GetMetadata().GetAttempt()
		s.image = q.GetConfig().GetImage().GetImage()
	case interface{ GetContainerId() string }:
		s.id = q.GetContainerId()
		if c, ok := r.containers.get(s.id); ok {
			s.ofPod(c.sandbox.config)
			s.container, s.image = c.meta().GetName(), c.config.GetImage().GetImage()
			s.containAttempt = c.meta().GetAttempt()
		}
	case interface{ GetPodSandboxId() string }:
		s.id = q.GetPodSandboxId()
		if sb, ok := r.sandboxes.get(s.id); ok {
			s.ofPod(sb.config)
		}
	case *runtimeapi.ListPodSandboxRequest:
		s.podUID = q.GetFilter().GetLabelSelector()[cri.LabelPodUID]
	case *runtimeapi.ListContainersRequest:
		s.podUID = q.GetFilter().GetLabelSelector()[cri.LabelPodUID]
	case interface{ GetImage() *runtimeapi.ImageSpec }:
		s.image = q.GetImage().GetImage()
	}
	if s.pod == "" && s.podUID != "" {
		r.sandboxes.each(func(sb *sandbox) {
			if sb.meta().GetUid() == s.podUID {
				s.ofPod(sb.config)
			}
		})
	}
	return s
}

func (s *subject) ofPod(c *runtimeapi.PodSandboxConfig) {
	m := c.GetMetadata()
	s.pod, s.podUID, s.sandboxAttempt = m.GetName(), m.GetUid(), m.GetAttempt()
}

func (s subject) String() string {
	switch {
	case s.container != "":
		return fmt.Sprintf("%s %s/%s#%d", s.method, s.pod, s.container, s.containAttempt)
	case s.pod != "":
		return fmt.Sprintf("%s %s#%d", s.method, s.pod, s.sandboxAttempt)
	case s.podUID != "":
		return fmt.Sprintf("%s %s", s.method, s.podUID)
	case s.image != "":
		return s.method + " " + s.image
	case s.id != "":
		return s.method + " " + s.id
	}
	return s.method
}

// log writes one line of the transcript. The lock is held. Calls that only
// read are not in it unless they fail: they are too many to be read.
func (r *Runtime) log(s subject, note string, resp any, err error) {
	if err == nil && note == "" {
		switch s.method {
		case "Version", "Status", "RuntimeConfig", "ListPodSandbox", "PodSandboxStatus", "ListContainers",
			"ContainerStatus", "ImageStatus", "ListImages", "ImageFsInfo":
			return
		}
	}
	answer := "ok"
	switch a := resp.(type) {
	case *runtimeapi.RunPodSandboxResponse:
		answer = a.GetPodSandboxId()
	case *runtimeapi.CreateContainerResponse:
		answer = a.GetContainerId()
	case *runtimeapi.PullImageResponse:
		answer = a.GetImageRef()
	}
	if err != nil {
		answer = "error: " + status.Convert(err).Message()
		var later *Later
		if errors.As(err, &later) {
			answer = "waits"
		}
	}
	r.line("%s%s → %s", note, s, answer)
}

// line appends to the transcript. The lock is held.
func (r *Runtime) line(format string, args ...any) {
	const most = 100_000
	if len(r.lines) < most {
		r.lines = append(r.lines, fmt.Sprintf("%9.3f  ", r.now().Sub(r.begin).Seconds())+fmt.Sprintf(format, args...))
	}
}
