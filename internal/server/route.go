package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"kubelet/internal/server/authn"
	"kubelet/internal/server/authz"
)

// Subresources of the Node object, by which access to endpoints is granted.
// Where there are two, either is enough (KEP-2862).
// https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
var (
	proxyAccess      = []string{"proxy"}
	podsAccess       = []string{"pods", "proxy"}
	healthzAccess    = []string{"healthz", "proxy"}
	configzAccess    = []string{"configz", "proxy"}
	flagzAccess      = []string{"configz"}
	statuszAccess    = []string{"statusz"}
	statsAccess      = []string{"stats"}
	metricsAccess    = []string{"metrics"}
	logAccess        = []string{"log"}
	checkpointAccess = []string{"checkpoint"}
)

// route is one endpoint. Who may use it is part of it: no path is read twice,
// by one who authorizes and one who serves, to mean two things.
type route struct {
	// pattern of a path, as http.ServeMux has it; no method.
	pattern string
	// bucket is the path in the metrics.
	bucket string
	// access are the subresources any one of which opens it.
	access []string
	// methods that it answers; nil for all.
	methods []string
	// long requests have no deadlines of their own and do not count as
	// requests in flight.
	long bool
	// executes: it runs a command in a container or talks to one.
	executes bool
	serve    http.HandlerFunc
}

var (
	onlyGET    = []string{http.MethodGet}
	onlyPOST   = []string{http.MethodPost}
	onlyPUT    = []string{http.MethodPut}
	getAndPOST = []string{http.MethodGet, http.MethodPost}
)

// disabled answers for endpoints that are configured away, in upstream's
// words.
func disabled(text string, bucket string, access []string, patterns ...string) (routes []route) {
	for _, pattern := range patterns {
		routes = append(routes, route{pattern: pattern, bucket: bucket, access: access, serve: func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, text, http.StatusMethodNotAllowed)
		}})
	}
	return routes
}

// table is the routes of one port, and the metrics' names of their paths.
type table struct {
	mux     *http.ServeMux
	buckets map[string]bool
	long    map[string]bool
	// folders are the first elements of all paths.
	folders []string
}

// newTable makes the routes of one port reachable. guard goes before each.
func newTable(routes []route, guard func(route) http.Handler) *table {
	t := &table{mux: http.NewServeMux(), buckets: map[string]bool{}, long: map[string]bool{}}
	for _, r := range routes {
		t.mux.Handle(r.pattern, guard(r))
		if r.bucket != "" {
			t.buckets[r.bucket] = true
			t.long[r.bucket] = t.long[r.bucket] || r.executes || r.bucket == "debug"
		}
		first, _, _ := strings.Cut(strings.TrimPrefix(r.pattern, "/"), "/")
		if first != "" && !slices.Contains(t.folders, "/"+first) {
			t.folders = append(t.folders, "/"+first)
		}
	}
	slices.Sort(t.folders)
	return t
}

// method refuses the methods that a route does not answer (RFC 9110, 15.5.6).
func (r route) method(w http.ResponseWriter, req *http.Request) bool {
	if r.methods == nil || slices.Contains(r.methods, req.Method) {
		return true
	}
	w.Header().Set("Allow", strings.Join(r.methods, ", "))
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}

// Authenticator tells who sends a request (package authn).
type Authenticator interface {
	Authenticate(r *http.Request) (*authn.User, error)
}

// Authorizer decides what somebody may do (package authz).
type Authorizer interface {
	Allowed(ctx context.Context, r authz.Request) (bool, error)
}

type userKey struct{}

// userOf is who sends the request; nil on the read-only port.
func userOf(ctx context.Context) *authn.User {
	user, _ := ctx.Value(userKey{}).(*authn.User)
	return user
}

// authenticated goes before everything: whoever is not known sees nothing,
// not even which paths there are.
func (s *Server) authenticated(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The deadline for all but long requests; those take it off.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
		user, err := s.cfg.Authenticator.Authenticate(r)
		if user == nil {
			// Whoever is unknown does not get to hold the connection.
			w.Header().Set("Connection", "close")
			if errors.Is(err, authn.ErrTooMany) {
				w.Header().Set("Retry-After", "10")
				http.Error(w, "Too Many Requests", http.StatusTooManyRequests)
				return
			}
			if err != nil {
				klog.FromContext(r.Context()).V(2).Info("Request refused, its credentials do not count", "remote", r.RemoteAddr, "err", err)
			}
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		promote(r.Context())
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, user)))
	})
}

// guard lets those through to a route who may use it.
func (s *Server) guard(route route) http.Handler {
	serve := http.Handler(route.serve)
	if route.long {
		serve = unhurried(serve)
	} else {
		serve = s.short(serve)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.allowed(w, r, route) && route.method(w, r) {
			serve.ServeHTTP(w, r)
		}
	})
}

// allowed asks whether the user may use the route, and answers the request if
// not.
func (s *Server) allowed(w http.ResponseWriter, r *http.Request, route route) bool {
	user, verb := userOf(r.Context()), authz.Verb(r.Method)
	granted, ok := s.anyOf(w, r, user, verb, route.access)
	if !ok || !granted {
		return false
	}
	if route.executes && verb == "get" && s.cfg.ExecNeedsCreate {
		granted, _ = s.anyOf(w, r, user, "create", route.access)
	}
	return granted
}

func (s *Server) anyOf(w http.ResponseWriter, r *http.Request, user *authn.User, verb string, access []string) (granted, ok bool) {
	for _, subresource := range access {
		granted, err := s.cfg.Authorizer.Allowed(r.Context(), authz.Request{User: user, Verb: verb, Subresource: subresource})
		if err != nil {
			if r.Context().Err() == nil {
				klog.FromContext(r.Context()).Error(err, "Access cannot be decided", "user", user.Name, "verb", verb, "subresource", subresource)
			}
			http.Error(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)", user.Name, verb, subresource), http.StatusInternalServerError)
			return false, false
		}
		if granted {
			return true, true
		}
	}
	klog.FromContext(r.Context()).V(2).Info("Forbidden", "user", user.Name, "verb", verb, "resource", "nodes", "subresources", access)
	http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Name, verb, access), http.StatusForbidden)
	return false, true
}

// unhurried takes the deadlines off a request that may last.
func unhurried(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Time{})
		_ = control.SetWriteDeadline(time.Time{})
		next.ServeHTTP(w, r)
	})
}
