// Package authz decides what somebody may ask of the node's API. It owns the
// memory of decisions and asks the API server for access reviews; it reads and
// writes nothing else.
//
// https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/#kubelet-authorization
package authz

import (
	"context"
	"fmt"
	"net/http"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"kubelet/internal/server/authn"
	"kubelet/internal/server/memo"
)

const (
	maxDecisions  = 8192
	maxReviews    = 64
	reviewTimeout = 10 * time.Second
	// attempts: a review is asked for a second time if the first attempt got no
	// decision.
	attempts = 2
	pause    = 200 * time.Millisecond
)

// Request is what somebody wants to do with the node.
type Request struct {
	User *authn.User
	// Verb is an API verb: get, create, update, patch, delete; empty for an
	// HTTP method that has none.
	Verb string
	// Subresource of the Node object.
	Subresource string
}

// Verb returns the API verb of an HTTP method, which is all that decides it:
// a WebSocket request is a get, whatever it goes on to do.
func Verb(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodGet:
		return "get"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return ""
}

// AlwaysAllow allows everything to everybody who was let in.
type AlwaysAllow struct{}

// Allowed says yes.
func (AlwaysAllow) Allowed(context.Context, Request) (bool, error) { return true, nil }

// NeverAllow allows nothing: there is nobody to ask.
type NeverAllow struct{}

// Allowed says no.
func (NeverAllow) Allowed(context.Context, Request) (bool, error) { return false, nil }

// AccessReviewer asks the API server whether something is allowed.
type AccessReviewer interface {
	CreateSubjectAccessReview(ctx context.Context, review *authorizationv1.SubjectAccessReview) (*authorizationv1.SubjectAccessReview, error)
}

// WebhookConfig configures a Webhook.
type WebhookConfig struct {
	Reviewer AccessReviewer
	// Node is the name of the Node object.
	Node string
	// AllowedTTL and DeniedTTL are how long decisions hold
	// (authorization.webhook.cacheAuthorizedTTL, cacheUnauthorizedTTL).
	AllowedTTL, DeniedTTL time.Duration
}

// Webhook lets the API server decide.
type Webhook struct {
	cfg       WebhookConfig
	decisions *memo.Memo[question, bool]
}

type question struct{ identity, verb, subresource string }

// NewWebhook makes a Webhook.
func NewWebhook(cfg WebhookConfig) *Webhook {
	return &Webhook{cfg: cfg, decisions: memo.New[question, bool](memo.Config{
		Entries: maxDecisions, InFlight: maxReviews, Timeout: reviewTimeout,
	})}
}

// Allowed says whether the API server allows the request. An error means that
// there is no decision.
func (w *Webhook) Allowed(ctx context.Context, r Request) (bool, error) {
	allowed, err := w.decisions.Do(ctx, question{r.User.Identity(), r.Verb, r.Subresource}, func(ctx context.Context) (bool, time.Duration, error) {
		return w.ask(ctx, r)
	})
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	return allowed, nil
}

func (w *Webhook) ask(ctx context.Context, r Request) (bool, time.Duration, error) {
	extra := make(map[string]authorizationv1.ExtraValue, len(r.User.Extra))
	for key, values := range r.User.Extra {
		extra[key] = values
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: r.User.Name, UID: r.User.UID, Groups: r.User.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: r.Verb, Version: "v1", Resource: "nodes", Subresource: r.Subresource, Name: w.cfg.Node,
		},
	}}
	for attempt := 1; ; attempt++ {
		answer, err := w.cfg.Reviewer.CreateSubjectAccessReview(ctx, review)
		if err == nil {
			if answer.Status.Allowed && !answer.Status.Denied {
				return true, w.cfg.AllowedTTL, nil
			}
			return false, w.cfg.DeniedTTL, nil
		}
		if attempt == attempts {
			return false, 0, err
		}
		select {
		case <-ctx.Done():
			return false, 0, err
		case <-time.After(pause):
		}
	}
}
