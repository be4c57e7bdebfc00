package image

import (
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics() metrics {
	return metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_image_manager_ensure_image_requests_total",
			Help: "Questions for a container's image, by pull policy, whether it was there and whether it had to be pulled.",
		}, []string{"pull_policy", "present_locally", "pull_required"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kubelet_image_pull_duration_seconds",
			Help:    "Seconds that containers waited for a pull that succeeded, by size of the image.",
			Buckets: []float64{1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600},
		}, []string{"image_size_in_bytes"}),
	}
}

func (m metrics) register(r prometheus.Registerer) error {
	return errors.Join(r.Register(m.requests), r.Register(m.duration))
}

func (m metrics) asked(policy v1.PullPolicy, present, needed string) {
	m.requests.WithLabelValues(strings.ToLower(string(policy)), present, needed).Inc()
}

func (m metrics) pulled(size uint64, waited time.Duration) {
	m.duration.WithLabelValues(sizeClass(size)).Observe(waited.Seconds())
}

// sizeClass names the bucket as dashboards know it; sizes above its bound
// belong to the next.
func sizeClass(size uint64) string {
	const mb, gb = 1 << 20, 1 << 30
	if size == 0 {
		return "N/A"
	}
	for _, class := range []struct {
		most uint64
		name string
	}{
		{10 * mb, "0-10MB"}, {100 * mb, "10MB-100MB"}, {500 * mb, "100MB-500MB"}, {gb, "500MB-1GB"},
		{5 * gb, "1GB-5GB"}, {10 * gb, "5GB-10GB"}, {20 * gb, "10GB-20GB"}, {30 * gb, "20GB-30GB"},
		{40 * gb, "30GB-40GB"}, {60 * gb, "40GB-60GB"}, {100 * gb, "60GB-100GB"},
	} {
		if size <= class.most {
			return class.name
		}
	}
	return "GT100GB"
}
