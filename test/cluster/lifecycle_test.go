package cluster

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/test/harness"
)

// A running pod's status says all that Services, schedulers and people need.
func TestRunningPodStatus(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	create(t, ns, "web.yaml")
	pod := waitReady(t, ns, "web")

	if body := fetch(t, pod, "/hostname"); strings.TrimSpace(body) != "web" {
		t.Errorf("web server on the pod's address: got %q, want its host name", body)
	}
	if pod.Status.Phase != v1.PodRunning || pod.Status.QOSClass != v1.PodQOSBurstable {
		t.Errorf("phase and QoS: got %s %s, want Running Burstable", pod.Status.Phase, pod.Status.QOSClass)
	}
	if pod.Status.HostIP != harness.NodeIP || len(pod.Status.HostIPs) != 1 || len(pod.Status.PodIPs) != 1 || pod.Status.PodIPs[0].IP != pod.Status.PodIP {
		t.Errorf("addresses: hostIP %s hostIPs %v podIP %s podIPs %v", pod.Status.HostIP, pod.Status.HostIPs, pod.Status.PodIP, pod.Status.PodIPs)
	}
	if pod.Status.StartTime.IsZero() {
		t.Error("startTime is not set")
	}
	for _, kind := range []v1.PodConditionType{v1.PodScheduled, v1.PodReadyToStartContainers, v1.PodInitialized, v1.ContainersReady, v1.PodReady} {
		c := harness.PodCondition(pod, kind)
		if c == nil || c.Status != v1.ConditionTrue {
			t.Errorf("condition %s: got %v, want True", kind, c)
		} else if kind != v1.PodScheduled && c.ObservedGeneration != pod.Generation {
			t.Errorf("condition %s: observedGeneration %d, want %d", kind, c.ObservedGeneration, pod.Generation)
		}
	}
	if pod.Status.ObservedGeneration != pod.Generation {
		t.Errorf("observedGeneration: got %d, want %d", pod.Status.ObservedGeneration, pod.Generation)
	}
	s := harness.ContainerStatus(pod, "main")
	if s.State.Running == nil || s.State.Running.StartedAt.IsZero() || !s.Ready || s.Started == nil || !*s.Started {
		t.Errorf("container status: %+v", s)
	}
	if !strings.HasPrefix(s.ContainerID, "containerd://") || !strings.HasPrefix(s.ImageID, "sha256:") || s.Image != "localhost/test/agent:1" {
		t.Errorf("container ids: %s %s %s", s.ContainerID, s.ImageID, s.Image)
	}
}

// People and tools look events up by these names.
func TestEvents(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, agentPod("eventful", []string{"pause"}))
	for _, reason := range []string{"Scheduled", "Pulled", "Created", "Started"} {
		waitEvent(t, ns, "eventful", reason)
	}
	waitReady(t, ns, "eventful")
	deletePod(t, ns, "eventful", 5)
	killing := waitEvent(t, ns, "eventful", "Killing")
	if killing.InvolvedObject.FieldPath != "spec.containers{main}" || killing.Source.Component != "kubelet" {
		t.Errorf("Killing event: field path %q of %q", killing.InvolvedObject.FieldPath, killing.Source.Component)
	}
	waitGone(t, ns, "eventful")
}

func TestInitContainersAndSharedVolume(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	create(t, ns, "init.yaml")
	pod := waitReady(t, ns, "init")
	if got, want := lines(fetch(t, pod, "/order")), []string{"first", "second"}; !slices.Equal(got, want) {
		t.Errorf("init containers wrote %q, want %q: each once and in order", got, want)
	}
	for _, name := range []string{"first", "second"} {
		s := harness.ContainerStatus(pod, name)
		if term := s.State.Terminated; term == nil || term.Reason != "Completed" || term.ExitCode != 0 || !s.Ready {
			t.Errorf("init container %s: %+v", name, s)
		}
	}
}

