package server

import (
	"crypto/tls"
	"crypto/x509"
	"log"
	"strings"
	"sync"

	"k8s.io/klog/v2"
)

// ClientCAs are the authorities whose names clients are shown (package
// serving).
type ClientCAs interface {
	Pool() *x509.CertPool
}

// TLSConfig says how the port speaks TLS. Zero fields mean Go's defaults.
type TLSConfig struct {
	// Certificate is the port's (package serving).
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs, if not nil, has clients asked for a certificate of these. The
	// handshake does not verify it: package authn does.
	ClientCAs ClientCAs
	// MinVersion, CipherSuites and Curves are as in crypto/tls (tlsMinVersion,
	// tlsCipherSuites, tlsCurvePreferences).
	MinVersion   uint16
	CipherSuites []uint16
	Curves       []tls.CurveID
}

func (c TLSConfig) config() *tls.Config {
	base := &tls.Config{
		GetCertificate: c.Certificate, MinVersion: max(c.MinVersion, tls.VersionTLS12),
		CipherSuites: c.CipherSuites, CurvePreferences: c.Curves,
		NextProtos: []string{"h2", "http/1.1"},
	}
	if c.ClientCAs == nil {
		return base
	}
	base.ClientAuth = tls.RequestClientCert
	current := &withPool{base: base}
	outer := base.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.get(c.ClientCAs.Pool()), nil }
	return outer
}

// withPool is a configuration with the newest client CAs; it stays the same
// while they do, so that its session tickets stay valid.
type withPool struct {
	base *tls.Config

	mu     sync.Mutex
	config *tls.Config
}

func (p *withPool) get(pool *x509.CertPool) *tls.Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.config == nil || p.config.ClientCAs != pool {
		p.config = p.base.Clone()
		p.config.ClientCAs = pool
	}
	return p.config
}

// newQuietLog is the log of an http.Server that strangers can reach: what they
// do wrong is shown only to those who look for it.
func newQuietLog(logger klog.Logger) *log.Logger {
	return log.New(quietLog{logger}, "", 0)
}

type quietLog struct{ logger klog.Logger }

func (q quietLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	logger := q.logger
	if strings.Contains(text, "TLS handshake error") || strings.Contains(text, "http2:") {
		logger = logger.V(3)
	}
	logger.Info("HTTP server", "message", text)
	return len(line), nil
}
