package stats

import (
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/klog/v2"
)

// maxScrapes bounds how many scrapes gather at once.
const maxScrapes = 8

// MetricsHandler serves what a registry has in the format that the client
// asks for: text, OpenMetrics or protobuf, compressed or not.
//
// OpenMetrics wants the names of counters to end in _total and the encoder
// adds it. Names of the kubelet that dashboards use do not all end so
// (kubelet_evictions), and a scraper that prefers OpenMetrics must not find
// other names than one that does not: there such counters are of unknown type.
func MetricsHandler(gatherer prometheus.Gatherer) http.Handler {
	options := promhttp.HandlerOpts{
		// One broken collector does not hide the others.
		ErrorHandling:       promhttp.ContinueOnError,
		ErrorLog:            klog.NewStandardLogger("ERROR"),
		MaxRequestsInFlight: maxScrapes,
	}
	plain := promhttp.HandlerFor(gatherer, options)
	options.EnableOpenMetrics = true
	open := promhttp.HandlerFor(exactNames{gatherer}, options)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.Header.Get("Accept"), "application/openmetrics-text") {
			open.ServeHTTP(w, req)
			return
		}
		plain.ServeHTTP(w, req)
	})
}

// exactNames keeps the OpenMetrics encoder from renaming counters.
type exactNames struct{ from prometheus.Gatherer }

func (g exactNames) Gather() ([]*dto.MetricFamily, error) {
	families, err := g.from.Gather()
	for _, f := range families {
		if f.GetType() != dto.MetricType_COUNTER || strings.HasSuffix(f.GetName(), "_total") {
			continue
		}
		f.Type = dto.MetricType_UNTYPED.Enum()
		for _, m := range f.Metric {
			m.Untyped, m.Counter = &dto.Untyped{Value: m.Counter.Value}, nil
		}
	}
	return families, err
}