// An init container that fails is tried again under Always and ends the pod
// under Never.
func TestFailingInitContainer(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	create(t, ns, "init-fails.yaml", "NAME", "retried", "POLICY", "Always")
	create(t, ns, "init-fails.yaml", "NAME", "given-up", "POLICY", "Never")
	pod := waitPhase(t, ns, "given-up", v1.PodFailed)
	if s := harness.ContainerStatus(pod, "main"); s.State.Waiting == nil {
		t.Errorf("main container of a pod whose init container failed: %+v, want it waiting", s.State)
	}
	pod = waitPod(t, ns, "retried", "a second attempt", func(p *v1.Pod) bool {
		return p != nil && harness.ContainerStatus(p, "fails").RestartCount > 0
	})
	if pod.Status.Phase != v1.PodPending {
		t.Errorf("phase while init containers run: got %s, want Pending", pod.Status.Phase)
	}
}

func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		policy string
		args   []string
		phase  v1.PodPhase
		reason string
		code   int32
	}{
		{"never-zero", "Never", []string{"exit", "0"}, v1.PodSucceeded, "Completed", 0},
		{"never-three", "Never", []string{"exit", "3"}, v1.PodFailed, "Error", 3},
		{"onfailure-zero", "OnFailure", []string{"exit", "0"}, v1.PodSucceeded, "Completed", 0},
	}
	ns := namespace(t)
	for _, tt := range tests {
		createText(t, ns, agentPod(tt.name, tt.args, "restartPolicy: "+tt.policy))
	}
	createText(t, ns, agentPod("onfailure-once", []string{"crash-once", "4", "/shared/crashed"},
		"  volumeMounts: [{name: shared, mountPath: /shared}]", "restartPolicy: OnFailure", "volumes: [{name: shared, emptyDir: {}}]"))
	createText(t, ns, agentPod("always", []string{"exit", "5"}))
	for _, tt := range tests {
		pod := waitPhase(t, ns, tt.name, tt.phase)
		s := harness.ContainerStatus(pod, "main")
		if term := s.State.Terminated; term == nil || term.ExitCode != tt.code || term.Reason != tt.reason || s.RestartCount != 0 {
			t.Errorf("%s: got %+v, want code %d %s without restart", tt.name, s, tt.code, tt.reason)
		}
		if c := harness.PodCondition(pod, v1.PodReady); c == nil || c.Status != v1.ConditionFalse {
			t.Errorf("%s: Ready is %v for a pod that ended", tt.name, c)
		}
	}
	pod := waitPod(t, ns, "onfailure-once", "running after one restart", func(p *v1.Pod) bool {
		s := harness.ContainerStatus(p, "main")
		return s.RestartCount == 1 && s.State.Running != nil
	})
	if last := harness.ContainerStatus(pod, "main").LastTerminationState.Terminated; last == nil || last.ExitCode != 4 {
		t.Errorf("last state: %+v, want exit code 4", last)
	}
	pod = waitPod(t, ns, "always", "CrashLoopBackOff", func(p *v1.Pod) bool {
		s := harness.ContainerStatus(p, "main")
		return s.RestartCount >= 1 && s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
	})
	s := harness.ContainerStatus(pod, "main")
	if !strings.Contains(s.State.Waiting.Message, "back-off") || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 5 {
		t.Errorf("crash loop: %+v", s)
	}
	if pod.Status.Phase != v1.PodRunning {
		t.Errorf("phase in a crash loop: got %s, want Running", pod.Status.Phase)
	}
	waitEvent(t, ns, "always", "BackOff")
}

// record is a file on the node in which the containers of a pod write down
// when they start, are asked to end, and end.
func record(ns string) string { return "/var/lib/test-records/" + ns }

// waitStarted waits until a recording pod has started: only then does it hear
// signals, which is a moment after the runtime calls it running.
func waitStarted(t *testing.T, ns, name string) *v1.Pod {
	t.Helper()
	pod := waitReady(t, ns, name)
	until(t, name+" to record its start", func(context.Context) error {
		if starts(ns)[name] == 0 {
			return fmt.Errorf("record: %q", readRecord(ns))
		}
		return nil
	})
	return pod
}

func readRecord(ns string) []string {
	text, err := os.ReadFile(node.Path("/var/lib/test-records/" + ns + "/record"))
	if err != nil {
		return nil
	}
	return lines(string(text))
}

