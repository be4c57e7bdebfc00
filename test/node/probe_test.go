package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/test/harness"
)

// asking are the ways of asking the server in testdata/probed.yaml.
var asking = map[string]string{
	"http":      `httpGet: {path: /healthz, port: web, httpHeaders: [{name: X, value: one}]}`,
	"https":     `httpGet: {path: /healthz, port: 8443, scheme: HTTPS}`,
	"http-host": `httpGet: {path: /healthz, port: 8080, host: ${IP}}`,
	"tcp":       `tcpSocket: {port: 7070}`,
	"grpc":      `grpc: {port: 9090}`,
	"exec":      `exec: {command: [/health, check, $(FILE)]}`,
}

// probed puts a pod with these probes in place.
func probed(t *testing.T, name string, probes ...string) {
	t.Helper()
	well(t, name)
	put(t, "probed.yaml", name, "PROBES", strings.Join(probes, "\n    "))
}

func illFile(name string) string { return node.Path(filepath.Join(records, name+".ill")) }

func ill(t *testing.T, name string) {
	t.Helper()
	if err := os.MkdirAll(node.Path(records), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(illFile(name), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { well(t, name) })
}

func well(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(illFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func main(p *v1.Pod) v1.ContainerStatus {
	if p == nil {
		return v1.ContainerStatus{}
	}
	return harness.ContainerStatus(p, "main")
}

func unready(p *v1.Pod) bool {
	c := main(p)
	return c.State.Running != nil && !c.Ready && c.Started != nil && *c.Started && !harness.Ready(p)
}

// explained waits until `kubelet explain` tells an event.
func explained(t *testing.T, words ...string) {
	t.Helper()
	if harness.Upstream() {
		return
	}
	until(t, "kubelet explain to tell of "+strings.Join(words, ", "), func(ctx context.Context) error {
		out, _, err := node.RunKubelet(ctx, "explain", "-o", "json")
		for _, word := range words {
			if err == nil && !strings.Contains(out, word) {
				err = fmt.Errorf("%q is not in:\n%s", word, out)
			}
		}
		return err
	})
}

// Readiness follows the container, however it is asked, and never restarts it.
func TestReadinessProbes(t *testing.T) {
	t.Parallel()
	for kind, handler := range asking {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			if kind == "http-host" {
				handler = strings.Replace(handler, "${IP}", "127.0.0.1", 1) // nobody listens there
			}
			name := "ready-" + kind
			probed(t, name, `readinessProbe: {periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 5, `+handler+`}`)
			if kind == "http-host" {
				status(t, name, "not ready: the host is not the pod", unready)
				return
			}
			before := status(t, name, "ready", harness.Ready)
			ill(t, name)
			status(t, name, "not ready", unready)
			well(t, name)
			after := status(t, name, "ready again", harness.Ready)
			if main(before).ContainerID != main(after).ContainerID {
				t.Error("a readiness probe restarted the container")
			}
		})
	}
}

// A container that is not alive is restarted, with what the probe said.
func TestLivenessProbes(t *testing.T) {
	t.Parallel()
	for kind, handler := range asking {
		if kind == "http-host" {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			name := "alive-" + kind
			probed(t, name, `livenessProbe: {periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 5, `+handler+`}`)
			before := status(t, name, "ready", harness.Ready)
			ill(t, name)
			status(t, name, "restarted", func(p *v1.Pod) bool { return main(p).RestartCount > 0 })
			well(t, name)
			after := status(t, name, "ready again", harness.Ready)
			if main(before).ContainerID == main(after).ContainerID {
				t.Error("the container has not changed")
			}
			explained(t, "Liveness probe failed: ", "Unhealthy")
		})
	}
}

