// Package authn finds out who sends a request: by client certificate, by
// bearer token, or nobody. It owns the memory of reviewed tokens; it reads
// the client CAs (package serving) and asks the API server for token reviews.
//
// https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
package authn

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// Names of those who are known by nothing, and of the groups that everybody
// is in (https://kubernetes.io/docs/reference/access-authn-authz/authentication/).
const (
	anonymous            = "system:anonymous"
	groupAuthenticated   = "system:authenticated"
	groupUnauthenticated = "system:unauthenticated"
)

// User is somebody. It is not modified.
type User struct {
	Name, UID string
	Groups    []string
	Extra     map[string][]string

	identity string
}

// Identity is equal for two users exactly if everything of them is equal.
func (u *User) Identity() string { return u.identity }

// newUser completes a user. Everybody who could tell who he is is in the
// group system:authenticated.
func newUser(name, uid string, groups []string, extra map[string][]string) *User {
	u := &User{Name: name, UID: uid, Groups: slices.Clone(groups), Extra: extra}
	if name != anonymous && !slices.Contains(u.Groups, groupAuthenticated) && !slices.Contains(u.Groups, groupUnauthenticated) {
		u.Groups = append(u.Groups, groupAuthenticated)
	}
	var id strings.Builder
	fmt.Fprintf(&id, "%q %q %q", u.Name, u.UID, u.Groups)
	keys := make([]string, 0, len(extra))
	for key := range extra {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		fmt.Fprintf(&id, " %q=%q", key, extra[key])
	}
	u.identity = id.String()
	return u
}

// TokenReviewer asks the API server about a token.
type TokenReviewer interface {
	CreateTokenReview(ctx context.Context, review *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error)
}

// ClientCAs are the authorities that sign client certificates.
type ClientCAs interface {
	// Pool returns the newest pool, the same one while nothing changed.
	Pool() *x509.CertPool
}

// Config says which ways there are to be known.
type Config struct {
	// ClientCAs sign client certificates (authentication.x509.clientCAFile);
	// nil means that certificates are not looked at.
	ClientCAs ClientCAs
	// Tokens reviews bearer tokens (authentication.webhook.enabled); nil means
	// that they are not looked at.
	Tokens TokenReviewer
	// TokenTTL is how long a review holds (authentication.webhook.cacheTTL).
	TokenTTL time.Duration
	// Anonymous lets requests in that carry no credentials
	// (authentication.anonymous.enabled), as the user system:anonymous.
	Anonymous bool
}

// Authenticator tells who sends a request.
type Authenticator struct {
	cas       ClientCAs
	tokens    *tokens // nil without reviews
	anonymous *User   // nil if there are none
	now       func() time.Time
}

// New makes an Authenticator. With no way to be known it refuses everybody.
func New(cfg Config) *Authenticator {
	a := &Authenticator{cas: cfg.ClientCAs, now: time.Now}
	if cfg.Tokens != nil {
		a.tokens = newTokens(cfg.Tokens, cfg.TokenTTL)
	}
	if cfg.Anonymous {
		a.anonymous = newUser(anonymous, "", []string{groupUnauthenticated}, nil)
	}
	return a
}

// ErrTooMany is the error of Authenticate for a peer that tries too many
// tokens.
var ErrTooMany = errors.New("too many unknown tokens")

// Authenticate returns who sends the request, nil if nobody that is known. An
// error says why credentials that were given do not count; the request is to
// be refused then even where anonymous ones are let in.
func (a *Authenticator) Authenticate(r *http.Request) (*User, error) {
	user, certErr := a.byCertificate(r)
	if user != nil {
		return user, nil
	}
	if a.tokens != nil {
		user, err := a.tokens.authenticate(r)
		if user != nil {
			return user, nil
		}
		if err != nil {
			return nil, errors.Join(certErr, err)
		}
	}
	if certErr != nil {
		return nil, certErr
	}
	return a.anonymous, nil
}

// connection remembers what a client certificate was found to say, so that
// the requests of one connection do not each verify its signatures.
type connection struct {
	mu    sync.Mutex
	leaf  *x509.Certificate
	pool  *x509.CertPool
	until time.Time
	user  *User
}

type connectionKey struct{}

// WithConnection returns the context of a new connection, to be the parent of
// its requests' (http.Server.ConnContext).
func WithConnection(ctx context.Context) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{})
}
