package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// node is a runtime's image service and the place for events.
type node struct {
	mu       sync.Mutex
	have     map[string]*runtimeapi.Image
	pulls    []string // image and user of each pull, in order
	running  int
	most     int // pulls at one time
	statuses int
	events   []string

	pullTime time.Duration
	pullErr  func(image, user string) error
	statErr  error
}

func (n *node) ImageStatus(_ context.Context, image *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.statuses++
	return &runtimeapi.ImageStatusResponse{Image: n.have[image.Image]}, n.statErr
}

func (n *node) PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	n.mu.Lock()
	n.pulls = append(n.pulls, strings.TrimSpace(image.Image+" "+auth.GetUsername()))
	n.running++
	n.most = max(n.most, n.running)
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.running--
		n.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return "", status.FromContextError(ctx.Err()).Err()
	case <-time.After(n.pullTime):
	}
	if n.pullErr != nil {
		if err := n.pullErr(image.Image, auth.GetUsername()); err != nil {
			return "", err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.have[image.Image] = &runtimeapi.Image{Id: "id-of-" + image.Image, Size: 12345}
	return "id-of-" + image.Image, nil
}

func (n *node) Event(pod *v1.Pod, container, eventType, reason, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, fmt.Sprintf("%s/%s %s %s: %s", pod.Name, container, eventType, reason, message))
}

// expect compares the events since the last call.
func (n *node) expect(t *testing.T, want ...string) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if diff := cmp.Diff(want, n.events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	n.events = nil
}

func newPuller(t *testing.T, change func(*Config)) (*Puller, *node) {
	n := &node{have: map[string]*runtimeapi.Image{}, pullTime: 1200 * time.Millisecond}
	config := Config{Service: n, Events: n, SerializePulls: true, Registerer: prometheus.NewRegistry()}
	if change != nil {
		change(&config)
	}
	p, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return p, n
}

func podOf(name, image string, policy v1.PullPolicy) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: image, ImagePullPolicy: policy}}},
	}
}

func ensure(ctx context.Context, p *Puller, pod *v1.Pod) (string, error) {
	return p.Ensure(ctx, pod, &pod.Spec.Containers[0])
}

// reason is "ok" or the error's reason.
func reason(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return "ok"
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("not an *Error: %v", err)
	}
	return e.Reason
}

func TestPolicies(t *testing.T) {
	for _, c := range []struct {
		name, image string
		policy      v1.PullPolicy
		present     bool
		want        string
		events      []string
	}{
		{"not present", "app:v1", v1.PullIfNotPresent, false, "ok", []string{
			`p/c Normal Pulling: Pulling image "app:v1"`,
			`p/c Normal Pulled: Successfully pulled image "app:v1" in 1.2s (1.2s including waiting). Image size: 12345 bytes.`}},
		{"present", "app:v1", v1.PullIfNotPresent, true, "ok", []string{
			`p/c Normal Pulled: Container image "app:v1" already present on machine and can be accessed by the pod`}},
		{"always", "app:v1", v1.PullAlways, true, "ok", []string{
			`p/c Normal Pulling: Pulling image "app:v1"`,
			`p/c Normal Pulled: Successfully pulled image "app:v1" in 1.2s (1.2s including waiting). Image size: 12345 bytes.`}},
		{"never, present", "app:v1", v1.PullNever, true, "ok", []string{
			`p/c Normal Pulled: Container image "app:v1" already present on machine and can be accessed by the pod`}},
		{"never, not present", "app:v1", v1.PullNever, false, "ErrImageNeverPull", []string{
			`p/c Warning ErrImageNeverPull: Container image "app:v1" is not present with pull policy of Never`,
			`p/c Warning Failed: Error: ErrImageNeverPull`}},
		{"no policy, a tag", "app:v1", "", true, "ok", []string{
			`p/c Normal Pulled: Container image "app:v1" already present on machine and can be accessed by the pod`}},
		{"no policy, latest", "app", "", true, "ok", []string{
			`p/c Normal Pulling: Pulling image "app:latest"`,
			`p/c Normal Pulled: Successfully pulled image "app:latest" in 1.2s (1.2s including waiting). Image size: 12345 bytes.`}},
		{"bad name", "App:v1", v1.PullAlways, true, "InvalidImageName", []string{
			`p/c Warning InspectFailed: Failed to apply default image tag "App:v1": repository "library/App" must be in lower case`,
			`p/c Warning Failed: Error: InvalidImageName`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, n := newPuller(t, nil)
				if c.present {
					for _, name := range []string{"app:v1", "app:latest"} {
						n.have[name] = &runtimeapi.Image{Id: "id-of-" + name}
					}
				}
				ref, err := ensure(t.Context(), p, podOf("p", c.image, c.policy))
				if got := reason(t, err); got != c.want {
					t.Errorf("got %s (%v), want %s", got, err, c.want)
				}
				if err == nil && !strings.HasPrefix(ref, "id-of-app:") {
					t.Errorf("reference %q", ref)
				}
				n.expect(t, c.events...)
			})
		})
	}
}

