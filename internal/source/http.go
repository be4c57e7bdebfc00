package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// HTTPConfig is what an HTTP needs.
type HTTPConfig struct {
	// URL of a Pod or PodList in JSON or YAML.
	URL string
	// Header is sent with each request (staticPodURLHeader).
	Header http.Header
	// Node is the node's name.
	Node string
	// Every is how often the URL is read (httpCheckFrequency; 20 s if 0).
	Every    time.Duration
	Features Features
	Sink     Sink
	// Problem may be nil.
	Problem Problem
	// Running is as in FileConfig.
	Running func(ctx context.Context) ([]Running, error)
	// Client may be nil; the own one gives each request 10 s.
	Client *http.Client
}

// HTTP is the source of static pods at a URL.
//
// As long as the URL cannot be read, what it said last stays; before it was
// read once, nothing is known. An empty answer means no pods, as upstream. A
// pod of a list that is broken is reported and goes on as its last good
// version said; the others are not touched.
type HTTP struct {
	cfg     HTTPConfig
	adopter adopter
	etag    string
	sum     [sha256.Size]byte
	emitted bool
	good    map[string]goodPod // by the name in the manifest
	flaws   error              // of what was read last
	told    string             // what was told last
	silent  bool               // the URL could not be read last time
	shown   string             // the URL without its password
}

type goodPod struct {
	pod *v1.Pod
	own types.UID // that its contents give it
}

const (
	httpTimeout    = 10 * time.Second
	httpFirstRetry = time.Second
)

// NewHTTP checks the configuration; Run does the work.
func NewHTTP(cfg HTTPConfig) (*HTTP, error) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("parse static pod URL: %w", err)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("static pod URL %q is not http:// or https://", u.Redacted())
	case cfg.Node == "":
		return nil, errors.New("static pods need a node name")
	case cfg.Sink == nil:
		return nil, errors.New("static pods need a sink")
	}
	if cfg.Every <= 0 {
		cfg.Every = 20 * time.Second
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: httpTimeout}
	}
	return &HTTP{cfg: cfg, shown: u.Redacted(), adopter: adopter{running: cfg.Running}, good: map[string]goodPod{}}, nil
}

// Run reads the URL until ctx ends. Until it could be read once, which the
// whole node waits for, it is tried more often.
func (h *HTTP) Run(ctx context.Context) error {
	retry := httpFirstRetry
	for {
		data, err := h.fetch(ctx)
		if err == nil && data != nil {
			h.flaws = h.take(ctx, data)
		}
		if ctx.Err() != nil {
			return nil
		}
		h.tell(ctx, err)
		wait := h.cfg.Every
		if !h.emitted {
			wait = min(retry, h.cfg.Every)
			retry *= 2
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// take hands over what was read, if it is new, and says what is wrong with it.
func (h *HTTP) take(ctx context.Context, data []byte) error {
	sum := sha256.Sum256(data)
	if sum == h.sum {
		return h.flaws
	}
	if len(bytes.TrimSpace(data)) == 0 {
		h.sum = sum
		h.handOver(nil, map[string]goodPod{})
		return errors.New("answered with nothing, which means no static pods")
	}
	manifests, err := decodeList(data, origin{name: h.cfg.URL, node: h.cfg.Node}, h.cfg.Features)
	if err != nil {
		h.sum = sum
		return err
	}
	if err := h.adopter.ask(ctx); err != nil {
		return err
	}
	h.sum = sum
	var wrong []error
	var pods []*v1.Pod
	good := map[string]goodPod{}
	names := map[podspec.Name]bool{}
	for i, m := range manifests {
		where := fmt.Sprintf("pod %d", i)
		if m.name != "" {
			where = fmt.Sprintf("pod %q", m.name)
		}
		for _, w := range m.warnings {
			klog.FromContext(ctx).Info("Static pod manifest has a flaw", "url", h.shown, "manifest", where, "warning", w)
		}
		key := m.namespace + "/" + m.name
		g, had := h.good[key]
		switch {
		case m.err != nil && !had:
			wrong = append(wrong, fmt.Errorf("%s: %w", where, m.err))
			continue
		case m.err != nil:
			wrong = append(wrong, fmt.Errorf("%s goes on as its last good version says: %w", where, m.err))
		case !had || g.own != m.pod.UID || !samePod(g.pod, m.pod):
			g = goodPod{pod: m.pod, own: m.pod.UID}
			h.adopter.settle(ctx, g.pod, time.Time{}, !h.emitted)
		}
		if names[podspec.FullName(g.pod)] {
			wrong = append(wrong, fmt.Errorf("%s stands there twice; the first counts", where))
			continue
		}
		names[podspec.FullName(g.pod)] = true
		good[key] = g
		pods = append(pods, g.pod)
	}
	h.handOver(pods, good)
	return errors.Join(wrong...)
}

// fetch returns the body, nil if the server says it did not change.
func (h *HTTP) fetch(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, httpTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.cfg.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header = h.cfg.Header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if h.etag != "" {
		req.Header.Set("If-None-Match", h.etag)
	}
	resp, err := h.cfg.Client.Do(req)
	if err != nil {
		var urlError *url.Error // repeats the URL
		if errors.As(err, &urlError) {
			err = urlError.Err
		}
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotModified && h.etag != "" {
		return nil, nil
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered %s", resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("answered with more than %d bytes", maxManifest)
	}
	h.etag = resp.Header.Get("ETag")
	if data == nil {
		data = []byte{}
	}
	return data, nil
}

func (h *HTTP) handOver(pods []*v1.Pod, good map[string]goodPod) {
	h.good, h.emitted = good, true
	h.adopter.done()
	h.cfg.Sink.Replace(podspec.SourceHTTP, slices.Clone(pods))
}

// tell reports the URL's state when it changed. A server that is away fails
// in changing words, so only its first failure in a row is told.
func (h *HTTP) tell(ctx context.Context, failure error) {
	err := h.flaws
	if failure != nil {
		if h.silent {
			return
		}
		err = failure
	}
	h.silent = failure != nil
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == h.told {
		return
	}
	h.told = text
	logger := klog.FromContext(ctx)
	if err != nil {
		logger.Error(err, "Cannot use static pods of URL", "url", h.shown)
	} else {
		logger.Info("Static pods of URL are well again", "url", h.shown)
	}
	if h.cfg.Problem != nil {
		h.cfg.Problem(h.shown, err)
	}
}
