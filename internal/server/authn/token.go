package authn

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	authenticationv1 "k8s.io/api/authentication/v1"

	"kubelet/internal/server/memo"
)

const (
	// maxTokens is how many reviews are remembered.
	maxTokens = 4096
	// maxReviews is how many are asked for at once.
	maxReviews = 32
	// reviewTimeout is the deadline of one.
	reviewTimeout = 10 * time.Second
	// refusalTTL is how long a refused token stays refused without asking
	// again: shorter than what is valid, since a token may become valid (an API
	// server that lags behind the one that issued it).
	refusalTTL = 10 * time.Second

	// Each address may try so many unknown tokens: a burst, and so many a
	// second. Tokens that turn out to be valid do not count.
	triesBurst     = 30
	triesPerSecond = 3
	maxAddresses   = 1024

	// socketTokenPrefix marks the subprotocol in which a browser, which cannot
	// set headers, brings its token.
	socketTokenPrefix = "base64url.bearer.authorization.k8s.io."
	socketProtocol    = "Sec-Websocket-Protocol"
)

// tokens knows users by their bearer token.
type tokens struct {
	reviewer TokenReviewer
	ttl      time.Duration
	known    *memo.Memo[[sha256.Size]byte, *User] // nil user: refused
	tries    tries
}

func newTokens(reviewer TokenReviewer, ttl time.Duration) *tokens {
	return &tokens{
		reviewer: reviewer, ttl: ttl,
		known: memo.New[[sha256.Size]byte, *User](memo.Config{Entries: maxTokens, InFlight: maxReviews, Timeout: reviewTimeout}),
		tries: tries{buckets: map[netip.Addr]*bucket{}},
	}
}

// authenticate returns the user of the request's token, and takes the token
// out of the request. Without a token there is neither user nor error.
func (t *tokens) authenticate(r *http.Request) (*User, error) {
	if token := bearer(r.Header.Get("Authorization")); token != "" {
		user, err := t.review(r, token)
		if user != nil {
			r.Header.Del("Authorization")
		}
		return user, err
	}
	token, others, err := socketToken(r)
	if token == "" || err != nil {
		return nil, err
	}
	user, err := t.review(r, token)
	if user != nil {
		r.Header.Set(socketProtocol, strings.Join(others, ","))
	}
	return user, err
}

var errRefused = errors.New("the token is not valid")

func (t *tokens) review(r *http.Request, token string) (*User, error) {
	key := sha256.Sum256([]byte(token))
	user, known := t.known.Get(key)
	if !known {
		giveBack, ok := t.tries.take(r.RemoteAddr)
		if !ok {
			return nil, ErrTooMany
		}
		var err error
		user, err = t.known.Do(r.Context(), key, func(ctx context.Context) (*User, time.Duration, error) {
			return t.ask(ctx, token)
		})
		if user != nil || err != nil {
			giveBack()
		}
		if errors.Is(err, memo.ErrBusy) {
			return nil, ErrTooMany
		}
		if err != nil {
			return nil, fmt.Errorf("review token: %w", err)
		}
	}
	if user == nil {
		return nil, errRefused
	}
	return user, nil
}

func (t *tokens) ask(ctx context.Context, token string) (*User, time.Duration, error) {
	answer, err := t.reviewer.CreateTokenReview(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}})
	if err != nil {
		return nil, 0, err
	}
	status := &answer.Status
	if !status.Authenticated || status.User.Username == "" {
		return nil, min(refusalTTL, t.ttl), nil
	}
	extra := make(map[string][]string, len(status.User.Extra))
	for key, values := range status.User.Extra {
		extra[key] = values
	}
	return newUser(status.User.Username, status.User.UID, status.User.Groups, extra), t.ttl, nil
}

// bearer returns the token of an Authorization header (RFC 6750), or "".
func bearer(header string) string {
	fields := strings.SplitN(strings.TrimSpace(header), " ", 3)
	if len(fields) < 2 || !strings.EqualFold(fields[0], "bearer") {
		return ""
	}
	return fields[1]
}

// socketToken returns the token among the subprotocols of a WebSocket request,
// and the other subprotocols, of which there must be one to answer with.
func socketToken(r *http.Request) (token string, others []string, err error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", nil, nil
	}
	for _, header := range r.Header.Values(socketProtocol) {
		for protocol := range strings.SplitSeq(header, ",") {
			protocol = strings.TrimSpace(protocol)
			encoded, ok := strings.CutPrefix(protocol, socketTokenPrefix)
			if !ok {
				others = append(others, protocol)
				continue
			}
			if token != "" {
				return "", nil, errors.New("read token of a WebSocket: there are several")
			}
			raw, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil || len(raw) == 0 || !utf8.Valid(raw) {
				return "", nil, errors.New("read token of a WebSocket: it is not base64url of a text")
			}
			token = string(raw)
		}
	}
	if token != "" && len(others) == 0 {
		return "", nil, errors.New("read token of a WebSocket: another subprotocol is needed beside it")
	}
	return token, others, nil
}

// tries bounds how many unknown tokens an address may bring: a bucket of
// triesBurst for each, filled at triesPerSecond.
type tries struct {
	mu      sync.Mutex
	buckets map[netip.Addr]*bucket
}

type bucket struct {
	left float64
	at   time.Time
}

// take uses one try of an address up; giveBack undoes that.
func (t *tries) take(remote string) (giveBack func(), ok bool) {
	address, now := peer(remote), time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.buckets[address]
	if b == nil {
		t.makeRoomLocked(now)
		b = &bucket{left: triesBurst, at: now}
		t.buckets[address] = b
	}
	b.fill(now)
	if b.left < 1 {
		return nil, false
	}
	b.left--
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		b.left = min(b.left+1, triesBurst)
	}, true
}

func (b *bucket) fill(now time.Time) {
	b.left = min(b.left+now.Sub(b.at).Seconds()*triesPerSecond, triesBurst)
	b.at = now
}

// makeRoomLocked forgets addresses that have all their tries, or if there are
// none an arbitrary one: newcomers are not to suffer for the others.
func (t *tries) makeRoomLocked(now time.Time) {
	if len(t.buckets) < maxAddresses {
		return
	}
	for address, b := range t.buckets {
		if b.fill(now); b.left >= triesBurst {
			delete(t.buckets, address)
		}
	}
	for address := range t.buckets {
		if len(t.buckets) < maxAddresses {
			return
		}
		delete(t.buckets, address)
	}
}

// peer is the address that tries are counted for: of IPv6 the first 64 bits,
// the rest of which one machine can choose.
func peer(remote string) netip.Addr {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	address := at.Addr().Unmap().WithZone("")
	if address.Is6() {
		if prefix, err := address.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return address
}
