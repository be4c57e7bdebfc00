package apiclient

import (
	"crypto/x509"
	"encoding/pem"
	"math"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"
)

// newCertificateTTL is the time until the client certificate expires, read
// anew at each scrape since the file may be replaced.
func newCertificateTTL(tls rest.TLSClientConfig) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kubelet_certificate_manager_client_ttl_seconds",
		Help: "Seconds until the kubelet's client certificate expires, negative if it has, +Inf without a valid one.",
	}, func() float64 {
		text := tls.CertData
		if len(text) == 0 && tls.CertFile != "" {
			text, _ = os.ReadFile(tls.CertFile)
		}
		return math.Trunc(ttl(text, time.Now()))
	})
}

// ttl is of the first certificate in a PEM text, in seconds.
func ttl(text []byte, now time.Time) float64 {
	for len(text) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			return c.NotAfter.Sub(now).Seconds()
		}
		break
	}
	return math.Inf(1)
}