// A container gets SIGTERM first, may take its time within the grace period,
// and is killed only after it.
func TestGracefulAndForcedStop(t *testing.T) {
	t.Parallel()
	t.Run("in time", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t)
		create(t, ns, "record.yaml", "NAME", "polite", "VERB", "linger", "ARG", "700ms", "GRACE", "30", "DIR", record(ns))
		waitStarted(t, ns, "polite")
		deletePod(t, ns, "polite", 30)
		waitGone(t, ns, "polite")
		if got, want := readRecord(ns), []string{"start polite", "term polite", "end polite"}; !slices.Equal(got, want) {
			t.Errorf("record: got %q, want %q", got, want)
		}
	})
	t.Run("too late", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t)
		recorder := node.Cluster.Record(t.Context(), ns)
		create(t, ns, "record.yaml", "NAME", "stubborn", "VERB", "stubborn", "ARG", "", "GRACE", "2", "DIR", record(ns))
		pod := waitStarted(t, ns, "stubborn")
		deletePod(t, ns, "stubborn", 2)
		waitGone(t, ns, "stubborn")
		recorder.Stop()
		if got, want := readRecord(ns), []string{"start stubborn", "term stubborn"}; !slices.Equal(got, want) {
			t.Errorf("record: got %q, want %q", got, want)
		}
		versions := recorder.Pods()[pod.UID]
		last := versions[len(versions)-1]
		term := harness.ContainerStatus(last, "main").State.Terminated
		if term == nil || term.ExitCode != 137 {
			t.Errorf("final state before the pod went: %s, want exit code 137", harness.PodSummary(last))
		} else {
			// The first deletion time is when the grace period ends; the final
			// deletion sets another. Both have whole seconds only.
			i := slices.IndexFunc(versions, func(p *v1.Pod) bool { return p.DeletionTimestamp != nil })
			if early := versions[i].DeletionTimestamp.Sub(term.FinishedAt.Time); early > time.Second {
				t.Errorf("killed %s before the grace period ended", early)
			}
		}
	})
	t.Run("shortened meanwhile", func(t *testing.T) {
		t.Parallel()
		upstreamFails(t, "a StopContainer that is under way is not interrupted")
		ns := namespace(t)
		create(t, ns, "record.yaml", "NAME", "stubborn", "VERB", "stubborn", "ARG", "", "GRACE", "600", "DIR", record(ns))
		waitStarted(t, ns, "stubborn")
		deletePod(t, ns, "stubborn", 600)
		until(t, "SIGTERM", func(context.Context) error {
			if r := readRecord(ns); !slices.Contains(r, "term stubborn") {
				return fmt.Errorf("record: %q", r)
			}
			return nil
		})
		deletePod(t, ns, "stubborn", 1)
		waitGone(t, ns, "stubborn")
	})
	t.Run("forced", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t)
		create(t, ns, "record.yaml", "NAME", "stubborn", "VERB", "stubborn", "ARG", "", "GRACE", "600", "DIR", record(ns))
		waitStarted(t, ns, "stubborn")
		deletePod(t, ns, "stubborn", 0)
		waitGone(t, ns, "stubborn") // the object goes at once, the containers soon after
		until(t, "the containers to end", func(ctx context.Context) error {
			if c, err := node.RunningContainer(ctx, ns, "stubborn", "main"); err == nil {
				return fmt.Errorf("container %s still runs", c.Id)
			}
			return nil
		})
	})
}

func TestActiveDeadline(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, agentPod("limited", []string{"pause"}, "activeDeadlineSeconds: 3"))
	pod := waitPhase(t, ns, "limited", v1.PodFailed)
	if pod.Status.Reason != "DeadlineExceeded" {
		t.Errorf("reason: got %q (%s), want DeadlineExceeded", pod.Status.Reason, pod.Status.Message)
	}
	until(t, "the container to end", func(ctx context.Context) error {
		if c, err := node.RunningContainer(ctx, ns, "limited", "main"); err == nil {
			return fmt.Errorf("container %s still runs", c.Id)
		}
		return nil
	})
}

