package probe

import (
	"context"
	"net"
	"strconv"
)

func (a *asker) askTCP(ctx context.Context, q question) outcome {
	port, err := Port(q.probe.TCPSocket.Port, q.container)
	if err != nil {
		return outcome{verdict: unknown, err: err, settled: true}
	}
	host := q.probe.TCPSocket.Host
	if host == "" {
		host = q.ip
	}
	ctx, clock := withClock(ctx, q)
	defer clock.stop()
	conn, err := clock.dial(ctx, net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return clock.failure(err.Error())
	}
	conn.Close()
	return outcome{verdict: passed}
}
