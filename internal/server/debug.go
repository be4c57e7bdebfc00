package server

import (
	"io"
	"net/http"
	"net/http/pprof"
)

// profilingRoutes are /debug/pprof/.
func (s *Server) profilingRoutes() []route {
	if !s.cfg.Profiling {
		return disabled("profiling endpoint is disabled.", "debug", proxyAccess, "/debug/pprof/")
	}
	serve := func(w http.ResponseWriter, r *http.Request) {
		switch r.PathValue("profile") {
		case "profile":
			pprof.Profile(w, r)
		case "symbol":
			pprof.Symbol(w, r)
		case "cmdline":
			pprof.Cmdline(w, r)
		case "trace":
			pprof.Trace(w, r)
		default:
			pprof.Index(w, r)
		}
	}
	return []route{{pattern: "/debug/pprof/{profile...}", bucket: "debug", access: proxyAccess, methods: onlyGET, long: true, serve: serve}}
}

// debugFlagRoutes are /debug/flags/v: the verbosity of the log, to be put.
func (s *Server) debugFlagRoutes() []route {
	const path = "/debug/flags/v"
	if s.cfg.SetVerbosity == nil {
		return disabled("flags endpoint is disabled.", "debug", proxyAccess, path)
	}
	return []route{{pattern: path, bucket: "debug", access: proxyAccess, methods: onlyPUT, serve: s.serveVerbosity}}
}

func (s *Server) serveVerbosity(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		fail(w, http.StatusBadRequest, "error reading request body: "+err.Error())
		return
	}
	said, err := s.cfg.SetVerbosity(string(body))
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	writeText(w, said)
}
