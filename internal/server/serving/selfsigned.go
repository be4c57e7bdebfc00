package serving

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// Names of the self-signed pair in the certificate directory, upstream's.
const (
	selfSignedCert = "kubelet.crt"
	selfSignedKey  = "kubelet.key"
)

const (
	selfSignedLife = 365 * 24 * time.Hour
	// renewBefore is how long before its end a self-signed certificate is made
	// anew.
	renewBefore = 30 * 24 * time.Hour
)

// SelfSigned is a certificate that nobody vouches for, for a kubelet that was
// given none. What is in the directory is used, whoever made it. One that this
// kubelet made is replaced before it expires; upstream's runs out after a
// year.
type SelfSigned struct {
	dir, host string
	ips       []net.IP
	now       func() time.Time

	mu   sync.Mutex
	pair *tls.Certificate
	// again is when the pair is to be looked at again.
	again time.Time
}

// NewSelfSigned reads the pair in dir or makes it, for a host and its
// addresses.
func NewSelfSigned(dir, host string, ips []net.IP) (*SelfSigned, error) {
	return newSelfSigned(dir, host, ips, time.Now)
}

func newSelfSigned(dir, host string, ips []net.IP, now func() time.Time) (*SelfSigned, error) {
	s := &SelfSigned{dir: dir, host: host, ips: ips, now: now}
	if err := s.renewLocked(); err != nil {
		return nil, fmt.Errorf("set up self-signed serving certificate: %w", err)
	}
	return s, nil
}

// Get is the GetCertificate of a tls.Config.
func (s *SelfSigned) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); !now.Before(s.again) {
		s.again = now.Add(time.Hour) // if it fails
		if err := s.renewLocked(); err != nil {
			klog.Background().Error(err, "Self-signed serving certificate cannot be renewed, keeping the old one", "directory", s.dir)
		}
	}
	return s.pair, nil
}

// renewLocked takes the pair on disk, or a new one where that is missing,
// unreadable or ours and near its end.
func (s *SelfSigned) renewLocked() error {
	certFile, keyFile := filepath.Join(s.dir, selfSignedCert), filepath.Join(s.dir, selfSignedKey)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err == nil && (!selfMade(pair.Leaf) || s.now().Before(pair.Leaf.NotAfter.Add(-renewBefore))) {
		s.pair, s.again = &pair, pair.Leaf.NotAfter.Add(-renewBefore)
		if earliest := s.now().Add(time.Hour); s.again.Before(earliest) {
			s.again = earliest
		}
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.Background().Error(err, "Self-signed serving certificate cannot be read, making a new one", "file", certFile)
	}
	cert, key, err := generate(s.host, s.ips, s.now())
	if err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("make certificate directory: %w", err)
	}
	// A key without its certificate, after a crash between the two, does not
	// match it and is replaced at the next start.
	if err := replace(keyFile, key, 0o600); err != nil {
		return err
	}
	if err := replace(certFile, cert, 0o644); err != nil {
		return err
	}
	made, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("read new certificate: %w", err)
	}
	s.pair, s.again = &made, made.Leaf.NotAfter.Add(-renewBefore)
	return nil
}

// selfMade says whether a certificate is one that a kubelet, this one or
// upstream's, made for itself: signed by its own key or by a throw-away
// authority of the same name.
func selfMade(leaf *x509.Certificate) bool {
	if leaf.CheckSignatureFrom(leaf) == nil {
		return true
	}
	// Upstream: HOST@TIME signed by HOST-ca@TIME.
	host, _, made := strings.Cut(leaf.Subject.CommonName, "@")
	issuer, _, _ := strings.Cut(leaf.Issuer.CommonName, "@")
	return made && issuer == host+"-ca"
}

// generate makes a certificate of an elliptic curve, whose handshake costs a
// tenth of RSA's.
func generate(host string, ips []net.IP, now time.Time) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: fmt.Sprintf("%s@%d", host, now.Unix())},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.Add(selfSignedLife), // clocks differ
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		// It is its own authority, so that clients can be told to trust it.
		BasicConstraintsValid: true, IsCA: true,
		IPAddresses: ips,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = append(template.IPAddresses, ip)
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), nil
}

// replace puts a file in place as a whole.
func replace(path string, text []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
