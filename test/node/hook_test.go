package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/explain"
	"kubelet/test/harness"
)

func hooked(t *testing.T, name, grace string, more ...string) {
	t.Helper()
	put(t, "hooked.yaml", name, "GRACE", grace, "MORE", strings.Join(more, "\n    "))
}

// event waits for an event of the pod as `kubelet explain` tells it.
func event(t *testing.T, name, reason string) (message string) {
	t.Helper()
	if harness.Upstream() {
		return ""
	}
	until(t, "event "+reason+" of "+name, func(ctx context.Context) error {
		out, _, err := node.RunKubelet(ctx, "explain", "default/"+name+suffix, "-o", "json")
		if err != nil {
			return err
		}
		var pod explain.Pod
		if err := json.Unmarshal([]byte(out), &pod); err != nil {
			return fmt.Errorf("%w in %q", err, out)
		}
		for _, e := range pod.Events {
			if e.Reason == reason {
				message = e.Message
				return nil
			}
		}
		return fmt.Errorf("events: %+v", pod.Events)
	})
	return message
}

// Hooks of every kind run before the container is told of, or before its stop
// signal, and within the grace period.
func TestHooks(t *testing.T) {
	t.Parallel()
	hooked(t, "hook-server", "1")
	server := status(t, "hook-server", "Ready", harness.Ready).Status.PodIP
	recorded(t, "hook-server", "start")

	const preStop, postStart = "lifecycle: {preStop: ", "lifecycle: {postStart: "
	cases := []struct {
		name, grace, lifecycle string
		record                 []string // in this order, when it has been stopped
		server                 string   // what the other server has heard
	}{
		{"hook-exec", "30", preStop + `{exec: {command: [sh, -c, "sleep 0.3; echo hook >>/records/hook-exec"]}}}`, []string{"start", "hook", "TERM"}, ""},
		{"hook-get", "30", preStop + `{httpGet: {path: "/cgi-bin/note?hook", port: web}}}`, []string{"start", "hook", "TERM"}, ""},
		{"hook-get-start", "1", postStart + `{httpGet: {path: "/cgi-bin/note?started", host: ` + server + `, port: 8080, httpHeaders: [{name: X, value: one}]}}}`, []string{"start", "TERM"}, "started"},
		// A server that knows no HTTPS is asked again without it.
		{"hook-get-https", "30", preStop + `{httpGet: {path: "/cgi-bin/note?fallback", scheme: HTTPS, host: ` + server + `, port: 8080}}}`, []string{"start", "TERM"}, "fallback"},
		{"hook-sleep", "30", preStop + `{sleep: {seconds: 1}}}`, []string{"start", "TERM"}, ""},
		{"hook-sleep-zero", "30", "lifecycle: {postStart: {sleep: {seconds: 0}}, preStop: {sleep: {seconds: 0}}}", []string{"start", "TERM"}, ""},
		// These take longer than there is time, or never end.
		{"hook-hangs", "10", preStop + `{exec: {command: [sh, -c, "echo hook >>/records/hook-hangs; exec sleep 3600"]}}}`, []string{"start", "hook", "TERM"}, ""},
		// A hook that fails keeps no container from being stopped.
		{"hook-exits", "30", preStop + `{exec: {command: [sh, -c, "echo hook >>/records/hook-exits; exit 7"]}}}`, []string{"start", "hook", "TERM"}, ""},
		{"hook-no-program", "30", preStop + `{exec: {command: [/no-such-program]}}}`, []string{"start", "TERM"}, ""},
		{"hook-tcp", "30", preStop + `{tcpSocket: {port: 8080}}}`, []string{"start", "TERM"}, ""},
		{"hook-refused", "30", preStop + `{httpGet: {port: 1}}}`, []string{"start", "TERM"}, ""},
		{"hook-signal", "30", "lifecycle: {stopSignal: SIGUSR1}", []string{"start", "USR1"}, ""},
	}
	for _, c := range cases {
		hooked(t, c.name, c.grace, c.lifecycle)
	}
	for _, c := range cases {
		if c.name == "hook-signal" && node.Containerd == "1.6" {
			continue
		}
		pod := status(t, c.name, "Ready", harness.Ready)
		recorded(t, c.name, "start")
		if s := container(pod, "main"); c.name == "hook-signal" && (s.StopSignal == nil || *s.StopSignal != v1.SIGUSR1) {
			t.Errorf("%s: stop signal in the status: %v", c.name, s.StopSignal)
		}
		remove(t, c.name+".yaml")
	}
	for _, c := range cases {
		if c.name == "hook-signal" && node.Containerd == "1.6" {
			continue
		}
		gone(t, c.name)
		if got := record(c.name); !slices.Equal(got, c.record) {
			t.Errorf("%s: record %q, want %q", c.name, got, c.record)
		}
		if c.server != "" && !slices.Contains(record("hook-server"), c.server) {
			t.Errorf("%s: the server has heard %q", c.name, record("hook-server"))
		}
	}
}