// Until its startup probe succeeds a container is neither started nor asked
// for its life; then readiness is asked at once.
func TestStartupProbe(t *testing.T) {
	t.Parallel()
	ill(t, "starting")
	put(t, "probed.yaml", "starting", "PROBES", strings.Join([]string{
		`startupProbe: {periodSeconds: 1, failureThreshold: 1000, ` + asking["http"] + `}`,
		`livenessProbe: {periodSeconds: 1, failureThreshold: 1, ` + asking["grpc"] + `}`,
		`readinessProbe: {periodSeconds: 3600, ` + asking["http"] + `}`,
	}, "\n    "))
	before := status(t, "starting", "running and not started", func(p *v1.Pod) bool {
		c := main(p)
		return c.State.Running != nil && c.Started != nil && !*c.Started && !c.Ready
	})
	explained(t, "Startup probe failed: HTTP probe failed with statuscode: 500",
		"the startup probe of the container to succeed", `"lastError":"HTTP probe failed with statuscode: 500"`)
	well(t, "starting")
	after := status(t, "starting", "started and ready", harness.Ready)
	if c := main(after); c.ContainerID != main(before).ContainerID || !*c.Started {
		t.Errorf("before %+v, after %+v", main(before), c)
	}
}

// What was asked is counted, at an endpoint of its own, until the pod is gone.
func TestProbeMetrics(t *testing.T) {
	t.Parallel()
	probed(t, "counted", `readinessProbe: {periodSeconds: 1, `+asking["tcp"]+`}`)
	pod := status(t, "counted", "ready", harness.Ready)
	series := `prober_probe_total{container="main",namespace="default",pod="counted` + suffix + `",pod_uid="` + string(pod.UID) +
		`",probe_type="Readiness",result="successful"}`
	counts := func(want bool) func(context.Context) error {
		return func(ctx context.Context) error {
			text, err := node.Get(ctx, "http://"+harness.NodeIP+":10255/metrics/probes")
			if err == nil && strings.Contains(text, series) != want {
				err = fmt.Errorf("%s: %v in\n%s", series, !want, text)
			}
			return err
		}
	}
	until(t, "the probe to be counted", counts(true))
	remove(t, "counted.yaml")
	until(t, "the count to go with the pod", counts(false))
}

// A redirect to another host is not followed and passes with a warning.
func TestProbeWarning(t *testing.T) {
	t.Parallel()
	probed(t, "moved", `readinessProbe: {periodSeconds: 1, httpGet: {path: /moved, port: 8080}}`)
	status(t, "moved", "ready", harness.Ready)
	explained(t, "ProbeWarning", "Readiness probe warning: Probe terminated redirects, Response body:")
}

// A probe whose program is missing says so, and the container is left alone.
func TestProbeOfMissingProgram(t *testing.T) {
	t.Parallel()
	probed(t, "nothing-to-ask",
		`livenessProbe: {periodSeconds: 1, failureThreshold: 1, exec: {command: [/nope]}}`,
		`readinessProbe: {periodSeconds: 1, failureThreshold: 1, httpGet: {port: nope}}`)
	status(t, "nothing-to-ask", "not ready", unready)
	explained(t, "Liveness probe errored and resulted in unknown state", "/nope", `port \"nope\" not found`)
	if c := main(status(t, "nothing-to-ask", "running", unready)); c.RestartCount != 0 {
		t.Errorf("restarted %d times", c.RestartCount)
	}
}

// A command that takes too long is ended, and so is what it started, though
// neither listens to anybody.
func TestExecProbeTimeout(t *testing.T) {
	t.Parallel()
	upstreamFails(t, "what a probe's command has started lives on, and its time-out takes two minutes")
	for _, c := range []struct{ name, threshold string }{{"family", "1000"}, {"family-restarted", "1"}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ticks := filepath.Join(records, c.name+".ticks")
			probed(t, c.name, `livenessProbe: {periodSeconds: 3, timeoutSeconds: 1, failureThreshold: `+c.threshold+
				`, exec: {command: [/health, family, /records/`+c.name+`.ticks]}}`)
			pod := status(t, c.name, "running", func(p *v1.Pod) bool { return main(p).State.Running != nil })
			if c.threshold == "1" {
				status(t, c.name, "restarted", func(p *v1.Pod) bool { return main(p).RestartCount > 0 })
				return
			}
			explained(t, `command timed out: \"/health family /records/family.ticks\" timed out after 1s`)
			size := func() int {
				text, _ := os.ReadFile(node.Path(ticks))
				return len(text)
			}
			until(t, "the command's child to run", func(context.Context) error {
				if size() == 0 {
					return errors.New("no tick")
				}
				return nil
			})
			dir, err := node.PodCgroup("pids", pod)
			if err != nil {
				t.Fatal(err)
			}
			_, id, _ := strings.Cut(main(pod).ContainerID, "://")
			until(t, "only the container's own process to be left", func(context.Context) error {
				text, err := os.ReadFile(filepath.Join(dir, id, "cgroup.procs"))
				if n := len(strings.Fields(string(text))); err == nil && n != 1 {
					err = fmt.Errorf("%d processes", n)
				}
				return err
			})
			status(t, c.name, "the same", func(p *v1.Pod) bool { return main(p).ContainerID == main(pod).ContainerID })
		})
	}
}

