package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
)

// askGRPC asks the gRPC health checking protocol
// (https://github.com/grpc/grpc/blob/master/doc/health-checking.md). The
// connection is made here and handed over, so that one which is refused is
// known at once and nothing is tried again behind the probe's back.
func (a *asker) askGRPC(ctx context.Context, q question) outcome {
	g := q.probe.GRPC
	address := net.JoinHostPort(q.ip, strconv.Itoa(int(g.Port)))
	ctx, clock := withClock(ctx, q)
	defer clock.stop()
	failure := func(format string, args ...any) outcome {
		return clock.failure(fmt.Sprintf(format, args...))
	}
	answer := func(format string, args ...any) outcome {
		return outcome{verdict: failed, output: fmt.Sprintf(format, args...)}
	}
	raw, err := clock.dial(ctx, address)
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return failure("timeout: failed to connect service %q within %v: %v", address, q.timeout, context.DeadlineExceeded)
	}
	if err != nil {
		return failure("error: failed to connect service at %q: %v", address, err)
	}
	defer raw.Close()
	var taken atomic.Bool
	security := insecure.NewCredentials()
	if a.grpcTLS && g.Mode != nil && *g.Mode == v1.GRPCProbeModeTLS {
		security = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})
	}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithUserAgent(a.userAgent), grpc.WithTransportCredentials(security), grpc.WithDisableRetry(),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if taken.Swap(true) {
				return nil, errors.New("the connection was lost")
			}
			return raw, nil
		}))
	if err != nil {
		return outcome{verdict: unknown, err: fmt.Errorf("make gRPC client: %w", err), settled: true}
	}
	defer conn.Close()
	service := ""
	if g.Service != nil {
		service = *g.Service
	}
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	switch {
	case err != nil && context.Cause(ctx) == errTimeout:
		return failure("timeout: health rpc did not complete within %v", q.timeout)
	case status.Code(err) == codes.Unimplemented:
		return answer("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())
	case err != nil && status.Code(err) != codes.Unavailable:
		return answer("error: health rpc probe failed: %v", err)
	case err != nil:
		return failure("error: health rpc probe failed: %v", err)
	case resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING:
		return answer("service unhealthy (responded with %q)", resp.GetStatus())
	default:
		return outcome{verdict: passed, output: "service healthy"}
	}
}