// What dies without the kubelet's doing is seen, told and mended.
func TestKilledFromOutside(t *testing.T) {
	t.Parallel()
	t.Run("container", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t)
		create(t, ns, "web.yaml")
		before := waitReady(t, ns, "web")
		c, err := node.WaitContainer(t.Context(), ns, "web", "main")
		if err != nil {
			t.Fatal(err)
		}
		if err := node.KillContainer(t.Context(), c.Id); err != nil {
			t.Fatal(err)
		}
		after := waitPod(t, ns, "web", "running again", func(p *v1.Pod) bool {
			return harness.ContainerStatus(p, "main").RestartCount == 1 && harness.Ready(p)
		})
		if last := harness.ContainerStatus(after, "main").LastTerminationState.Terminated; last == nil || last.ExitCode != 137 || last.Reason != "Error" {
			t.Errorf("last state: %+v, want exit code 137, Error", last)
		}
		if before.Status.PodIP != after.Status.PodIP {
			t.Errorf("the sandbox was replaced: address %s, then %s", before.Status.PodIP, after.Status.PodIP)
		}
	})
	t.Run("sandbox", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t)
		create(t, ns, "web.yaml")
		waitReady(t, ns, "web")
		sandboxes, err := node.Sandboxes(t.Context(), ns, "web")
		if err != nil || len(sandboxes) != 1 {
			t.Fatalf("%d sandboxes, %v", len(sandboxes), err)
		}
		if err := node.KillSandbox(t.Context(), sandboxes[0].Id); err != nil {
			t.Fatal(err)
		}
		pod := waitPod(t, ns, "web", "running in a new sandbox", func(p *v1.Pod) bool {
			return harness.ContainerStatus(p, "main").RestartCount == 1 && harness.Ready(p)
		})
		if body := fetch(t, pod, "/hostname"); strings.TrimSpace(body) != "web" {
			t.Errorf("web server in the new sandbox: got %q, want its host name", body)
		}
		waitEvent(t, ns, "web", "SandboxChanged")
	})
}

func TestMissingImages(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	never := strings.Replace(agentPod("never", []string{"pause"}, "  imagePullPolicy: Never"), "test/agent:1", "test/none:1", 1)
	remote := strings.Replace(agentPod("unreachable", []string{"pause"}), "localhost/test/agent:1", "127.0.0.1:1/none:1", 1)
	invalid := strings.Replace(agentPod("invalid", []string{"pause"}), "localhost/test/agent:1", "UPPER//case", 1)
	for _, text := range []string{never, remote, invalid} {
		createText(t, ns, text)
	}
	waitingFor := func(name string, reasons ...string) {
		t.Helper()
		waitPod(t, ns, name, strings.Join(reasons, " or "), func(p *v1.Pod) bool {
			w := harness.ContainerStatus(p, "main").State.Waiting
			return w != nil && slices.Contains(reasons, w.Reason) && w.Message != ""
		})
	}
	waitingFor("never", "ErrImageNeverPull")
	waitingFor("invalid", "InvalidImageName")
	waitingFor("unreachable", "ErrImagePull")
	waitingFor("unreachable", "ImagePullBackOff")
	waitEvent(t, ns, "unreachable", "Failed")
	waitEvent(t, ns, "unreachable", "BackOff")
}

// Environment variables come from fields, resources and objects, and refer to
// each other.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	create(t, ns, "env.yaml")
	pod := waitReady(t, ns, "env")
	body := fetch(t, pod, "/env")
	env := lines(body)
	for _, want := range []string{
		"FROM_CONFIGMAP=blue", "FROM_SECRET=hush", "prefix_color=blue", "POD_NAME=env", "POD_NAMESPACE=" + ns,
		"POD_UID=" + string(pod.UID), "POD_IP=" + pod.Status.PodIP, "NODE_NAME=" + node.Name, "HOST_IP=" + harness.NodeIP,
		"CPU_LIMIT_MILLI=250", "MEMORY_REQUEST_MI=32", "COMBINED=env/blue", "ESCAPED=$(POD_NAME)", "IMAGE_ENV=from-image",
		"KUBERNETES_SERVICE_HOST=10.96.0.1", "LABEL=yes", "MISSING_OPTIONAL_IS=",
	} {
		if !slices.Contains(env, want) {
			t.Errorf("environment lacks %s", want)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
}

// A RuntimeClass chooses the runtime's handler.
func TestRuntimeClass(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	create(t, ns, "runtimeclass.yaml")
	t.Cleanup(func() { deleteRuntimeClass("other") })
	waitReady(t, ns, "other")
	sandboxes, err := node.Sandboxes(t.Context(), ns, "other")
	if err != nil || len(sandboxes) != 1 || sandboxes[0].RuntimeHandler != "other" {
		t.Errorf("sandboxes: %v, %v; want one with the handler other", sandboxes, err)
	}
}
