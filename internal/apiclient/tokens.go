package apiclient

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

const (
	// maxTokenAge is when a token is refreshed even if it lives longer.
	maxTokenAge = 24 * time.Hour
	// maxTokenJitter spreads the refreshes of one node's tokens.
	maxTokenJitter = 10 * time.Second
	// tokenRetry is how soon a refresh that failed is to be tried again while
	// the old token is still valid.
	tokenRetry = 10 * time.Second
)

// TokenCreator makes service account tokens; *Client is one.
type TokenCreator interface {
	CreateToken(ctx context.Context, namespace, serviceAccount string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
}

// Tokens hands out service account tokens that are bound to a pod, and keeps
// them until they need to be refreshed.
type Tokens struct {
	creator TokenCreator

	mu     sync.Mutex
	tokens map[types.UID]map[tokenKey]*tokenEntry
}

type tokenKey struct {
	serviceAccount, audience string
	seconds                  int64
}

// tokenEntry is guarded by Tokens.mu.
type tokenEntry struct {
	token              string
	refreshAt, expires time.Time
	// fetching is closed when the request under way has ended; nil if none is.
	fetching chan struct{}
}

// NewTokens makes an empty cache of tokens.
func NewTokens(creator TokenCreator) (*Tokens, error) {
	if creator == nil {
		return nil, errors.New("make token cache: no API client")
	}
	return &Tokens{creator: creator, tokens: make(map[types.UID]map[tokenKey]*tokenEntry)}, nil
}

// Token returns a token of the pod's service account for an audience (empty
// for the API server's own), bound to the pod, and when to ask again for a
// fresh one: after 80 % of its life or a day. If a refresh fails, the old
// token is returned as long as it is valid.
func (t *Tokens) Token(ctx context.Context, pod *v1.Pod, audience string, expirationSeconds int64) (token string, refreshAt time.Time, err error) {
	key := tokenKey{pod.Spec.ServiceAccountName, audience, expirationSeconds}
	for {
		t.mu.Lock()
		entry := t.entryLocked(pod.UID, key)
		if entry.token != "" && time.Now().Before(entry.refreshAt) {
			token, refreshAt = entry.token, entry.refreshAt
			t.mu.Unlock()
			return token, refreshAt, nil
		}
		if entry.fetching == nil {
			entry.fetching = make(chan struct{})
			t.mu.Unlock()
			return t.fetch(ctx, pod, key, entry)
		}
		fetching := entry.fetching
		t.mu.Unlock()
		select {
		case <-fetching:
		case <-ctx.Done():
			return "", time.Time{}, fmt.Errorf("wait for token of service account %s/%s: %w", pod.Namespace, key.serviceAccount, ctx.Err())
		}
	}
}

// Forget drops the pod's tokens. They stay valid until the pod's object is
// gone: that is what binding means.
func (t *Tokens) Forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tokens, uid)
}

func (t *Tokens) entryLocked(uid types.UID, key tokenKey) *tokenEntry {
	ofPod := t.tokens[uid]
	if ofPod == nil {
		ofPod = make(map[tokenKey]*tokenEntry, 1)
		t.tokens[uid] = ofPod
	}
	entry := ofPod[key]
	if entry == nil {
		entry = &tokenEntry{}
		ofPod[key] = entry
	}
	return entry
}

// create asks for a token, and again for about a second while it is forbidden:
// the node authorizer may not yet have seen that the pod was bound to this
// node.
func (t *Tokens) create(ctx context.Context, namespace, serviceAccount string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	delay := firstRetry
	for {
		answer, err := t.creator.CreateToken(ctx, namespace, serviceAccount, request)
		if !apierrors.IsForbidden(err) || delay > time.Second/2 || !sleep(ctx, jitter(delay)) {
			return answer, err
		}
		delay *= 2
	}
}

func (t *Tokens) fetch(ctx context.Context, pod *v1.Pod, key tokenKey, entry *tokenEntry) (string, time.Time, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &key.seconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID,
		},
	}}
	if key.audience != "" {
		request.Spec.Audiences = []string{key.audience}
	}
	answer, err := t.create(ctx, pod.Namespace, key.serviceAccount, request)
	if err == nil && answer.Status.Token == "" {
		err = errors.New("API server answered without a token")
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	close(entry.fetching)
	entry.fetching = nil
	now := time.Now()
	if err != nil {
		err = fmt.Errorf("get token of service account %s/%s: %w", pod.Namespace, key.serviceAccount, err)
		if entry.token == "" || !now.Before(entry.expires) {
			return "", time.Time{}, err
		}
		klog.FromContext(ctx).Error(err, "Keeping the token that is still valid", "pod", klog.KObj(pod),
			"validFor", entry.expires.Sub(now).Round(time.Second))
		entry.refreshAt = now.Add(min(tokenRetry, entry.expires.Sub(now)))
		return entry.token, entry.refreshAt, nil
	}
	// The server may have chosen another life. Times are counted from now, not
	// from the server's clock, so that a skewed clock causes no refresh storm.
	seconds := key.seconds
	if answered := answer.Spec.ExpirationSeconds; answered != nil && *answered > 0 {
		seconds = *answered
	}
	life := time.Duration(seconds) * time.Second
	fresh := min(life-life/5, maxTokenAge)
	fresh -= rand.N(min(maxTokenJitter, fresh/10+1))
	entry.token = answer.Status.Token
	entry.expires = now.Add(life)
	entry.refreshAt = now.Add(fresh)
	return entry.token, entry.refreshAt, nil
}
