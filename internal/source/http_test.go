package source

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kubelet/internal/podspec"
)

// server answers in memory, so that time is the test's.
type server struct {
	mu sync.Mutex
	answer
	requests []*http.Request
}

type answer struct {
	status int
	body   string
	etag   string
	err    error
	hang   bool
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
	if s.hang {
		s.mu.Unlock()
		<-r.Context().Done()
		s.mu.Lock()
		return nil, r.Context().Err()
	}
	if s.err != nil {
		return nil, s.err
	}
	resp := &http.Response{StatusCode: s.status, Status: http.StatusText(s.status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(s.body))}
	if s.etag != "" {
		resp.Header.Set("ETag", s.etag)
		if r.Header.Get("If-None-Match") == s.etag {
			resp.StatusCode, resp.Body = http.StatusNotModified, http.NoBody
		}
	}
	return resp, nil
}

func (s *server) set(f func(*answer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.answer)
}

func (s *server) request(i int) *http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[i]
}

func serve(t *testing.T, s *server, change ...func(*HTTPConfig)) *sink {
	t.Helper()
	out := newSink()
	out.changed = make(chan struct{}, 1) // of this bubble
	cfg := HTTPConfig{
		URL: "http://user:secret@example.com/pods", Header: http.Header{"X-Token": {"t"}}, Node: "node", Every: 20 * time.Second,
		Features: DefaultFeatures(), Sink: out, Problem: out.problem, Client: &http.Client{Transport: s},
	}
	for _, f := range change {
		f(&cfg)
	}
	h, err := NewHTTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := h.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return out
}

func tick() {
	time.Sleep(20 * time.Second)
	synctest.Wait()
}

func expectPods(t *testing.T, s *sink, want string) {
	t.Helper()
	if got := s.has(); got != want {
		t.Errorf("pods %q, want %q", got, want)
	}
}

func TestURLIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &server{answer: answer{status: 200, body: manifestOf("a", "img:1"), etag: `"1"`}}
		s := serve(t, srv)
		expectPods(t, s, "a-node img:1")
		if r := srv.request(0); r.Header.Get("X-Token") != "t" {
			t.Errorf("headers %v", r.Header)
		}
		tick()
		if r := srv.request(1); r.Header.Get("If-None-Match") != `"1"` || s.count() != 1 {
			t.Errorf("headers %v, handed over %d times", r.Header, s.count())
		}
		srv.set(func(s *answer) { s.etag = "" }) // one that only sends the same again
		tick()
		tick()
		if s.count() != 1 {
			t.Errorf("handed over %d times", s.count())
		}
		srv.set(func(s *answer) {
			s.body = "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n  spec: {containers: [{name: c, image: img:2}]}\n- metadata: {name: b}\n  spec: {containers: [{name: c, image: img:1}]}\n"
		})
		tick()
		expectPods(t, s, "a-node img:2, b-node img:1")
		srv.set(func(s *answer) { s.body = " " })
		tick()
		expectPods(t, s, "")
		if !strings.Contains(s.troubles(), "answered with nothing") {
			t.Errorf("told %q", s.troubles())
		}
	})
}

func TestURLThatFailsLeavesThePods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &server{answer: answer{status: 200, body: manifestOf("a", "img:1")}}
		s := serve(t, srv)
		for _, c := range []struct {
			change func(*answer)
			told   string
		}{
			{func(s *answer) { s.err = errors.New("connection refused") }, "http://user:xxxxx@example.com/pods: cannot be read: connection refused"},
			{func(s *answer) { s.status = 500 }, "answered Internal Server Error"},
			{func(s *answer) { s.body = "<html>" }, "read apiVersion and kind"},
			{func(s *answer) { s.body = strings.Repeat("x", maxManifest+1) }, "answered with more than"},
			{func(s *answer) { s.body = "apiVersion: v1\nkind: Secret\n" }, `kind "Secret" cannot be run`},
			{func(s *answer) { s.hang = true }, "deadline exceeded"},
		} {
			srv.set(func(s *answer) {
				*s = answer{status: 200, body: manifestOf("a", "img:1")}
				c.change(s)
			})
			tick()
			time.Sleep(httpTimeout)
			synctest.Wait()
			expectPods(t, s, "a-node img:1")
			if !strings.Contains(s.troubles(), c.told) {
				t.Errorf("told %q, want %q", s.troubles(), c.told)
			}
			srv.set(func(s *answer) { *s = answer{status: 200, body: manifestOf("a", "img:1")} })
			tick()
			if s.troubles() != "" {
				t.Errorf("still told %q", s.troubles())
			}
		}
	})
}

func TestBrokenPodOfAListGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := func(a, b string) string {
			return "apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n  spec: {containers: [{name: c, image: " + a + "}]}\n- metadata: {name: b}\n  spec: {containers: [{name: c, image: " + b + "}]}\n"
		}
		srv := &server{answer: answer{status: 200, body: list("img:1", "img:1")}}
		s := serve(t, srv)
		srv.set(func(s *answer) { s.body = list("''", "img:2") })
		tick()
		expectPods(t, s, "a-node img:1, b-node img:2")
		if !strings.Contains(s.troubles(), `pod "a" goes on as its last good version says: line 5: spec.containers[0].image: Required value`) {
			t.Errorf("told %q", s.troubles())
		}
		tick() // unchanged: still wrong
		if s.troubles() == "" || s.count() != 2 {
			t.Errorf("told %q, handed over %d times", s.troubles(), s.count())
		}
		srv.set(func(s *answer) {
			s.body = list("img:3", "img:2") + "- metadata: {name: b}\n  spec: {containers: [{name: c, image: img:4}]}\n"
		})
		tick()
		expectPods(t, s, "a-node img:3, b-node img:2")
		if !strings.Contains(s.troubles(), `pod "b" stands there twice; the first counts`) {
			t.Errorf("told %q", s.troubles())
		}
	})
}

func TestURLIsNotKnownBeforeItWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := &server{answer: answer{err: errors.New("no route to host")}}
		s := serve(t, srv)
		time.Sleep(2 * time.Second)
		srv.set(func(s *answer) { *s = answer{status: 200, body: manifestOf("a", "img:1")} })
		if s.count() != 0 {
			t.Error("reported without knowing")
		}
		time.Sleep(2 * time.Second) // tried again before the 20 s are over
		synctest.Wait()
		expectPods(t, s, "a-node img:1")
	})
}

func TestPodOfURLKeepsItsUIDByItsMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pods, err := DecodeURL([]byte(manifestOf("a", "img:1")), "http://elsewhere/", "node", DefaultFeatures())
		if err != nil {
			t.Fatal(err)
		}
		mirror := pods[0].DeepCopy()
		mirror.Annotations[podspec.HashAnnotation] = "old"
		s := serve(t, &server{answer: answer{status: 200, body: manifestOf("a", "img:1")}}, func(c *HTTPConfig) {
			c.Running = func(context.Context) ([]Running, error) {
				return []Running{{UID: "old", Name: "a-node", Namespace: "default", Mirror: mirror,
					Containers: map[string]string{"c": podspec.ContainerHash(&pods[0].Spec.Containers[0])}}}, nil
			}
		})
		if s.get("old") == nil {
			t.Errorf("not adopted: %s", s.has())
		}
	})
}
