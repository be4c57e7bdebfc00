// Package hook runs the postStart and preStop hooks of containers. It owns no
// state and decides nothing: when a hook runs, how long it may take and what
// its failure means is the plan's part (package lifecycle). It acts through
// the runtime's exec and the network.
package hook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/probe"
)

// Exec runs a command in a container (package cri).
type Exec interface {
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exitCode int32, err error)
}

// Events records Kubernetes events (package status).
type Events interface {
	Event(pod *v1.Pod, container, eventType, reason, message string)
}

// Config of a Runner.
type Config struct {
	Exec   Exec
	Events Events
	// Version is what HTTP hooks call themselves, kube-lifecycle/VERSION.
	Version string
	// Registerer of the metrics; nil registers none.
	Registerer prometheus.Registerer
}

// Runner runs hooks. Any number may run at once.
type Runner struct {
	cfg       Config
	client    *http.Client
	fallbacks prometheus.Counter
	cutShort  prometheus.Counter
}

// New returns a runner.
func New(cfg Config) (*Runner, error) {
	r := &Runner{
		cfg: cfg,
		client: &http.Client{
			CheckRedirect: probe.StayOnHost,
			Transport: &http.Transport{
				// A hook's server is the pod's own; nobody vouches for it,
				// and no credential is sent to it. The node's proxy is not
				// asked.
				TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
				DisableKeepAlives: true,
				DialContext:       (&net.Dialer{KeepAlive: -1}).DialContext,
			},
		},
		fallbacks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_lifecycle_handler_http_fallbacks_total",
			Help: "HTTPS hooks that were answered in HTTP and succeeded when asked again in HTTP.",
		}),
		cutShort: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_sleep_action_terminated_early_total",
			Help: "Sleep hooks that ended before their time because the container had no more of it.",
		}),
	}
	if cfg.Registerer == nil {
		return r, nil
	}
	for _, c := range []prometheus.Collector{r.fallbacks, r.cutShort} {
		if err := cfg.Registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of hooks: %w", err)
		}
	}
	return r, nil
}

// Run runs the hook h of container c and returns when it has ended, or ctx
// has: a command is killed then. The error is for the user; it names the hook,
// the container and the pod.
func (r *Runner) Run(ctx context.Context, pod *v1.Pod, c *v1.Container, containerID, podIP string, h *v1.LifecycleHandler) error {
	of := fmt.Sprintf("for Container %q in Pod %q", c.Name, pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")")
	switch {
	case h.Exec != nil:
		output, err := r.exec(ctx, containerID, h.Exec.Command)
		if err != nil {
			return fmt.Errorf("exec lifecycle hook (%v) %s failed - error: %w, message: %q", h.Exec.Command, of, err, output)
		}
	case h.HTTPGet != nil:
		if err := r.get(ctx, pod, c, podIP, h.HTTPGet); err != nil {
			return fmt.Errorf("http lifecycle hook (%s) %s failed - error: %w", h.HTTPGet.Path, of, err)
		}
	case h.Sleep != nil:
		if err := r.sleep(ctx, time.Duration(h.Sleep.Seconds)*time.Second); err != nil {
			return fmt.Errorf("sleep lifecycle hook (%d) %s failed - error: %w", h.Sleep.Seconds, of, err)
		}
	case h.TCPSocket != nil:
		// The API keeps the field and says that such hooks fail.
		return fmt.Errorf("tcp lifecycle hook %s failed - error: tcpSocket is not supported as a hook; use exec, httpGet or sleep", of)
	default:
		return fmt.Errorf("lifecycle hook %s failed - error: it has no handler; set exec, httpGet or sleep", of)
	}
	return nil
}

// maxOutput bounds what is shown of a command's output and read of an answer,
// in bytes.
const maxOutput = 10 << 10

func (r *Runner) exec(ctx context.Context, id string, command []string) (output string, err error) {
	// The runtime ends the command in time by itself, also if this process
	// should not be there any more.
	var limit time.Duration
	if end, ok := ctx.Deadline(); ok {
		limit = max(time.Until(end), time.Second)
	}
	stdout, stderr, code, err := r.cfg.Exec.ExecSync(ctx, id, command, limit)
	b := append(stdout, stderr...)
	output = string(b[:min(len(b), maxOutput)])
	if err == nil && code != 0 {
		err = fmt.Errorf("command exited with %d", code)
	}
	return output, err
}

// get succeeds with any answer: a hook tells the container something and asks
// it nothing.
func (r *Runner) get(ctx context.Context, pod *v1.Pod, c *v1.Container, podIP string, h *v1.HTTPGetAction) error {
	if h.Host == "" && podIP == "" {
		return errors.New("the pod has no IP yet")
	}
	req, err := probe.NewRequest(h, c, podIP, "kube-lifecycle/"+r.cfg.Version)
	if err != nil {
		return err
	}
	req = req.WithContext(ctx)
	err = r.do(req)
	if !errors.Is(err, http.ErrSchemeMismatch) {
		return err
	}
	// Early kubelets asked in HTTP whatever the hook said, so some servers
	// never learned HTTPS.
	again := req.Clone(ctx)
	again.URL.Scheme = "http"
	again.Header.Del("Authorization") // was meant for an encrypted connection
	if httpErr := r.do(again); httpErr != nil {
		return err
	}
	r.fallbacks.Inc()
	r.cfg.Events.Event(pod, c.Name, v1.EventTypeWarning, "LifecycleHTTPFallback",
		fmt.Sprintf("request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", req.URL.Host))
	return nil
}

func (r *Runner) do(req *http.Request) error {
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxOutput))
	resp.Body.Close()
	return nil
}

var errCutShort = errors.New("container terminated before sleep hook finished")

func (r *Runner) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 { // nothing to wait for, however late it is
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		r.cutShort.Inc()
		return errCutShort
	}
}
