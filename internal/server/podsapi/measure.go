package podsapi

import (
	"context"
	"path"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// metrics are named and labelled as upstream's.
type metrics struct {
	all *prometheus.CounterVec
	// each is by the name of the method.
	each map[string]*prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "kubelet", Name: name, Help: help}, []string{"server_api_version", "status_code"})
	}
	m := &metrics{
		all: counter("pod_requests_total", "Requests to the pods API that were answered."),
		each: map[string]*prometheus.CounterVec{
			"ListPods":  counter("pod_requests_list_total", "Requests to the pods API for all pods."),
			"GetPod":    counter("pod_requests_get_total", "Requests to the pods API for one pod."),
			"WatchPods": counter("pod_requests_watch_total", "Watches of the pods API that have ended."),
		},
	}
	// A watch drops nothing; those who look for the name find that.
	dropped := prometheus.NewCounter(prometheus.CounterOpts{Subsystem: "kubelet", Name: "pod_watch_events_dropped_total", Help: "Events that a watch of the pods API lost."})
	for _, c := range []prometheus.Collector{m.all, m.each["ListPods"], m.each["GetPod"], m.each["WatchPods"], dropped} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// answered counts a request of a method "/v1alpha1.Pods/ListPods".
func (m *metrics) answered(method string, err error) {
	service, name := path.Split(method)
	version, _, _ := strings.Cut(strings.TrimPrefix(service, "/"), ".")
	code := status.Code(err).String()
	m.all.WithLabelValues(version, code).Inc()
	if c := m.each[name]; c != nil {
		c.WithLabelValues(version, code).Inc()
	}
}

// unary bounds and counts list and get.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
	defer func() { s.metrics.answered(info.FullMethod, err) }()
	if !s.limiter.Allow() {
		return nil, status.Errorf(codes.ResourceExhausted, "more than %d requests a second", perSecond)
	}
	return handle(ctx, req)
}

// stream counts watches.
func (s *Server) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	err := handle(server, stream)
	s.metrics.answered(info.FullMethod, err)
	return err
}
