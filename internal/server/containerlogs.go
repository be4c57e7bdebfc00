package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ContainerLogs reads the logs of containers (package logs).
type ContainerLogs interface {
	// Read writes the log of a container of the pod. A stream whose writer is
	// nil is left out. With opts.Follow it goes on until the container has
	// ended. Before the first write an error says why there is no log, in words
	// for the person who asked.
	Read(ctx context.Context, pod *v1.Pod, container string, opts *v1.PodLogOptions, stdout, stderr io.Writer) error
}

// containerLogRoutes are /containerLogs.
func (s *Server) containerLogRoutes() []route {
	if s.cfg.Logs == nil {
		return nil
	}
	return []route{{pattern: "/containerLogs/{namespace}/{pod}/{container}", bucket: "containerLogs", access: proxyAccess,
		methods: onlyGET, long: true, serve: s.serveContainerLogs}}
}

func (s *Server) serveContainerLogs(w http.ResponseWriter, r *http.Request) {
	opts, err := parseLogOptions(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Sprintf(`{"message": %q}`, "Unable to decode query: "+err.Error()+"."))
		return
	}
	if err := checkLogOptions(opts); err != nil {
		fail(w, http.StatusUnprocessableEntity, fmt.Sprintf(`{"message": %q}`, "Invalid request: "+err.Error()+"."))
		return
	}
	name, container := r.PathValue("pod"), r.PathValue("container")
	pod, ok := s.findPod(r.PathValue("namespace"), name, "")
	if !ok {
		fail(w, http.StatusNotFound, fmt.Sprintf("pod %q does not exist", name))
		return
	}
	if _, ok := containerSpec(pod, container); !ok {
		fail(w, http.StatusNotFound, fmt.Sprintf("container %q not found in pod %q", container, name))
		return
	}
	out := &logWriter{w: w, flush: http.NewResponseController(w).Flush}
	var stdout, stderr io.Writer = out, out
	if opts.Stream != nil && *opts.Stream != v1.LogStreamAll {
		if !s.cfg.SplitLogStreams {
			fail(w, http.StatusBadRequest, fmt.Sprintf("unable to return the given log stream: %q. Please enable PodLogsQuerySplitStreams feature gate in kubelet", *opts.Stream))
			return
		}
		if *opts.Stream == v1.LogStreamStdout {
			stderr = nil
		} else {
			stdout = nil
		}
	}
	if err := s.cfg.Logs.Read(r.Context(), pod, container, opts, stdout, stderr); err != nil && r.Context().Err() == nil {
		if !out.written {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
		// The client must not take half a log for a whole one.
		panic(http.ErrAbortHandler)
	}
	if !out.written {
		w.Header().Set("Content-Type", "text/plain")
	}
}

// logWriter shows what is written at once.
type logWriter struct {
	w       http.ResponseWriter
	flush   func() error
	written bool
}

func (l *logWriter) Write(p []byte) (int, error) {
	if !l.written {
		l.written = true
		l.w.Header().Set("Content-Type", "text/plain")
	}
	n, err := l.w.Write(p)
	if err == nil {
		err = l.flush()
	}
	return n, err
}

// parseLogOptions reads the query of a request for logs as a v1.PodLogOptions;
// "tail" is an old name of tailLines, "all" no limit.
func parseLogOptions(query url.Values) (*v1.PodLogOptions, error) {
	o := &v1.PodLogOptions{Container: query.Get("container")}
	if tail := query.Get("tail"); tail == "all" {
		query.Del("tailLines")
	} else if tail != "" {
		query.Set("tailLines", tail)
	}
	var errs []error
	flag := func(name string, into *bool) {
		if query.Has(name) {
			// As API servers read it: anything but false and 0 is true.
			text := query.Get(name)
			*into = !strings.EqualFold(text, "false") && text != "0"
		}
	}
	number := func(name string, into **int64) {
		text := query.Get(name)
		if text == "" {
			return
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s is %q, not a number", name, text))
			return
		}
		*into = &n
	}
	flag("follow", &o.Follow)
	flag("previous", &o.Previous)
	flag("timestamps", &o.Timestamps)
	flag("insecureSkipTLSVerifyBackend", &o.InsecureSkipTLSVerifyBackend)
	number("sinceSeconds", &o.SinceSeconds)
	number("tailLines", &o.TailLines)
	number("limitBytes", &o.LimitBytes)
	if text := query.Get("sinceTime"); text != "" && text != "null" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			errs = append(errs, fmt.Errorf("sinceTime is %q, not a time as 2006-01-02T15:04:05Z", text))
		}
		o.SinceTime = &metav1.Time{Time: at.Local()}
	}
	if text := query.Get("stream"); text != "" {
		o.Stream = &text
	}
	return o, errors.Join(errs...)
}

// checkLogOptions is the API's validation of v1.PodLogOptions.
func checkLogOptions(o *v1.PodLogOptions) error {
	switch {
	case o.TailLines != nil && *o.TailLines < 0:
		return errors.New("tailLines must not be negative")
	case o.LimitBytes != nil && *o.LimitBytes < 1:
		return errors.New("limitBytes must be more than 0")
	case o.SinceSeconds != nil && o.SinceTime != nil:
		return errors.New("sinceTime and sinceSeconds exclude each other")
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		return errors.New("sinceSeconds must be more than 0")
	case o.Stream != nil && *o.Stream != v1.LogStreamAll && *o.Stream != v1.LogStreamStdout && *o.Stream != v1.LogStreamStderr:
		return fmt.Errorf("stream is %q, must be All, Stdout or Stderr", *o.Stream)
	case o.Stream != nil && *o.Stream != v1.LogStreamAll && o.TailLines != nil:
		return errors.New("tailLines and one stream exclude each other")
	}
	return nil
}
