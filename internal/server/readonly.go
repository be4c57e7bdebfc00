package server

import (
	"net/http"
	"slices"
)

// ReadOnlyConfig configures the read-only port, which asks nobody who they
// are.
type ReadOnlyConfig struct {
	// Address and Port to listen on (address, readOnlyPort).
	Address string
	Port    int
	Shown
}

// NewReadOnly makes the read-only port. Run serves it.
func NewReadOnly(cfg ReadOnlyConfig) (*Port, error) {
	t := newTable(slices.Concat(cfg.Shown.routes(), debuggingDisabled()), open)
	return newPort("read-only requests", cfg.Address, cfg.Port, cfg.Measured.measured("readonly", t, t.mux))
}

// open lets everybody through.
func open(r route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.method(w, req) {
			r.serve(w, req)
		}
	})
}
