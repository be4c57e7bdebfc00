package critest

import (
	"context"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// directConn is a gRPC connection without a wire: it hands each call to the
// service in the same goroutine. Messages are copied, so that caller and
// model share nothing, as over a wire.
type directConn struct{ r *Runtime }

func (d *directConn) find(method string) (srv any, desc *grpc.ServiceDesc, name string) {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if service == runtimeapi.ImageService_ServiceDesc.ServiceName {
		return imageServer{r: d.r}, &runtimeapi.ImageService_ServiceDesc, name
	}
	return runtimeServer{r: d.r}, &runtimeapi.RuntimeService_ServiceDesc, name
}

func (d *directConn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	srv, desc, name := d.find(method)
	for i := range desc.Methods {
		if desc.Methods[i].MethodName != name {
			continue
		}
		answer, err := desc.Methods[i].Handler(srv, ctx, func(in any) error {
			proto.Merge(in.(proto.Message), args.(proto.Message))
			return nil
		}, nil)
		if err != nil {
			return err
		}
		proto.Merge(reply.(proto.Message), answer.(proto.Message))
		return nil
	}
	return status.Errorf(codes.Unimplemented, "unknown method %s", method)
}

func (d *directConn) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	if method != runtimeapi.RuntimeService_GetContainerEvents_FullMethodName {
		return nil, status.Errorf(codes.Unimplemented, "unknown method %s", method)
	}
	s := &directStream{ctx: ctx, events: make(chan *runtimeapi.ContainerEventResponse), end: make(chan struct{})}
	go func() {
		s.err = d.r.events(ctx, func(e *runtimeapi.ContainerEventResponse) error {
			select {
			case s.events <- e:
				return nil
			case <-ctx.Done():
				return fromContext(ctx)
			}
		})
		close(s.end)
	}()
	return s, nil
}

// directStream is the client's end of an event stream.
type directStream struct {
	grpc.ClientStream // the methods that generated code does not use
	ctx               context.Context
	events            chan *runtimeapi.ContainerEventResponse
	end               chan struct{}
	err               error // set before end is closed
}

func (s *directStream) Context() context.Context { return s.ctx }
func (s *directStream) SendMsg(any) error        { return nil }
func (s *directStream) CloseSend() error         { return nil }

func (s *directStream) RecvMsg(m any) error {
	select {
	case e := <-s.events:
		proto.Merge(m.(proto.Message), e)
		return nil
	case <-s.end:
		if s.err == nil {
			return io.EOF
		}
		return s.err
	}
}
