package critest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
	"kubelet/internal/cri/critest"
)

// start runs a pod with one container and returns the ids.
func start(t *testing.T, c *cri.Client, pod, name, image string, attempt uint32) (sandboxID, id string) {
	t.Helper()
	ctx := context.Background()
	sandbox := critest.SandboxConfig("default", pod, "uid-"+pod, 0)
	if _, err := c.PullImage(ctx, &runtimeapi.ImageSpec{Image: image}, nil, sandbox); err != nil {
		t.Fatal(err)
	}
	sandboxID, err := c.RunPodSandbox(ctx, sandbox, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err = c.CreateContainer(ctx, sandboxID, critest.ContainerConfig(sandbox, name, image, attempt), sandbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	return sandboxID, id
}

func status(t *testing.T, c *cri.Client, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	resp, err := c.ContainerStatus(context.Background(), id, false)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status
}

// TestScripts runs containers of each kind and stops them.
func TestScripts(t *testing.T) {
	cases := []struct {
		name     string
		behavior critest.Behavior
		wait     time.Duration // before the stop
		grace    time.Duration // -1: no stop
		took     time.Duration // of the stop
		code     int32
		reason   string
	}{
		{"exits by itself", critest.ExitAfter(3*time.Second, 4), 4 * time.Second, -1, 0, 4, "Error"},
		{"completes", critest.ExitAfter(0, 0), time.Second, -1, 0, 0, "Completed"},
		{"ends on TERM", critest.Forever(), time.Second, 30 * time.Second, 0, 0, "Completed"},
		{"ends a while after TERM", critest.Behavior{TermAfter: 2 * time.Second, TermCode: 143}, time.Second, 30 * time.Second, 2 * time.Second, 143, "Error"},
		{"ignores TERM", critest.Stubborn(), time.Second, 5 * time.Second, 5 * time.Second, 137, "Error"},
		{"killed at once", critest.Stubborn(), time.Second, 0, 0, 137, "Error"},
		{"half a second of grace is a whole one", critest.Stubborn(), time.Second, time.Second / 2, time.Second, 137, "Error"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := critest.New(critest.Config{})
				defer r.Close()
				r.Script("app", tc.behavior)
				c := r.Client(cri.Config{})
				_, id := start(t, c, "web", "app", "img", 0)
				if s := status(t, c, id); tc.behavior.After > 0 && s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
					t.Fatalf("state after the start: %v", s.State)
				}
				time.Sleep(tc.wait)
				if tc.grace >= 0 {
					begin := time.Now()
					if err := c.StopContainer(t.Context(), id, tc.grace); err != nil {
						t.Fatal(err)
					}
					if took := time.Since(begin); took != tc.took {
						t.Errorf("the stop took %v, want %v", took, tc.took)
					}
				}
				s := status(t, c, id)
				if s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != tc.code || s.Reason != tc.reason {
					t.Errorf("got %v, code %d, %s; want exited, code %d, %s", s.State, s.ExitCode, s.Reason, tc.code, tc.reason)
				}
			})
		})
	}
}

// TestCreateCompletesLate is the failure behind "ContainerCreating for ever":
// the create runs past its deadline and completes all the same.
func TestCreateCompletesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := critest.New(critest.Config{})
		defer r.Close()
		r.AddImage("img")
		c := r.Client(cri.Config{Timeout: 10 * time.Second})
		ctx := t.Context()
		sandbox := critest.SandboxConfig("default", "web", "u1", 0)
		sid, err := c.RunPodSandbox(ctx, sandbox, "")
		if err != nil {
			t.Fatal(err)
		}
		r.Inject(critest.Match{Method: "CreateContainer", Nth: 1}, critest.Fault{Hang: true, Effect: critest.EffectLate, Late: 25 * time.Second})
		begin := time.Now()
		_, err = c.CreateContainer(ctx, sid, critest.ContainerConfig(sandbox, "app", "img", 0), sandbox)
		if !cri.IsUnknown(err) || time.Since(begin) != 10*time.Second {
			t.Fatalf("after %v: %v; want an unknown outcome after 10s", time.Since(begin), err)
		}
		_, err = c.CreateContainer(ctx, sid, critest.ContainerConfig(sandbox, "app", "img", 0), sandbox)
		if !cri.IsNameReserved(err) || cri.IsUnknown(err) {
			t.Fatalf("second create: %v; want that the name is reserved", err)
		}
		time.Sleep(20 * time.Second)
		if got := r.Containers("web"); len(got) != 1 || got[0].Running {
			t.Fatalf("containers after the late effect: %+v", got)
		}
		if v := r.Violations(); len(v) > 0 {
			t.Error(v)
		}
	})
}