// What hooks that fail do to their container, and where it is told. Nothing of
// what a hook says is in an event: it may be secret.
func TestHookFailures(t *testing.T) {
	t.Parallel()
	const dies = "livenessProbe: {exec: {command: [test, -e, /no-such-file]}, periodSeconds: 1, failureThreshold: 1}"
	start := []struct {
		name, handler string
		message       []string
	}{
		{"poststart-exec", `exec: {command: [sh, -c, "echo hidden; exit 7"]}`, []string{"postStart hook of container main failed", "exited with 7", "mend the hook"}},
		{"poststart-get", `httpGet: {port: 1}`, []string{"connection refused", "mend the hook"}},
		{"poststart-tcp", `tcpSocket: {port: 8080}`, []string{"tcpSocket is not supported as a hook", "use exec, httpGet or sleep"}},
	}
	stop := []struct{ name, handler string }{
		{"prestop-exec", `exec: {command: [sh, -c, "echo hidden; exit 7"]}`},
		{"prestop-no-program", `exec: {command: [/no-such-program]}`},
		{"prestop-get", `httpGet: {port: 1}`},
		{"prestop-tcp", `tcpSocket: {port: 8080}`},
		{"prestop-long", `exec: {command: [sleep, "3600"]}`},
	}
	for _, c := range start {
		hooked(t, c.name, "1", "lifecycle: {postStart: {"+c.handler+"}}")
	}
	for _, c := range stop {
		hooked(t, c.name, "1", dies, "lifecycle: {preStop: {"+c.handler+"}}")
	}
	for _, c := range start {
		pod := status(t, c.name, "waiting because of its hook", func(p *v1.Pod) bool {
			s := container(p, "main")
			return s.RestartCount >= 1 && s.State.Waiting != nil && strings.Contains(s.State.Waiting.Message, "hook")
		})
		w := container(pod, "main").State.Waiting
		if w.Reason != "PostStartHookError" && w.Reason != "CrashLoopBackOff" {
			t.Errorf("%s: reason %s", c.name, w.Reason)
		}
		for _, words := range c.message {
			if !harness.Upstream() && !strings.Contains(w.Message, words) {
				t.Errorf("%s: message %q lacks %q", c.name, w.Message, words)
			}
		}
		if m := event(t, c.name, "FailedPostStartHook"); strings.Contains(m, "hidden") {
			t.Errorf("%s: the event tells what the hook said: %s", c.name, m)
		}
		event(t, c.name, "Killing")
	}
	for _, c := range stop {
		status(t, c.name, "restarted", func(p *v1.Pod) bool { return container(p, "main").RestartCount >= 1 })
		if m := event(t, c.name, "FailedPreStopHook"); strings.Contains(m, "hidden") {
			t.Errorf("%s: the event tells what the hook said: %s", c.name, m)
		}
		if got := record(c.name); len(got) < 2 || got[1] != "TERM" {
			t.Errorf("%s: record %q, want start, TERM", c.name, got)
		}
	}
}

// A failed liveness or startup probe gives its container the probe's own grace
// period, not the pod's.
func TestGraceOfProbes(t *testing.T) {
	t.Parallel()
	const probe = "{exec: {command: [/agent, has, /no-such-file]}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1}"
	put(t, "one.yaml", "grace-liveness", "POLICY", "Always", "GRACE", "600", "ARGS", "stubborn", "MORE", "livenessProbe: "+probe)
	put(t, "one.yaml", "grace-startup", "POLICY", "Always", "GRACE", "600", "ARGS", "stubborn", "MORE", "startupProbe: "+probe)
	for _, name := range []string{"grace-liveness", "grace-startup"} {
		pod := status(t, name, "restarted", func(p *v1.Pod) bool { return container(p, "main").RestartCount >= 1 })
		if last := container(pod, "main").LastTerminationState.Terminated; last == nil || last.ExitCode != 137 {
			t.Errorf("%s: last state %+v", name, last)
		}
		if !slices.ContainsFunc(record(name), func(line string) bool { return strings.HasPrefix(line, "term") }) {
			t.Errorf("%s was not asked to end first: %q", name, record(name))
		}
	}
}
