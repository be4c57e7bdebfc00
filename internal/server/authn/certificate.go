package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// credentialID is the key under which a user's Extra says which credential was
// used. https://kubernetes.io/docs/reference/access-authn-authz/authentication/#x509-client-certificates
const credentialID = "authentication.kubernetes.io/credential-id"

// uidAttribute is the subject attribute that holds a user's UID
// (1.3.6.1.4.1.57683.2, same place).
var uidAttribute = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}

// byCertificate returns the user whose certificate the client has shown: nil
// if it has shown none. The TLS handshake asks for a certificate and does not
// verify it; an expired or foreign one may stand beside a valid token.
func (a *Authenticator) byCertificate(r *http.Request) (*User, error) {
	if a.cas == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, nil
	}
	leaf, pool, now := r.TLS.PeerCertificates[0], a.cas.Pool(), a.now()
	conn, _ := r.Context().Value(connectionKey{}).(*connection)
	if conn != nil {
		conn.mu.Lock()
		defer conn.mu.Unlock()
		if conn.leaf == leaf && conn.pool == pool && now.Before(conn.until) {
			return conn.user, nil
		}
	}
	user, until, err := verify(r.TLS.PeerCertificates, pool, now)
	if err != nil {
		return nil, err
	}
	if conn != nil && user != nil {
		conn.leaf, conn.pool, conn.until, conn.user = leaf, pool, until, user
	}
	return user, nil
}

// verify checks a chain and returns whom it names, and until when the chain is
// valid.
func verify(chain []*x509.Certificate, pool *x509.CertPool, now time.Time) (*User, time.Time, error) {
	leaf := chain[0]
	options := x509.VerifyOptions{
		Roots: pool, CurrentTime: now, Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	verified, err := leaf.Verify(options)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("verify client certificate of %q, serial number %d: %w", leaf.Subject.CommonName, leaf.SerialNumber, err)
	}
	until := leaf.NotAfter
	for _, c := range verified[0] {
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	user, err := userOf(leaf)
	return user, until, err
}

// userOf reads the subject: the common name is the user's, organizations are
// groups. A certificate without a name is nobody's.
func userOf(leaf *x509.Certificate) (*User, error) {
	if leaf.Subject.CommonName == "" {
		return nil, nil
	}
	var uid string
	for _, name := range leaf.Subject.Names {
		if !name.Type.Equal(uidAttribute) {
			continue
		}
		text, ok := name.Value.(string)
		if !ok || text == "" || uid != "" {
			return nil, errors.New("read subject of client certificate: want one UID, and text in it")
		}
		uid = text
	}
	sum := sha256.Sum256(leaf.Raw)
	return newUser(leaf.Subject.CommonName, uid, leaf.Subject.Organization,
		map[string][]string{credentialID: {"X509SHA256=" + hex.EncodeToString(sum[:])}}), nil
}