// A kubelet that comes back does not make a ready container unready.
func TestReadyStaysOverKubeletRestart(t *testing.T) {
	probed(t, "stays-ready",
		`startupProbe: {periodSeconds: 3600, `+asking["http"]+`}`,
		`readinessProbe: {periodSeconds: 3600, failureThreshold: 1, `+asking["http"]+`}`)
	before := status(t, "stays-ready", "ready", harness.Ready)
	restart(t, kubelet.Kill, func() {})
	after := status(t, "stays-ready", "told of again", func(p *v1.Pod) bool { return main(p).State.Running != nil })
	if c := main(after); !c.Ready || c.Started == nil || !*c.Started || c.ContainerID != main(before).ContainerID {
		t.Errorf("after the restart: %+v", c)
	}
}

// With all CPUs of the machine busy, no healthy container is restarted. PROBE_PODS and PROBE_LOAD (a duration) make it harder.
func TestProbesUnderLoad(t *testing.T) {
	pods, load := 10, 20*time.Second
	if n, err := strconv.Atoi(os.Getenv("PROBE_PODS")); err == nil {
		pods = n
	}
	if d, err := time.ParseDuration(os.Getenv("PROBE_LOAD")); err == nil {
		load = d
	}
	kinds := []string{"http", "https", "tcp", "grpc", "exec"}
	name := func(i int) string { return "loaded-" + strconv.Itoa(i) }
	for i := range pods {
		handler := asking[kinds[i%len(kinds)]]
		probed(t, name(i),
			`livenessProbe: {periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 1, `+handler+`}`,
			`readinessProbe: {periodSeconds: 1, failureThreshold: 3, timeoutSeconds: 1, `+asking[kinds[(i+1)%len(kinds)]]+`}`)
	}
	before := map[string]v1.ContainerStatus{}
	for i := range pods {
		before[name(i)] = main(status(t, name(i), "running", func(p *v1.Pod) bool { return main(p).State.Running != nil }))
	}
	for range 2 * runtime.NumCPU() {
		b := exec.Command("/bin/sh", "-c", "while :; do :; done")
		if err := b.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = b.Process.Kill()
			_ = b.Wait()
		}()
	}
	// Pods that come meanwhile have a hook, and a minute to start.
	for i := range 4 {
		name := "under-load-" + strconv.Itoa(i)
		probed(t, name, `startupProbe: {periodSeconds: 1, failureThreshold: 60, timeoutSeconds: 1, `+asking[kinds[i]]+`}`,
			`livenessProbe: {periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 1, `+asking["exec"]+`}`,
			`lifecycle: {postStart: {exec: {command: [/health, tell, /records/`+name+`, poststart]}}}`)
		defer func() {
			pod := status(t, name, "ready", harness.Ready)
			if c := main(pod); c.RestartCount != 0 || !slices.Equal(record(name), []string{"poststart"}) {
				t.Errorf("%s: %d restarts, its hook wrote %q", name, c.RestartCount, record(name))
			}
		}()
	}
	end := time.Now().Add(load)
	for time.Now().Before(end) {
		time.Sleep(time.Second) // the load is what is waited for
		list, err := kubelet.Pods(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			pod := &list[i]
			was, ours := before[strings.TrimSuffix(pod.Name, suffix)]
			now := main(pod)
			if ours && (now.ContainerID != was.ContainerID || now.RestartCount != was.RestartCount) {
				t.Errorf("%s was restarted: %s", pod.Name, harness.PodSummary(pod))
			}
		}
		if t.Failed() {
			return
		}
	}
}