// TestFaults injects one fault each and says what the caller sees and what
// the runtime has afterwards.
func TestFaults(t *testing.T) {
	cases := []struct {
		name      string
		match     critest.Match
		fault     critest.Fault
		unknown   bool
		err       string
		sandboxes int
		took      time.Duration
	}{
		{"none", critest.Match{Method: "StopPodSandbox"}, critest.Fault{Hang: true}, false, "", 1, 0},
		{"fails", critest.Match{Method: "RunPodSandbox"}, critest.Fault{Code: codes.Unknown, Message: "cni broke"}, false, "cni broke", 0, 0},
		{"fails but has done it", critest.Match{Pod: "web"}, critest.Fault{Code: codes.Unavailable, Effect: critest.EffectFirst}, true, "Unavailable", 1, 0},
		{"hangs", critest.Match{Pod: "u1"}, critest.Fault{Hang: true}, true, "DeadlineExceeded", 0, 20 * time.Second},
		{"hangs but has done it", critest.Match{Pod: "web"}, critest.Fault{Hang: true, Effect: critest.EffectFirst}, true, "DeadlineExceeded", 1, 20 * time.Second},
		{"slow", critest.Match{Pod: "web"}, critest.Fault{Delay: 3 * time.Second}, false, "", 1, 3 * time.Second},
		{"slower than the deadline", critest.Match{Pod: "web"}, critest.Fault{Delay: time.Minute}, true, "DeadlineExceeded", 0, 20 * time.Second},
		{"another pod's fault", critest.Match{Pod: "other"}, critest.Fault{Hang: true}, false, "", 1, 0},
		{"second call only", critest.Match{Pod: "web", Nth: 2}, critest.Fault{Hang: true}, false, "", 1, 0},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := critest.New(critest.Config{})
				defer r.Close()
				r.Inject(tc.match, tc.fault)
				c := r.Client(cri.Config{Timeout: 10 * time.Second})
				begin := time.Now()
				_, err := c.RunPodSandbox(t.Context(), critest.SandboxConfig("default", "web", "u1", 0), "")
				if took := time.Since(begin); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
				if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				if cri.IsUnknown(err) != tc.unknown {
					t.Errorf("outcome unknown: %v, want %v", cri.IsUnknown(err), tc.unknown)
				}
				if n := len(r.Sandboxes("web")); n != tc.sandboxes {
					t.Errorf("%d sandboxes, want %d", n, tc.sandboxes)
				}
			})
		})
	}
}

func TestReleaseLetsHungCallsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := critest.New(critest.Config{})
		defer r.Close()
		c := r.Client(cri.Config{})
		_, id := start(t, c, "web", "app", "img", 0)
		hang := r.Inject(critest.Match{Method: "ContainerStatus"}, critest.Fault{Hang: true})
		errs := make(chan error)
		go func() { _, err := c.ContainerStatus(context.Background(), id, false); errs <- err }()
		synctest.Wait()
		if hang.Waiting() != 1 {
			t.Fatalf("%d calls hang, want 1", hang.Waiting())
		}
		if f := c.InFlight(); len(f) != 1 || f[0].Operation != "container_status" || f[0].Object != id {
			t.Errorf("in flight: %+v", f)
		}
		hang.Release()
		if err := <-errs; err != nil {
			t.Errorf("a released call failed: %v", err)
		}
		if f := c.InFlight(); len(f) != 0 {
			t.Errorf("in flight after the answer: %+v", f)
		}
	})
}

func TestViolations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := critest.New(critest.Config{})
		defer r.Close()
		c := r.Client(cri.Config{})
		ctx := t.Context()
		sid, id := start(t, c, "web", "app", "img", 0)
		if err := c.StartContainer(ctx, id); err == nil {
			t.Error("a second start succeeded")
		}
		sandbox := critest.SandboxConfig("default", "web", "uid-web", 0)
		if err := c.RemoveContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
		again, err := c.CreateContainer(ctx, sid, critest.ContainerConfig(sandbox, "app", "img", 0), sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.StopPodSandbox(ctx, sid); err != nil {
			t.Fatal(err)
		}
		if err := c.StartContainer(ctx, again); err == nil {
			t.Error("a start in a stopped sandbox succeeded")
		}
		got := strings.Join(r.Violations(), "\n")
		for _, want := range []string{"was started twice", "created again", "was started for", "after its sandbox was stopped"} {
			if !strings.Contains(got, want) {
				t.Errorf("no violation %q in:\n%s", want, got)
			}
		}
	})
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := critest.New(critest.Config{})
		defer r.Close()
		c := r.Client(cri.Config{})
		var got []string
		var last *runtimeapi.ContainerEventResponse
		listen := func() chan error {
			end := make(chan error, 1)
			go func() {
				end <- c.GetContainerEvents(context.Background(), nil, func(e *runtimeapi.ContainerEventResponse) {
					got = append(got, e.ContainerId+" "+strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT"))
					last = e
				})
			}()
			synctest.Wait()
			return end
		}
		end := listen()
		sid, id := start(t, c, "web", "app", "img", 0)
		r.Exit("web", "app", 3, "OOMKilled")
		synctest.Wait()
		want := []string{sid + " CREATED", sid + " STARTED", id + " CREATED", id + " STARTED", id + " STOPPED"}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("events:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if s := last.ContainersStatuses[0]; s.ExitCode != 3 || s.Reason != "OOMKilled" || last.PodSandboxStatus.Metadata.Uid != "uid-web" {
			t.Errorf("the event tells %v", last)
		}
		r.DropStreams()
		if err := <-end; !cri.IsUnknown(err) {
			t.Errorf("a dropped stream ended with %v", err)
		}
		got = nil
		listen()
		r.MuteEvents(true)
		if err := c.RemovePodSandbox(t.Context(), sid); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(got) > 0 || r.Streams() != 1 {
			t.Errorf("a silent stream said %v; %d streams", got, r.Streams())
		}
		r.Restart()
		old := critest.New(critest.Config{NoEvents: true})
		if err := old.Client(cri.Config{}).GetContainerEvents(t.Context(), nil, nil); !cri.IsUnimplemented(err) {
			t.Errorf("events of an old runtime: %v", err)
		}
	})
}

