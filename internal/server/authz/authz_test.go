package authz

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"kubelet/internal/server/authn"
)

// reviewer allows what is in the map, and notes what it was asked.
type reviewer struct {
	allow map[string]bool // "verb subresource"
	asked []authorizationv1.SubjectAccessReviewSpec
	errs  []error // of the next calls
}

func (r *reviewer) CreateSubjectAccessReview(_ context.Context, review *authorizationv1.SubjectAccessReview) (*authorizationv1.SubjectAccessReview, error) {
	r.asked = append(r.asked, review.Spec)
	if len(r.errs) > 0 {
		err := r.errs[0]
		r.errs = r.errs[1:]
		if err != nil {
			return nil, err
		}
	}
	a := review.Spec.ResourceAttributes
	review.Status.Allowed = r.allow[a.Verb+" "+a.Subresource]
	return review, nil
}

func webhook(r *reviewer) *Webhook {
	return NewWebhook(WebhookConfig{Reviewer: r, Node: "n1", AllowedTTL: 5 * time.Minute, DeniedTTL: 30 * time.Second})
}

func TestDecisionsHoldForTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reviewer{allow: map[string]bool{"get metrics": true}}
		w, user := webhook(r), &authn.User{Name: "prometheus", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}}
		ask := func(subresource string) bool {
			t.Helper()
			allowed, err := w.Allowed(t.Context(), Request{User: user, Verb: "get", Subresource: subresource})
			if err != nil {
				t.Fatal(err)
			}
			return allowed
		}
		if !ask("metrics") || ask("proxy") {
			t.Fatal("wrong decisions")
		}
		spec := r.asked[0]
		if a := spec.ResourceAttributes; spec.User != "prometheus" || len(spec.Groups) != 1 || spec.Extra["k"][0] != "v" ||
			a.Resource != "nodes" || a.Name != "n1" || a.Version != "v1" || a.Group != "" || a.Namespace != "" {
			t.Errorf("asked %+v about %+v", spec, a)
		}
		time.Sleep(29 * time.Second)
		ask("metrics")
		ask("proxy")
		if len(r.asked) != 2 {
			t.Errorf("asked %d times, want the answers to hold", len(r.asked))
		}
		time.Sleep(time.Second)
		r.allow["get proxy"] = true
		if !ask("proxy") {
			t.Error("a refusal holds for longer than its time")
		}
		time.Sleep(5*time.Minute - 30*time.Second)
		delete(r.allow, "get metrics")
		if ask("metrics") {
			t.Error("a permission holds for longer than its time")
		}
	})
}

func TestNoDecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("away")
		r := &reviewer{allow: map[string]bool{"get proxy": true}, errs: []error{away, nil, away, away}}
		w := webhook(r)
		if allowed, err := w.Allowed(t.Context(), Request{User: &authn.User{Name: "u"}, Verb: "get", Subresource: "proxy"}); !allowed || err != nil {
			t.Errorf("after one failure: %t, %v", allowed, err)
		}
		if allowed, err := w.Allowed(t.Context(), Request{User: &authn.User{Name: "u"}, Verb: "get", Subresource: "log"}); allowed || !errors.Is(err, away) {
			t.Errorf("after two: %t, %v", allowed, err)
		}
	})
}

func TestVerb(t *testing.T) {
	for method, want := range map[string]string{
		http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
		http.MethodHead: "", http.MethodOptions: "", "BREW": "",
	} {
		if got := Verb(method); got != want {
			t.Errorf("%s: %q, want %q", method, got, want)
		}
	}
}
