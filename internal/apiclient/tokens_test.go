package apiclient

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

type tokenServer struct {
	mu       sync.Mutex
	requests []*authenticationv1.TokenRequest
	fail     error
	slow     time.Duration
	life     int64
}

func (s *tokenServer) CreateToken(_ context.Context, namespace, sa string, r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	time.Sleep(s.slow)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
	if s.fail != nil {
		return nil, s.fail
	}
	out := r.DeepCopy()
	if s.life != 0 {
		out.Spec.ExpirationSeconds = &s.life
	}
	out.Status.Token = fmt.Sprintf("%s/%s#%d", namespace, sa, len(s.requests))
	return out, nil
}

func tokenPod() *v1.Pod {
	pod := podWith("p")
	pod.Spec.ServiceAccountName = "default"
	return pod
}

func newTestTokens(t *testing.T, s *tokenServer) *Tokens {
	tokens, err := NewTokens(s)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestTokenIsBoundToThePodAndKeptUntilDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tokenServer{}
		tokens := newTestTokens(t, s)
		pod := tokenPod()
		token, refreshAt, err := tokens.Token(t.Context(), pod, "vault", 1000)
		if err != nil || token != "ns/default#1" {
			t.Fatalf("token %q, %v", token, err)
		}
		bound := s.requests[0].Spec.BoundObjectRef
		expect(t, "bound to", *bound, authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "p", UID: "p"})
		expect(t, "audiences", s.requests[0].Spec.Audiences, []string{"vault"})
		if in := time.Until(refreshAt); in > 800*time.Second || in < 790*time.Second {
			t.Errorf("refresh in %v, want 80 %% of 1000 s less up to 10 s", in)
		}
		time.Sleep(time.Until(refreshAt) - time.Nanosecond)
		if token, _, _ = tokens.Token(t.Context(), pod, "vault", 1000); token != "ns/default#1" {
			t.Errorf("refreshed early: %s", token)
		}
		time.Sleep(time.Nanosecond)
		if token, _, _ = tokens.Token(t.Context(), pod, "vault", 1000); token != "ns/default#2" {
			t.Errorf("not refreshed when due: %s", token)
		}
		if token, _, _ = tokens.Token(t.Context(), pod, "", 1000); token != "ns/default#3" {
			t.Errorf("another audience got %s", token)
		}
		tokens.Forget(pod.UID)
		expect(t, "tokens held", len(tokens.tokens), 0)
	})
}

// TestTokenOfAPodJustBound: the node authorizer is a moment behind, which the
// pod must not notice; a node that may not have the token learns it soon.
func TestTokenOfAPodJustBound(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "serviceaccounts"}, "default", errors.New("no relationship found"))
	synctest.Test(t, func(t *testing.T) {
		s := &tokenServer{fail: forbidden}
		go func() {
			time.Sleep(100 * time.Millisecond)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.fail = nil
		}()
		start := time.Now()
		if token, _, err := newTestTokens(t, s).Token(t.Context(), tokenPod(), "", 1000); err != nil || token == "" {
			t.Errorf("token %q, %v", token, err)
		}
		if took := time.Since(start); took > 300*time.Millisecond {
			t.Errorf("the token took %v", took)
		}
		s.fail = forbidden
		start = time.Now()
		if _, _, err := newTestTokens(t, s).Token(t.Context(), tokenPod(), "", 1000); !apierrors.IsForbidden(err) || time.Since(start) > 3*time.Second {
			t.Errorf("a token that is refused: %v after %v", err, time.Since(start))
		}
	})
}

func TestTokenLifeIsTheServersChoiceAndADayAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tokenServer{life: 365 * 24 * 3600}
		_, refreshAt, err := newTestTokens(t, s).Token(t.Context(), tokenPod(), "", 3607)
		if err != nil {
			t.Fatal(err)
		}
		if in := time.Until(refreshAt); in > 24*time.Hour || in < 24*time.Hour-maxTokenJitter {
			t.Errorf("refresh in %v", in)
		}
	})
}

func TestValidTokenIsServedWhileTheServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tokenServer{}
		tokens := newTestTokens(t, s)
		pod := tokenPod()
		if _, _, err := tokens.Token(t.Context(), pod, "", 1000); err != nil {
			t.Fatal(err)
		}
		s.fail = errors.New("connection refused")
		time.Sleep(900 * time.Second)
		for range 5 {
			token, refreshAt, err := tokens.Token(t.Context(), pod, "", 1000)
			if err != nil || token != "ns/default#1" {
				t.Fatalf("token %q, %v", token, err)
			}
			if in := time.Until(refreshAt); in <= 0 || in > tokenRetry {
				t.Errorf("retry in %v", in)
			}
		}
		expect(t, "requests", len(s.requests), 2)
		time.Sleep(101 * time.Second)
		if token, _, err := tokens.Token(t.Context(), pod, "", 1000); err == nil {
			t.Errorf("got %q after it expired", token)
		}
	})
}

func TestPodsVolumesAskTogetherForOneToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tokenServer{slow: time.Second}
		tokens := newTestTokens(t, s)
		for range 5 {
			go func() {
				if _, _, err := tokens.Token(t.Context(), tokenPod(), "", 3607); err != nil {
					t.Error(err)
				}
			}()
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		expect(t, "requests", len(s.requests), 1)
	})
}
