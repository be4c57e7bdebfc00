package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/server/authn"
)

func newRequest(n *node, path string) (*http.Request, error) {
	req, err := http.NewRequest("GET", n.url+path, nil)
	if err == nil {
		req.Header.Set("User", "admin")
	}
	return req, err
}

// ask serves one request by a handler whose route had a path wildcard.
func ask(l *systemLogs, method, target, path string) string {
	r := httptest.NewRequest(method, target, nil)
	r.SetPathValue("path", path)
	w := httptest.NewRecorder()
	l.serve(w, r)
	return fmt.Sprintf("%d %s", w.Code, w.Body)
}

// fixedCA is a ClientCAs of one authority.
type fixedCA struct{ pool *x509.CertPool }

func (f fixedCA) Pool() *x509.CertPool { return f.pool }

func clientPair(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// TestClientCertificate goes through a real handshake, over HTTP/1.1 and 2.
func TestClientCertificate(t *testing.T) {
	mine, pool := clientPair(t, "admin")
	foreign, _ := clientPair(t, "admin")
	cas := fixedCA{pool}
	n := newNode(t, func(c *Config) {
		c.TLS.ClientCAs = cas
		c.Authenticator = authn.New(authn.Config{ClientCAs: cas})
	})
	for name, c := range map[string]struct {
		certs []tls.Certificate
		http2 bool
		want  int
	}{
		"trusted": {[]tls.Certificate{mine}, false, 200}, "trusted, HTTP/2": {[]tls.Certificate{mine}, true, 200},
		"foreign": {[]tls.Certificate{foreign}, false, 401}, "none": {nil, true, 401},
	} {
		certs := c.certs
		transport := &http.Transport{ForceAttemptHTTP2: c.http2, TLSClientConfig: &tls.Config{InsecureSkipVerify: true,
			// Also a certificate that the server did not ask for.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(certs) == 0 {
					return &tls.Certificate{}, nil
				}
				return &certs[0], nil
			}}}
		for range 2 { // twice on one connection
			resp, err := (&http.Client{Transport: transport}).Get(n.url + "/pods")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != c.want || c.http2 != (resp.ProtoMajor == 2) {
				t.Errorf("%s: %d over %s, want %d", name, resp.StatusCode, resp.Proto, c.want)
			}
		}
		transport.CloseIdleConnections()
	}
}

func TestTLSSettings(t *testing.T) {
	for _, c := range []struct {
		name           string
		server, client *tls.Config
		works          bool
	}{
		{"by default TLS 1.3", &tls.Config{}, &tls.Config{MinVersion: tls.VersionTLS13}, true},
		{"by default TLS 1.2", &tls.Config{}, &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"by default no TLS 1.1", &tls.Config{}, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"least version", &tls.Config{MinVersion: tls.VersionTLS13}, &tls.Config{MaxVersion: tls.VersionTLS12}, false},
		{"a suite of the list", &tls.Config{CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}},
			&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}, true},
		{"a suite that is not", &tls.Config{CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}},
			&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}}, false},
		{"a curve of the list", &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP384}}, &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP384}}, true},
		{"a curve that is not", &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP384}}, &tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}, false},
	} {
		n := newNode(t, func(cfg *Config) {
			cfg.TLS.MinVersion, cfg.TLS.CipherSuites, cfg.TLS.Curves = c.server.MinVersion, c.server.CipherSuites, c.server.CurvePreferences
		})
		c.client.InsecureSkipVerify = true
		conn, err := tls.Dial("tcp", strings.TrimPrefix(n.url, "https://"), c.client)
		if (err == nil) != c.works {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// TestStrangersHoldLittle: connections of those who have not said who they are
// are bounded, and those of others do not count.
func TestStrangersHoldLittle(t *testing.T) {
	d := newDoor(3, 2)
	conn := func(from string) net.Conn {
		return addressed{from: &net.TCPAddr{IP: net.ParseIP(from), Port: 1}}
	}
	var guests []*guest
	for _, c := range []struct {
		from string
		in   bool
	}{{"10.0.0.1", true}, {"10.0.0.1", true}, {"10.0.0.1", false}, {"10.0.0.2", true}, {"10.0.0.3", false}} {
		g, in := d.enter(conn(c.from))
		if in != c.in {
			t.Errorf("%s gets in: %t", c.from, in)
		}
		if in {
			guests = append(guests, g)
		}
	}
	promote(withGuest(context.Background(), guests[0])) // has said who it is
	if g, in := d.enter(conn("10.0.0.1")); !in {
		t.Error("a known peer still counts")
	} else {
		_ = g.Close()
	}
	for _, g := range guests {
		_ = g.Close()
		_ = g.Close()
	}
	if d.strangers != 0 || len(d.from) != 0 {
		t.Errorf("after all have left: %d, %v", d.strangers, d.from)
	}
}

type addressed struct {
	net.Conn
	from net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.from }
func (a addressed) Close() error         { return nil }

// TestStrangerIsShownTheDoor: a refused request ends its connection, and one
// with a large head or body is not read.
func TestStrangerIsShownTheDoor(t *testing.T) {
	n := newNode(t)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(n.url, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /pods HTTP/1.1\r\nHost: x\r\n\r\n")
	answer, err := io.ReadAll(conn) // until the server closes
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 401 ")) || !bytes.Contains(answer, []byte("Connection: close")) {
		t.Errorf("%v %q", err, answer)
	}
	big, err := tls.Dial("tcp", strings.TrimPrefix(n.url, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	go fmt.Fprintf(big, "GET /pods HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 2*maxHeaderBytes))
	answer, _ = io.ReadAll(big)
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 431 ")) {
		t.Errorf("a large head: %.100q", answer)
	}
}

func TestTooManyShortRequests(t *testing.T) {
	n := newNode(t)
	for range maxShort {
		n.places <- struct{}{}
	}
	if code, _, header := n.do(t, "admin", "GET", "/pods", ""); code != 503 || header.Get("Retry-After") == "" {
		t.Errorf("%d", code)
	}
	if code, _, _ := n.do(t, "admin", "GET", "/containerLogs/ns/web/main", ""); code != 200 {
		t.Errorf("a long request: %d", code)
	}
}

// patientLogs follows for longer than the port waits for a request.
type patientLogs struct{ wait time.Duration }

func (p patientLogs) Read(ctx context.Context, _ *v1.Pod, _ string, _ *v1.PodLogOptions, stdout, _ io.Writer) error {
	fmt.Fprintln(stdout, "first")
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(p.wait):
	}
	_, err := fmt.Fprintln(stdout, "last")
	return err
}

// TestLongRequestsOutliveTheDeadlines of requests, over HTTP/1.1 and 2.
func TestLongRequestsOutliveTheDeadlines(t *testing.T) {
	const limit = 50 * time.Millisecond
	n := newTunedNode(t, func(s *Server) { s.port.server.ReadTimeout = limit }, func(c *Config) { c.Logs = patientLogs{10 * limit} })
	for _, http2 := range []bool{false, true} {
		n.client.Transport = &http.Transport{ForceAttemptHTTP2: http2, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		if code, body, _ := n.do(t, "admin", "GET", "/containerLogs/ns/web/main?follow=true", ""); code != 200 || body != "first\nlast\n" {
			t.Errorf("HTTP/2 %t: %d %q", http2, code, body)
		}
	}
}
