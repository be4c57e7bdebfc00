// Package serving has the files that the kubelet's HTTPS port is served with:
// its certificate and key, and the client CAs. It owns the self-signed
// certificate in the certificate directory, which it makes if there is no
// other; of all others it is a reader.
//
// Files are looked at again when a client connects, at most once a second:
// a changed file takes effect without a restart, and nothing runs meanwhile.
package serving

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

// recheck is how often files are looked at, at most.
const recheck = time.Second

// maxFile bounds what is read of a file.
const maxFile = 8 << 20

// version tells whether a file is the one that was read.
type version struct {
	inode, device    uint64
	size             int64
	modified, change int64
}

func versionOf(path string) (version, error) {
	info, err := os.Stat(path)
	if err != nil {
		return version{}, err
	}
	v := version{size: info.Size(), modified: info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		v.inode, v.device, v.change = stat.Ino, uint64(stat.Dev), stat.Ctim.Nano()
	}
	return v, nil
}

// reloaded is a value made of files. The value of the last time that they
// could be read stays when they cannot.
type reloaded[T any] struct {
	paths []string
	load  func() (T, error)
	fixed bool // never looked at again

	mu       sync.Mutex
	value    T
	versions []version
	checked  time.Time
	looking  bool
	failed   string // the last failure that was logged
}

// newReloaded reads the files for the first time; then a failure is an error.
func newReloaded[T any](load func() (T, error), fixed bool, paths ...string) (*reloaded[T], error) {
	r := &reloaded[T]{paths: paths, load: load, fixed: fixed, checked: time.Now()}
	var err error
	if r.versions, err = r.look(); err != nil {
		return nil, err
	}
	if r.value, err = load(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *reloaded[T]) look() ([]version, error) {
	versions := make([]version, len(r.paths))
	for i, path := range r.paths {
		var err error
		if versions[i], err = versionOf(path); err != nil {
			return nil, err
		}
	}
	return versions, nil
}

// get returns the value, after a look at the files if it is time for one. Only
// one caller looks; a disk that hangs holds up nobody else.
func (r *reloaded[T]) get() T {
	r.mu.Lock()
	value, versions, now := r.value, r.versions, time.Now()
	due := !r.fixed && !r.looking && now.Sub(r.checked) >= recheck
	if due {
		r.checked, r.looking = now, true
	}
	r.mu.Unlock()
	if !due {
		return value
	}
	fresh, newVersions, err := r.refresh(value, versions)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.looking = false
	if err != nil {
		if r.failed != err.Error() {
			r.failed = err.Error()
			klog.Background().Error(err, "Changed files cannot be used, keeping what was read before", "files", r.paths)
		}
		return r.value
	}
	r.value, r.versions, r.failed = fresh, newVersions, ""
	return fresh
}

// refresh reads the files if they are not the ones that were read. While half
// of a pair is new the read fails, and is tried again the next time.
func (r *reloaded[T]) refresh(value T, old []version) (T, []version, error) {
	versions, err := r.look()
	if err != nil || slices.Equal(versions, old) {
		return value, old, err
	}
	if value, err = r.load(); err != nil {
		return value, old, err
	}
	klog.Background().Info("Read changed files", "files", r.paths)
	return value, versions, nil
}

// Certificate is the certificate that the port shows.
type Certificate struct {
	files *reloaded[*tls.Certificate]
}

// NewCertificate reads a certificate, with its chain, and its key from PEM
// files. With reload, later changes take effect.
func NewCertificate(certFile, keyFile string, reload bool) (*Certificate, error) {
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("read serving certificate %s and its key %s: %w", certFile, keyFile, err)
		}
		return &pair, nil
	}
	files, err := newReloaded(load, !reload, certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("set up serving certificate: %w", err)
	}
	return &Certificate{files: files}, nil
}

// Get is the GetCertificate of a tls.Config.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.files.get(), nil }

// ClientCAs are the authorities of client certificates, from a PEM file.
type ClientCAs struct {
	file *reloaded[*x509.CertPool]
}

// NewClientCAs reads a bundle of certificates. With reload, later changes take
// effect.
func NewClientCAs(path string, reload bool) (*ClientCAs, error) {
	file, err := newReloaded(func() (*x509.CertPool, error) { return readPool(path) }, !reload, path)
	if err != nil {
		return nil, fmt.Errorf("set up client CAs: %w", err)
	}
	return &ClientCAs{file: file}, nil
}

// Pool returns the newest authorities; the same pool while nothing changed.
func (c *ClientCAs) Pool() *x509.CertPool { return c.file.get() }

func readPool(path string) (*x509.CertPool, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxFile {
		return nil, fmt.Errorf("read client CA file %s: it is larger than %d bytes", path, maxFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read client CA file: %w", err)
	}
	pool, err := parsePool(text)
	if err != nil {
		return nil, fmt.Errorf("read client CA file %s: %w", path, err)
	}
	return pool, nil
}

// parsePool reads the certificates of a PEM bundle; other blocks are passed
// over. One that cannot be read makes the whole unusable, so that nobody is
// locked out by half a file.
func parsePool(text []byte) (*x509.CertPool, error) {
	pool, found := x509.NewCertPool(), false
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(certificate)
		found = true
	}
	if !found {
		return nil, errors.New("there is no certificate in it")
	}
	return pool, nil
}