func TestLoseState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := critest.New(critest.Config{})
		defer r.Close()
		c := r.Client(cri.Config{})
		sid, id := start(t, c, "web", "app", "img", 0)
		r.LoseState()
		if _, err := c.ContainerStatus(t.Context(), id, false); !cri.IsNotFound(err) {
			t.Errorf("status of a lost container: %v", err)
		}
		for name, err := range map[string]error{
			"StopContainer": c.StopContainer(t.Context(), id, time.Second), "RemoveContainer": c.RemoveContainer(t.Context(), id),
			"StopPodSandbox": c.StopPodSandbox(t.Context(), sid), "RemovePodSandbox": c.RemovePodSandbox(t.Context(), sid),
		} {
			if err != nil {
				t.Errorf("%s of what is gone: %v", name, err)
			}
		}
		start(t, c, "web", "app", "img", 0)
		if v := r.Violations(); len(v) > 0 {
			t.Error(v)
		}
	})
}

// TestSingleThreaded drives the runtime with a clock of its own, as the
// simulator does: no call waits, and the same calls give the same transcript.
func TestSingleThreaded(t *testing.T) {
	play := func() string {
		now := time.Unix(1_700_000_000, 0)
		r := critest.New(critest.Config{Clock: func() time.Time { return now }, Seed: 7})
		r.Script("app", critest.ExitAfter(5*time.Second, 1), critest.Behavior{TermAfter: 2 * time.Second})
		r.ScriptPull("img", critest.Pull{Took: 3 * time.Second})
		c := r.Client(cri.Config{})
		ctx := context.Background()
		later := func(err error) {
			t.Helper()
			var l *critest.Later
			if !errors.As(err, &l) {
				t.Fatalf("got %v, want to be told to come later", err)
			}
			now = l.At
		}
		sandbox := critest.SandboxConfig("default", "web", "u1", 0)
		_, err := c.PullImage(ctx, &runtimeapi.ImageSpec{Image: "img"}, nil, sandbox)
		later(err)
		if _, err := c.PullImage(ctx, &runtimeapi.ImageSpec{Image: "img"}, nil, sandbox); err != nil {
			t.Fatal(err)
		}
		sid, err := c.RunPodSandbox(ctx, sandbox, "")
		if err != nil {
			t.Fatal(err)
		}
		run := func(attempt uint32) string {
			id, err := c.CreateContainer(ctx, sid, critest.ContainerConfig(sandbox, "app", "img", attempt), sandbox)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.StartContainer(ctx, id); err != nil {
				t.Fatal(err)
			}
			return id
		}
		run(0)
		next, ok := r.Advance()
		if !ok || !next.Equal(now.Add(5*time.Second)) {
			t.Fatalf("next thing at %v, %v", next, ok)
		}
		now = next
		r.Advance()
		id := run(1)
		later(c.StopContainer(ctx, id, 30*time.Second))
		if err := c.StopContainer(ctx, id, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		r.Inject(critest.Match{Method: "RemovePodSandbox"}, critest.Fault{Hang: true, Effect: critest.EffectLate, Late: time.Second})
		var l *critest.Later
		if err := c.RemovePodSandbox(ctx, sid); !errors.As(err, &l) || !l.At.IsZero() {
			t.Fatalf("a hung call: %v", err)
		}
		now = now.Add(time.Second)
		if n := len(r.Sandboxes("")); n != 0 {
			t.Fatalf("%d sandboxes after the late removal", n)
		}
		return r.Transcript()
	}
	got := play()
	if again := play(); got != again {
		t.Errorf("two runs differ:\n%s\n\n%s", got, again)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "single-threaded.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(want)) != strings.TrimSpace(got) {
		t.Errorf("transcript:\n%s", got)
	}
}