func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newPuller(t, nil)
		n.pullTime = 0
		n.pullErr = func(string, string) error {
			return fmt.Errorf("pull image: %w", status.Error(codes.NotFound, "manifest unknown"))
		}
		pod := podOf("p", "app:v1", v1.PullIfNotPresent)
		for _, delay := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			_, err := ensure(t.Context(), p, pod)
			var e *Error
			if !errors.As(err, &e) || e.Reason != ErrImagePull || e.Message != "manifest unknown" {
				t.Fatalf("failure: %v", err)
			}
			if got := time.Until(e.RetryAt); got != delay*time.Second {
				t.Errorf("retry in %v, want %v s", got, delay)
			}
			retryAt := e.RetryAt
			time.Sleep(delay*time.Second - time.Nanosecond)
			for range 2 {
				_, err := ensure(t.Context(), p, pod)
				if !errors.As(err, &e) || e.Reason != ImagePullBackOff || !e.RetryAt.Equal(retryAt) ||
					e.Message != `Back-off pulling image "app:v1": ErrImagePull: manifest unknown` {
					t.Fatalf("within back-off: %v until %v", err, e.RetryAt)
				}
			}
			n.expect(t, `p/c Normal Pulling: Pulling image "app:v1"`,
				`p/c Warning Failed: Failed to pull image "app:v1": manifest unknown`,
				`p/c Warning Failed: Error: ErrImagePull`,
				`p/c Normal BackOff: Back-off pulling image "app:v1"`,
				`p/c Warning Failed: Error: ImagePullBackOff`)
			time.Sleep(time.Nanosecond)
		}
		// Another pod and another image have a back-off of their own.
		if got := reason(t, second(ensure(t.Context(), p, podOf("q", "app:v1", v1.PullIfNotPresent)))); got != ErrImagePull {
			t.Errorf("another pod: %s", got)
		}
		if got := reason(t, second(ensure(t.Context(), p, podOf("p", "app:v2", v1.PullIfNotPresent)))); got != ErrImagePull {
			t.Errorf("another image: %s", got)
		}
		// After ten quiet minutes beyond its end it starts anew.
		time.Sleep(maxDelay + forgetAfter + time.Second)
		var e *Error
		if _, err := ensure(t.Context(), p, pod); !errors.As(err, &e) || time.Until(e.RetryAt) != 10*time.Second {
			t.Errorf("after a long time: %v", err)
		}
		p.Forget("p")
		p.Forget("q")
		if len(p.backoff.keys) != 0 {
			t.Errorf("%d back-offs of pods that are gone", len(p.backoff.keys))
		}
	})
}

func second(_ string, err error) error { return err }

func TestImageThatAppearsEndsTheBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newPuller(t, nil)
		n.pullErr = func(string, string) error { return errors.New("no") }
		pod := podOf("p", "app:v1", v1.PullIfNotPresent)
		if got := reason(t, second(ensure(t.Context(), p, pod))); got != ErrImagePull {
			t.Fatal(got)
		}
		n.have["app:v1"] = &runtimeapi.Image{Id: "loaded by hand"}
		if ref, err := ensure(t.Context(), p, pod); ref != "loaded by hand" {
			t.Errorf("%q, %v", ref, err)
		}
		// And one that is removed is noticed.
		delete(n.have, "app:v1")
		n.pullErr = nil
		if _, err := ensure(t.Context(), p, podOf("q", "app:v1", v1.PullIfNotPresent)); err != nil || len(n.pulls) != 2 {
			t.Errorf("%v after %v", err, n.pulls)
		}
	})
}

func TestPullsAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newPuller(t, nil)
		n.pullTime = 10 * time.Second
		var wg sync.WaitGroup
		start := func(ctx context.Context, name string, check func(error)) {
			wg.Go(func() { check(second(ensure(ctx, p, podOf(name, "app:v1", v1.PullIfNotPresent)))) })
		}
		first, cancel := context.WithCancel(t.Context())
		start(first, "first", func(err error) {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("first: %v", err)
			}
		})
		synctest.Wait()
		for i := range 5 {
			start(t.Context(), fmt.Sprint("p", i), func(err error) {
				if err != nil {
					t.Errorf("a waiter: %v", err)
				}
			})
		}
		time.Sleep(5 * time.Second)
		if list := p.InFlight(); len(list) != 1 || list[0].Waiters != 6 || list[0].Image != "app:v1" || time.Since(list[0].Since) != 5*time.Second {
			t.Errorf("in flight: %+v", list)
		}
		cancel() // the one who began it goes; the others get their image
		wg.Wait()
		if len(n.pulls) != 1 {
			t.Errorf("pulls: %v", n.pulls)
		}
		if len(p.InFlight()) != 0 {
			t.Errorf("still in flight: %+v", p.InFlight())
		}
	})
}

func TestPullEndsWhenNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newPuller(t, nil)
		n.pullTime = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := ensure(ctx, p, podOf("p", "big:v1", v1.PullIfNotPresent)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error: %v", err)
		}
		synctest.Wait()
		if n.running != 0 {
			t.Error("the pull goes on")
		}
		// It was no failure, so there is no back-off, and the slot is free.
		n.pullTime = time.Second
		if _, err := ensure(t.Context(), p, podOf("p", "big:v1", v1.PullIfNotPresent)); err != nil {
			t.Error(err)
		}
	})
}

func TestHowManyAtOnce(t *testing.T) {
	two := int32(2)
	for name, c := range map[string]struct {
		change func(*Config)
		most   int
		took   time.Duration
	}{
		"serial":   {nil, 1, 6 * time.Second},
		"two":      {func(c *Config) { c.SerializePulls, c.MaxParallel = false, &two }, 2, 3 * time.Second},
		"no bound": {func(c *Config) { c.SerializePulls = false }, 6, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, n := newPuller(t, c.change)
				n.pullTime = time.Second
				start := time.Now()
				var wg sync.WaitGroup
				for i := range 6 {
					wg.Go(func() {
						if _, err := ensure(t.Context(), p, podOf("p", fmt.Sprintf("app:%d", i), v1.PullIfNotPresent)); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if n.most != c.most || time.Since(start) != c.took {
					t.Errorf("%d at once in %v, want %d in %v", n.most, time.Since(start), c.most, c.took)
				}
			})
		})
	}
}

func TestQueueOrderAndAbandonedPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newPuller(t, nil)
		n.pullTime = time.Second
		critical := int32(2_000_000_000)
		var wg sync.WaitGroup
		gone, cancel := context.WithCancel(t.Context())
		for _, name := range []string{"a", "b", "gone", "c", "critical"} {
			pod, ctx := podOf(name, name+":v1", v1.PullIfNotPresent), t.Context()
			switch name {
			case "critical":
				pod.Spec.Priority = &critical
			case "gone":
				ctx = gone
			}
			wg.Go(func() { _, _ = ensure(ctx, p, pod) })
			synctest.Wait()
		}
		cancel()
		wg.Wait()
		if want := []string{"a:v1", "critical:v1", "b:v1", "c:v1"}; !slices.Equal(n.pulls, want) {
			t.Errorf("pulled %v, want %v", n.pulls, want)
		}
	})
}

func TestRateLimitWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newPuller(t, func(c *Config) { c.QPS, c.Burst, c.SerializePulls = 1, 2, false })
		n.pullTime = 0
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if _, err := ensure(t.Context(), p, podOf("p", fmt.Sprintf("app:%d", i), v1.PullIfNotPresent)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := time.Since(start).Round(time.Millisecond); got != 3*time.Second {
			t.Errorf("5 pulls at 1 per second, burst 2, took %v", got)
		}
	})
}

func TestCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := `{"auths":{"q.io":{"username":"old"},"q.io/team":{"username":"new"}}}`
		var secretsErr error
		p, n := newPuller(t, func(c *Config) {
			c.Secrets = func(context.Context, *v1.Pod) ([]v1.Secret, error) {
				return []v1.Secret{{Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(config)}}}, secretsErr
			}
		})
		n.pullTime = 0
		n.pullErr = func(_, user string) error {
			if user != "good" {
				return status.Error(codes.Unknown, "denied "+user)
			}
			return nil
		}
		pod := podOf("p", "q.io/team/app:v1", v1.PullIfNotPresent)
		pod.Spec.ImagePullSecrets = []v1.LocalObjectReference{{Name: "s"}}
		_, err := ensure(t.Context(), p, pod)
		var e *Error
		if !errors.As(err, &e) || e.Message != "denied new; denied old" {
			t.Fatalf("error: %v", err)
		}
		// A corrected secret is tried at once, in spite of the back-off.
		config = `{"auths":{"q.io/team":{"username":"good"}}}`
		if _, err := ensure(t.Context(), p, pod); err != nil {
			t.Fatal(err)
		}
		if want := []string{"q.io/team/app:v1 new", "q.io/team/app:v1 old", "q.io/team/app:v1 good"}; !slices.Equal(n.pulls, want) {
			t.Errorf("pulls %v, want %v", n.pulls, want)
		}
		n.events = nil
		// A secret that is missing is told, and the pull tried without it.
		config, secretsErr = `{}`, errors.New("secret s not found")
		n.pullErr = nil
		pod = podOf("q", "q.io/public:v1", v1.PullIfNotPresent)
		pod.Spec.ImagePullSecrets = []v1.LocalObjectReference{{Name: "s"}}
		if _, err := ensure(t.Context(), p, pod); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(n.events[0], "FailedToRetrieveImagePullSecret") || !strings.Contains(n.events[0], "secret s not found") {
			t.Errorf("events: %v", n.events)
		}
	})
}

// Somebody else's credentials never serve a pod, not even for a pull that is
// under way.
func TestPullsWithOtherCredentialsAreNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newPuller(t, func(c *Config) {
			c.SerializePulls = false
			c.Secrets = func(_ context.Context, pod *v1.Pod) ([]v1.Secret, error) {
				config := fmt.Sprintf(`{"auths":{"q.io":{"username":%q}}}`, pod.Name)
				return []v1.Secret{{Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(config)}}}, nil
			}
		})
		var wg sync.WaitGroup
		for _, name := range []string{"a", "b"} {
			wg.Go(func() {
				pod := podOf(name, "q.io/app:v1", v1.PullAlways)
				pod.Spec.ImagePullSecrets = []v1.LocalObjectReference{{Name: "s"}}
				_, _ = ensure(t.Context(), p, pod)
			})
		}
		wg.Wait()
		slices.Sort(n.pulls)
		if want := []string{"q.io/app:v1 a", "q.io/app:v1 b"}; !slices.Equal(n.pulls, want) {
			t.Errorf("pulls %v, want %v", n.pulls, want)
		}
	})
}

