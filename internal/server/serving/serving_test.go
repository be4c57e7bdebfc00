package serving

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := replace(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func newPair(t *testing.T, host string) (cert, key []byte) {
	t.Helper()
	cert, key, err := generate(host, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func hostOf(t *testing.T, der []byte) string {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c.DNSNames[0]
}

func TestChangedCertificateIsTakenOver(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	first, firstKey := newPair(t, "first")
	second, secondKey := newPair(t, "second")
	write(t, certFile, first)
	write(t, keyFile, firstKey)
	synctest.Test(t, func(t *testing.T) {
		c, err := NewCertificate(certFile, keyFile, true)
		if err != nil {
			t.Fatal(err)
		}
		fixed, err := NewCertificate(certFile, keyFile, false)
		if err != nil {
			t.Fatal(err)
		}
		now := func(c *Certificate) string {
			time.Sleep(recheck)
			pair, err := c.Get(nil)
			if err != nil {
				t.Fatal(err)
			}
			return hostOf(t, pair.Certificate[0])
		}
		write(t, certFile, second)
		if got := now(c); got != "first" {
			t.Errorf("half of a new pair is used: %s", got)
		}
		write(t, keyFile, secondKey)
		if got := now(c); got != "second" {
			t.Errorf("a changed pair is not used: %s", got)
		}
		write(t, certFile, []byte("nonsense"))
		if got := now(c); got != "second" {
			t.Errorf("with a broken file: %s", got)
		}
		os.Remove(certFile)
		if got := now(c); got != "second" {
			t.Errorf("with a missing file: %s", got)
		}
		write(t, certFile, first)
		write(t, keyFile, firstKey)
		if got := now(c); got != "first" {
			t.Errorf("after the repair: %s", got)
		}
		if got := now(fixed); got != "first" {
			t.Errorf("without reload: %s", got)
		}
	})
}

func TestClientCAs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.crt")
	if _, err := NewClientCAs(path, true); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing file: %v", err)
	}
	write(t, path, []byte("nothing here"))
	if _, err := NewClientCAs(path, true); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file without certificates: %v", err)
	}
	first, _ := newPair(t, "first")
	second, _ := newPair(t, "second")
	write(t, path, first)
	synctest.Test(t, func(t *testing.T) {
		c, err := NewClientCAs(path, true)
		if err != nil {
			t.Fatal(err)
		}
		before := c.Pool()
		time.Sleep(recheck)
		if c.Pool() != before {
			t.Error("another pool, though nothing changed")
		}
		write(t, path, append(bytes.Clone(first), second...))
		time.Sleep(recheck)
		if c.Pool().Equal(before) {
			t.Error("a changed bundle is not used")
		}
		both := c.Pool()
		write(t, path, append(bytes.Clone(first), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})...))
		time.Sleep(recheck)
		if !c.Pool().Equal(both) {
			t.Error("half of a bundle is used")
		}
	})
}

func TestSelfSigned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	now := time.Now()
	clock := func() time.Time { return now }
	s, err := newSelfSigned(dir, "node-1", []net.IP{net.ParseIP("10.0.0.1")}, clock)
	if err != nil {
		t.Fatal(err)
	}
	pair, _ := s.Get(nil)
	if err := pair.Leaf.VerifyHostname("node-1"); err != nil {
		t.Error(err)
	}
	if err := pair.Leaf.VerifyHostname("10.0.0.1"); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(dir, selfSignedKey)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	// The next start uses the same.
	again, err := newSelfSigned(dir, "node-1", nil, clock)
	if err != nil {
		t.Fatal(err)
	}
	if p, _ := again.Get(nil); !p.Leaf.Equal(pair.Leaf) {
		t.Error("a second start makes another certificate")
	}
	// It is renewed while it runs, before it expires.
	now = pair.Leaf.NotAfter.Add(-renewBefore)
	renewed, _ := s.Get(nil)
	if !renewed.Leaf.NotAfter.After(pair.Leaf.NotAfter) {
		t.Error("not renewed before its end")
	}
	// A crash between key and certificate leaves a pair that does not match.
	_, key := newPair(t, "x")
	write(t, filepath.Join(dir, selfSignedKey), key)
	if _, err := newSelfSigned(dir, "node-1", nil, clock); err != nil {
		t.Errorf("a pair that does not match: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func FuzzPool(f *testing.F) {
	cert, _, err := generate("x", nil, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cert)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if pool, err := parsePool(text); (pool == nil) == (err == nil) {
			t.Errorf("%v, %v", pool, err)
		}
	})
}
