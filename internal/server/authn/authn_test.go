package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// ca is an authority.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (c *ca) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.cert)
	return pool
}

func newCA(t *testing.T) *ca {
	t.Helper()
	c := &ca{}
	c.cert, c.key = c.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return c
}

func (c *ca) issue(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(7)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := template, key
	if c.cert != nil {
		parent, signer = c.cert, c.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (c *ca) client(t *testing.T, name pkix.Name) *x509.Certificate {
	cert, _ := c.issue(t, &x509.Certificate{Subject: name, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return cert
}

// reviewer knows the token "good" and counts.
type reviewer struct {
	asked int
	err   error
}

func (r *reviewer) CreateTokenReview(_ context.Context, review *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error) {
	r.asked++
	if r.err != nil {
		return nil, r.err
	}
	if review.Spec.Token == "good" {
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{
			Username: "system:serviceaccount:ns:sa", UID: "u", Groups: []string{"system:serviceaccounts"},
			Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}},
		}}
	}
	return review, nil
}

func request(certs ...*x509.Certificate) *http.Request {
	r := httptest.NewRequest("GET", "/pods", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: certs}
	return r
}

func withToken(r *http.Request, token string) *http.Request {
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func TestAuthenticate(t *testing.T) {
	trusted, other := newCA(t), newCA(t)
	admin := trusted.client(t, pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	uid := pkix.AttributeTypeAndValue{Type: uidAttribute, Value: "1234"}
	socket := request()
	socket.Header.Set("Upgrade", "websocket")
	socket.Header.Set("Sec-WebSocket-Protocol", "v5.channel.k8s.io, "+socketTokenPrefix+base64.RawURLEncoding.EncodeToString([]byte("good")))
	bare := request()
	bare.Header.Set("Upgrade", "websocket")
	bare.Header.Set("Sec-WebSocket-Protocol", socketTokenPrefix+base64.RawURLEncoding.EncodeToString([]byte("good")))
	expired, _ := trusted.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "old"}, NotBefore: time.Now().Add(-2 * time.Hour),
		NotAfter: time.Now().Add(-time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	serverOnly, _ := trusted.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "server"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})

	for _, c := range []struct {
		name      string
		request   *http.Request
		anonymous bool
		want      string // "user groups", "" for nobody
		refused   bool   // with an error
	}{
		{"no credentials", request(), false, "", false},
		{"no credentials, anonymous ones are let in", request(), true, "system:anonymous [system:unauthenticated]", false},
		{"a certificate", request(admin), false, "admin [system:masters system:authenticated]", false},
		{"a certificate with a UID", request(trusted.client(t, pkix.Name{CommonName: "a", ExtraNames: []pkix.AttributeTypeAndValue{uid}})), false, "a/1234 [system:authenticated]", false},
		{"a certificate with two UIDs", request(trusted.client(t, pkix.Name{CommonName: "a", ExtraNames: []pkix.AttributeTypeAndValue{uid, uid}})), true, "", true},
		{"a certificate without a name", request(trusted.client(t, pkix.Name{Organization: []string{"system:masters"}})), false, "", false},
		{"a foreign certificate", request(other.client(t, pkix.Name{CommonName: "admin"})), false, "", true},
		{"a foreign certificate is not anonymous", request(other.client(t, pkix.Name{CommonName: "admin"})), true, "", true},
		{"an expired certificate", request(expired), false, "", true},
		{"a server's certificate", request(serverOnly), false, "", true},
		{"a token", withToken(request(), "good"), false, "system:serviceaccount:ns:sa/u [system:serviceaccounts system:authenticated]", false},
		{"a token beside a foreign certificate", withToken(request(other.client(t, pkix.Name{CommonName: "x"})), "good"), false, "system:serviceaccount:ns:sa/u [system:serviceaccounts system:authenticated]", false},
		{"a wrong token", withToken(request(), "bad"), false, "", true},
		{"a wrong token is not anonymous", withToken(request(), "bad"), true, "", true},
		{"a certificate goes first", withToken(request(admin), "bad"), false, "admin [system:masters system:authenticated]", false},
		{"a token of a WebSocket", socket, false, "system:serviceaccount:ns:sa/u [system:serviceaccounts system:authenticated]", false},
		{"a token of a WebSocket without a protocol", bare, false, "", true},
	} {
		a := New(Config{ClientCAs: trusted, Tokens: &reviewer{}, TokenTTL: time.Minute, Anonymous: c.anonymous})
		user, err := a.Authenticate(c.request)
		got := ""
		if user != nil {
			got = user.Name
			if user.UID != "" {
				got += "/" + user.UID
			}
			got += fmt.Sprintf(" %v", user.Groups)
		}
		if got != c.want || (err != nil) != c.refused {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	if got := socket.Header.Get("Sec-WebSocket-Protocol"); got != "v5.channel.k8s.io" {
		t.Errorf("the token stays in the request: %q", got)
	}
	if user, err := New(Config{}).Authenticate(withToken(request(admin), "good")); user != nil || err != nil {
		t.Errorf("without a way to be known: %v, %v", user, err)
	}
}

func TestCredentialIDOfACertificate(t *testing.T) {
	authority := newCA(t)
	user, err := New(Config{ClientCAs: authority}).Authenticate(request(authority.client(t, pkix.Name{CommonName: "a"})))
	if err != nil || len(user.Extra[credentialID]) != 1 || !strings.HasPrefix(user.Extra[credentialID][0], "X509SHA256=") {
		t.Errorf("%v, %v", user, err)
	}
}

// pools counts how often it is asked, and can change.
type pools struct{ pool *x509.CertPool }

func (p *pools) Pool() *x509.CertPool { return p.pool }

func TestOneConnectionVerifiesOnceUntilTheCAsChange(t *testing.T) {
	first, second := newCA(t), newCA(t)
	p := &pools{first.Pool()}
	a := New(Config{ClientCAs: p})
	r := request(first.client(t, pkix.Name{CommonName: "a"}))
	r = r.WithContext(WithConnection(r.Context()))
	one, err := a.Authenticate(r)
	if err != nil {
		t.Fatal(err)
	}
	if two, _ := a.Authenticate(r); two != one {
		t.Error("the second request of a connection was verified anew")
	}
	p.pool = second.Pool()
	if user, err := a.Authenticate(r); user != nil || err == nil {
		t.Errorf("after the CA is gone: %v, %v", user, err)
	}
	p.pool = first.Pool()
	a.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if user, err := a.Authenticate(r); user != nil || err == nil {
		t.Errorf("after the certificate has expired: %v, %v", user, err)
	}
}

func TestTokensAreReviewedOnceForTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reviewer{}
		a := New(Config{Tokens: r, TokenTTL: 2 * time.Minute})
		try := func(token string) bool {
			user, _ := a.Authenticate(withToken(request(), token))
			return user != nil
		}
		for range 5 {
			if !try("good") {
				t.Fatal("a good token is refused")
			}
		}
		time.Sleep(2 * time.Minute)
		try("good")
		if r.asked != 2 {
			t.Errorf("asked %d times, want 2", r.asked)
		}
		r.asked = 0
		try("bad")
		try("bad")
		time.Sleep(refusalTTL)
		try("bad")
		if r.asked != 2 {
			t.Errorf("asked %d times about a bad token, want 2", r.asked)
		}
		r.asked, r.err = 0, errors.New("away")
		if try("other") || try("other") || r.asked != 2 {
			t.Errorf("a failed review is remembered: asked %d times", r.asked)
		}
	})
}

func TestGuessingTokensIsBoundedForEachAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reviewer{}
		a := New(Config{Tokens: r, TokenTTL: time.Minute})
		guess := func(from string, i int) error {
			req := withToken(request(), fmt.Sprintf("guess-%s-%d", from, i))
			req.RemoteAddr = from
			_, err := a.Authenticate(req)
			return err
		}
		for i := range 1000 {
			_ = guess("10.0.0.1:1", i)
		}
		if r.asked != triesBurst {
			t.Errorf("%d reviews of 1000 guesses, want %d", r.asked, triesBurst)
		}
		if err := guess("10.0.0.1:2", 1000); !errors.Is(err, ErrTooMany) {
			t.Errorf("another port of the same address: %v", err)
		}
		if err := guess("10.0.0.2:1", 0); errors.Is(err, ErrTooMany) {
			t.Error("another address suffers")
		}
		// Who has a token that is known, or a new one that is right, gets in.
		req := withToken(request(), "good")
		req.RemoteAddr = "10.0.0.2:9"
		if user, err := a.Authenticate(req); user == nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		r.asked = 0
		for i := range 100 {
			_ = guess("10.0.0.1:3", 2000+i)
		}
		if r.asked != triesPerSecond {
			t.Errorf("%d reviews a second later, want %d", r.asked, triesPerSecond)
		}
	})
}

func TestRightTokensUseNoTriesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{Tokens: allGood{}, TokenTTL: time.Minute})
		for i := range 10 * triesBurst {
			if user, err := a.Authenticate(withToken(request(), fmt.Sprint("token", i))); user == nil {
				t.Fatalf("token %d: %v", i, err)
			}
		}
	})
}

type allGood struct{}

func (allGood) CreateTokenReview(_ context.Context, r *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error) {
	r.Status.Authenticated, r.Status.User.Username = true, "u"
	return r, nil
}

func TestAddressesOfAPeer(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1:5": "10.0.0.1", "[::ffff:10.0.0.1]:5": "10.0.0.1", "[2001:db8::1]:5": "2001:db8::", "[2001:db8:0:0:9::1]:6": "2001:db8::",
		"[fe80::1%eth0]:1": "fe80::", "nonsense": "invalid IP",
	} {
		if got := peer(in).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestMemoryOfAddressesIsBounded(t *testing.T) {
	a := New(Config{Tokens: &reviewer{}, TokenTTL: time.Minute})
	for i := range 3 * maxAddresses {
		_, _ = a.tokens.tries.take(fmt.Sprintf("10.%d.%d.%d:1", i>>16&255, i>>8&255, i&255))
	}
	if n := len(a.tokens.tries.buckets); n > maxAddresses {
		t.Errorf("%d addresses are remembered, want at most %d", n, maxAddresses)
	}
}

func TestIdentityTellsUsersApart(t *testing.T) {
	users := []*User{
		newUser("a", "", nil, nil), newUser("a", "b", nil, nil), newUser("ab", "", nil, nil), newUser("a", "", []string{"b", "c"}, nil),
		newUser("a", "", []string{"b c"}, nil), newUser("a", "", nil, map[string][]string{"k": {"v"}}), newUser("a", "", nil, map[string][]string{"k": {"v", "w"}}),
		newUser(`a" "`, "", nil, nil),
	}
	seen := map[string]int{}
	for i, u := range users {
		if j, ok := seen[u.Identity()]; ok {
			t.Errorf("users %d and %d are the same: %s", i, j, u.Identity())
		}
		seen[u.Identity()] = i
	}
	again := newUser("a", "", nil, map[string][]string{"k": {"v"}})
	if _, ok := seen[again.Identity()]; !ok {
		t.Error("the same user is another one")
	}
}

func FuzzCredentials(f *testing.F) {
	f.Add("Bearer abc", "v5.channel.k8s.io")
	f.Add("bearer  x y", socketTokenPrefix+"YQ,"+socketTokenPrefix+"YQ")
	f.Add("Basic xyz", socketTokenPrefix+"*")
	f.Fuzz(func(t *testing.T, authorization, protocol string) {
		if token := bearer(authorization); strings.Contains(token, " ") {
			t.Errorf("a token with a space in it: %q", token)
		}
		r := &http.Request{Header: http.Header{"Upgrade": {"websocket"}, socketProtocol: {protocol}}}
		token, others, err := socketToken(r)
		if token != "" && (err != nil || len(others) == 0) {
			t.Errorf("a token without a protocol to answer with: %q %q %v", token, others, err)
		}
	})
}