func TestReasonsOfTheRuntime(t *testing.T) {
	for message, want := range map[string]string{
		"RegistryUnavailable: 503":               "RegistryUnavailable: image pull failed for a:v1 because the registry is unavailable: 503",
		"SignatureValidationFailed: no such key": "SignatureValidationFailed: image pull failed for a:v1 because the signature validation failed: no such key",
		"anything else":                          "ErrImagePull: anything else",
	} {
		err := fmt.Errorf("pull image a:v1: %w", status.Error(codes.Unknown, message))
		if got := pullError("a:v1", errors.Join(err)).Error(); got != want {
			t.Errorf("%s: got %q, want %q", message, got, want)
		}
	}
}

func TestInspectFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newPuller(t, nil)
		n.statErr = errors.New("runtime is away")
		_, err := ensure(t.Context(), p, podOf("p", "app:v1", v1.PullIfNotPresent))
		if got := reason(t, err); got != ImageInspectError {
			t.Errorf("got %s", got)
		}
		n.expect(t, `p/c Warning InspectFailed: Failed to inspect image "app:v1": runtime is away`, `p/c Warning Failed: Error: ImageInspectError`)
	})
}

func TestPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, n := newPuller(t, nil)
		pod := podOf("p", "app:v1", v1.PullIfNotPresent)
		n.pullErr = func(string, string) error { return errors.New("no") }
		p.Prefetch(t.Context(), pod, &pod.Spec.Containers[0])
		n.expect(t, `p/c Normal Pulling: Pulling image "app:v1"`)
		// The failure counted for nothing: the turn itself pulls at once.
		n.pullErr = nil
		if _, err := ensure(t.Context(), p, pod); err != nil {
			t.Error(err)
		}
		always := podOf("q", "app:v1", v1.PullAlways)
		p.Prefetch(t.Context(), always, &always.Spec.Containers[0])
		if len(n.pulls) != 2 {
			t.Errorf("pulls %v: Always is for the container's turn", n.pulls)
		}
	})
}

func TestImageUser(t *testing.T) {
	p, n := newPuller(t, nil)
	n.have["uid"] = &runtimeapi.Image{Id: "x", Uid: &runtimeapi.Int64Value{Value: 1000}}
	n.have["name"] = &runtimeapi.Image{Id: "x", Username: "www"}
	n.have["none"] = &runtimeapi.Image{Id: "x"}
	for image, want := range map[string]string{"uid": "1000 ", "name": "nil www", "none": "0 ", "gone": "0 "} {
		uid, name, err := p.ImageUser(t.Context(), image)
		got := "nil " + name
		if uid != nil {
			got = fmt.Sprint(*uid, " ", name)
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", image, got, err, want)
		}
	}
}

func TestImageRef(t *testing.T) {
	p, n := newPuller(t, nil)
	n.have["app:latest"] = &runtimeapi.Image{Id: "sha256:app"}
	for image, want := range map[string]string{"app": "sha256:app", "app:latest": "sha256:app", "other": ""} {
		if got, err := p.ImageRef(t.Context(), &v1.Pod{}, image); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", image, got, err, want)
		}
	}
	if _, err := p.ImageRef(t.Context(), &v1.Pod{}, "Not An Image"); err == nil {
		t.Error("a bad name has a reference")
	}
}

func TestSizeClasses(t *testing.T) {
	for size, want := range map[uint64]string{0: "N/A", 1: "0-10MB", 10 << 20: "0-10MB", 10<<20 + 1: "10MB-100MB", 1 << 30: "500MB-1GB", 1 << 40: "GT100GB"} {
		if got := sizeClass(size); got != want {
			t.Errorf("%d bytes: %s, want %s", size, got, want)
		}
	}
}
