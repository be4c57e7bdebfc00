package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"

	v1 "k8s.io/api/core/v1"
)

// httpClients are shared by all HTTP probes and hold no connection.
type httpClients struct {
	plain *http.Client // HTTP/1.1, and HTTP/2 where TLS negotiates it
	h2c   *http.Client // HTTP/2 without TLS
}

func newHTTPClients() *httpClients {
	client := func(configure func(*http.Transport)) *http.Client {
		t := &http.Transport{
			// No certificate says whether a container is well.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			// The node's proxy is not for its own pods.
			Proxy:              nil,
			DisableKeepAlives:  true,
			DisableCompression: true,
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				return ctx.Value(clockKey{}).(*clock).dial(ctx, address)
			},
		}
		configure(t)
		return &http.Client{Transport: t, CheckRedirect: StayOnHost}
	}
	return &httpClients{
		plain: client(func(t *http.Transport) { t.ForceAttemptHTTP2 = true }),
		h2c: client(func(t *http.Transport) {
			t.Protocols = new(http.Protocols)
			t.Protocols.SetUnencryptedHTTP2(true)
		}),
	}
}

func (a *asker) askHTTP(ctx context.Context, q question) outcome {
	h := q.probe.HTTPGet
	req, err := NewRequest(h, q.container, q.ip, a.userAgent)
	if err != nil {
		return outcome{verdict: unknown, err: err, settled: true}
	}
	client := a.http.plain
	if a.h2c && h.Protocol != nil && *h.Protocol == v1.HTTPProtocolHTTP2 {
		client = a.http.h2c
	}
	ctx, clock := withClock(ctx, q)
	defer clock.stop()
	ctx = httptrace.WithClientTrace(context.WithValue(ctx, clockKey{}, clock), &httptrace.ClientTrace{
		GotConn:      func(httptrace.GotConnInfo) { clock.sending() },
		WroteRequest: func(httptrace.WroteRequestInfo) { clock.sent() },
	})
	resp, err := client.Do(req.WithContext(ctx))
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) && context.Cause(ctx) == errTimeout && errors.Is(err, context.Canceled) {
		wrapped.Err = errTimeout // a TLS handshake does not ask for the cause
	}
	if err != nil {
		return clock.failure(err.Error())
	}
	defer resp.Body.Close()
	// The status alone decides (API reference, HTTPGetAction); the body is
	// read for the event, and so that the server can end in peace.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return outcome{verdict: passed, output: string(body)}
	case code >= 300 && code < 400:
		return outcome{verdict: warned, output: "Probe terminated redirects, Response body: " + string(body)}
	default:
		// Never the body: it may hold what is not for the readers of events
		// (kubernetes/kubernetes#99425).
		return outcome{verdict: failed, output: fmt.Sprintf("HTTP probe failed with statuscode: %d", code)}
	}
}
