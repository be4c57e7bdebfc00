package server

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// logFlushTimeout is how long writing out the log may take before logging
// counts as stuck.
const logFlushTimeout = 2 * time.Second

// HealthzConfig configures the health port.
type HealthzConfig struct {
	// Address and Port to listen on (healthzBindAddress, healthzPort).
	Address string
	Port    int
	// Checks by name, beside "ping" and "log", which are always there. A check
	// must answer quickly from what it knows; its error is logged and not
	// shown.
	Checks map[string]func() error
}

// NewHealthz makes the health port: /healthz and /healthz/NAME for each
// check. Run serves it.
func NewHealthz(cfg HealthzConfig) (*Port, error) {
	return newPort("health checks", cfg.Address, cfg.Port, newTable(healthRoutes(cfg.Checks), open).mux)
}

// healthRoutes are /healthz in the format of all Kubernetes components: "ok",
// or with ?verbose or on failure one line per check; ?exclude=NAME leaves one
// out. https://kubernetes.io/docs/reference/using-api/health-checks/
func healthRoutes(checks map[string]func() error) []route {
	all := map[string]func() error{
		"ping": func() error { return nil },
		"log":  newLogCheck(klog.Flush).check,
	}
	maps.Copy(all, checks)
	names := slices.Sorted(maps.Keys(all))
	health := route{bucket: "healthz", access: healthzAccess, methods: []string{http.MethodGet, http.MethodHead}}
	health.serve = func(w http.ResponseWriter, r *http.Request) { serveHealth(w, r, names, all) }
	routes := at(both("/healthz"), health)
	for _, name := range names {
		check := all[name]
		health.pattern = "/healthz/" + name
		health.serve = func(w http.ResponseWriter, r *http.Request) {
			if err := check(); err != nil {
				logFailure(r.Context(), name, err)
				http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
				return
			}
			writeText(w, "ok")
		}
		routes = append(routes, health)
	}
	return routes
}

// serveHealth asks all checks.
func serveHealth(w http.ResponseWriter, r *http.Request, names []string, checks map[string]func() error) {
	query := r.URL.Query()
	excluded := query["exclude"]
	var lines strings.Builder
	failed := false
	for _, name := range names {
		if slices.Contains(excluded, name) {
			fmt.Fprintf(&lines, "[+]%s excluded: ok\n", name)
			continue
		}
		if err := checks[name](); err != nil {
			failed = true
			fmt.Fprintf(&lines, "[-]%s failed: reason withheld\n", name)
			logFailure(r.Context(), name, err)
			continue
		}
		fmt.Fprintf(&lines, "[+]%s ok\n", name)
	}
	for _, name := range excluded {
		if checks[name] == nil {
			fmt.Fprintf(&lines, "warn: some health checks cannot be excluded: no matches for %q\n", name)
		}
	}
	switch {
	case failed:
		http.Error(w, lines.String()+"healthz check failed", http.StatusInternalServerError)
	case query.Has("verbose"):
		writeText(w, lines.String()+"healthz check passed\n")
	default:
		writeText(w, "ok")
	}
}

func logFailure(ctx context.Context, check string, err error) {
	klog.FromContext(ctx).Error(err, "Health check failed", "check", check)
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write([]byte(text))
}

// logCheck finds out whether the log can be written out: its sink may be a
// pipe that nobody reads.
type logCheck struct {
	flush func()
	busy  chan struct{} // holds the one flush that may be under way
}

func newLogCheck(flush func()) *logCheck {
	return &logCheck{flush: flush, busy: make(chan struct{}, 1)}
}

func (c *logCheck) check() error {
	timer := time.NewTimer(logFlushTimeout)
	defer timer.Stop()
	select {
	case c.busy <- struct{}{}:
	case <-timer.C:
		return fmt.Errorf("write out the log: still not done after %v", logFlushTimeout)
	}
	done := make(chan struct{})
	go func() {
		c.flush()
		<-c.busy
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return fmt.Errorf("write out the log: not done after %v", logFlushTimeout)
	}
}
