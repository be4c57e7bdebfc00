package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"kubelet/test/harness"
)

// A manifest that comes, changes and goes takes its pod along.
func TestStaticPodAddedEditedRemoved(t *testing.T) {
	t.Parallel()
	put(t, "web.yaml", "edited", "WORD", "one")
	running(t, "edited", "main")
	pod := status(t, "edited", "running with an address", func(p *v1.Pod) bool { return p.Status.PodIP != "" && harness.Ready(p) })
	serves := func(pod *v1.Pod, want string) {
		t.Helper()
		until(t, "the web server to say "+want, func(ctx context.Context) error {
			body, err := node.Get(ctx, "http://"+pod.Status.PodIP+":8080/env")
			if err == nil && !strings.Contains(body, "WORD="+want) {
				err = fmt.Errorf("environment: %q", body)
			}
			return err
		})
	}
	serves(pod, "one")
	if pod.Annotations["kubernetes.io/config.source"] != "file" || pod.Annotations["kubernetes.io/config.hash"] == "" || pod.Spec.NodeName != node.Name {
		t.Errorf("annotations %v, node %q", pod.Annotations, pod.Spec.NodeName)
	}

	put(t, "web.yaml", "edited", "WORD", "two")
	pod = status(t, "edited", "replaced", func(p *v1.Pod) bool { return p.UID != pod.UID && harness.Ready(p) })
	serves(pod, "two")
	running(t, "edited", "main") // and no other of the name

	remove(t, "edited.yaml")
	stopped(t, "edited")
	gone(t, "edited")
	if !harness.Upstream() {
		if err := node.NoTrace(t.Context(), pod.UID); err != nil {
			t.Error(err)
		}
	}
}

// Files that are no good manifests do no harm to those that are.
func TestStaticPodFilesOfAllKinds(t *testing.T) {
	t.Parallel()
	put(t, "record.yaml", "bystander", "VERB", "pause")
	before := running(t, "bystander", "main")

	text := manifest(t, "record.yaml", "NAME", "halves", "VERB", "pause")
	write(t, "halves.yaml", text[:strings.Index(text, "  containers:")])
	write(t, "garbage.yaml", "\x00\xff}{ not: yaml: at: all")
	write(t, "empty.yaml", "")
	write(t, "wrong-kind.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: no-pod}\n")
	write(t, "invalid.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: Not_A_Name}\nspec: {containers: []}\n")
	write(t, "refers.yaml", manifest(t, "refers-to-secret.yaml", "NAME", "refers"))
	write(t, ".hidden.yaml", manifest(t, "record.yaml", "NAME", "hidden", "VERB", "pause"))
	write(t, "sub/inside.yaml", manifest(t, "record.yaml", "NAME", "inside", "VERB", "pause"))
	put(t, "record.yaml", "after-broken", "VERB", "pause")
	running(t, "after-broken", "main")

	write(t, "halves.yaml", text)
	running(t, "halves", "main")
	startedOnce(t, "halves")
	startedOnce(t, "bystander")
	if after := running(t, "bystander", "main"); after.Id != before.Id {
		t.Error("a pod was restarted because of other files")
	}
	for _, name := range []string{"hidden", "inside", "refers"} {
		if n := starts(name); n != 0 {
			t.Errorf("the pod %s was started", name)
		}
	}
}

func TestStaticPodInJSON(t *testing.T) {
	t.Parallel()
	putText(t, "json.json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"json"},"spec":{"terminationGracePeriodSeconds":1,
		"containers":[{"name":"main","image":"localhost/test/agent:1","args":["pause"]}]}}`)
	running(t, "json", "main")
}

func TestInitContainersAndSharedVolume(t *testing.T) {
	t.Parallel()
	put(t, "init.yaml", "init")
	pod := status(t, "init", "Ready", harness.Ready)
	until(t, "the file that init containers wrote", func(ctx context.Context) error {
		body, err := node.Get(ctx, "http://"+pod.Status.PodIP+":8080/order")
		if err == nil && !slices.Equal(strings.Fields(body), []string{"first", "second"}) {
			return harness.Permanent(fmt.Errorf("order: %q", body))
		}
		return err
	})
}

func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	put(t, "exits.yaml", "succeeds", "POLICY", "Never", "CODE", "0")
	put(t, "exits.yaml", "fails", "POLICY", "OnFailure", "CODE", "3")
	put(t, "exits.yaml", "crashes", "POLICY", "Always", "CODE", "5")
	status(t, "succeeds", "Succeeded", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	for _, name := range []string{"fails", "crashes"} {
		status(t, name, "in a crash loop", func(p *v1.Pod) bool {
			s := harness.ContainerStatus(p, "main")
			return s.RestartCount >= 1 && s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
		})
	}
}

// A container that is killed is started again at once.
func TestContainerKilled(t *testing.T) {
	t.Parallel()
	put(t, "record.yaml", "killed", "VERB", "pause")
	c := running(t, "killed", "main")
	if err := node.KillContainer(t.Context(), c.Id); err != nil {
		t.Fatal(err)
	}
	pod := status(t, "killed", "restarted", func(p *v1.Pod) bool { return harness.ContainerStatus(p, "main").RestartCount == 1 })
	if term := harness.ContainerStatus(pod, "main").LastTerminationState.Terminated; term == nil || term.ExitCode != 137 {
		t.Errorf("last state: %+v, want exit code 137", term)
	}
	running(t, "killed", "main")
}

// A kubelet that comes back finds its pods and leaves them alone; what changed
// meanwhile it does.
func TestKubeletRestarts(t *testing.T) {
	for _, name := range []string{"stays", "changes", "leaves"} {
		put(t, "record.yaml", name, "VERB", "pause")
	}
	before := running(t, "stays", "main")
	running(t, "changes", "main")
	running(t, "leaves", "main")

	restart(t, func() { kubelet.Kill() }, func() {})
	restart(t, func() {
		if !kubelet.Stop() {
			t.Error("the kubelet did not end within 10 s of SIGTERM")
		} else if code := kubelet.Process().ExitCode(); code != 0 {
			t.Errorf("exit code after SIGTERM: %d", code)
		}
	}, func() {
		if after := running(t, "stays", "main"); after.Id != before.Id {
			t.Error("the end of the kubelet ended a pod")
		}
	})
	restart(t, kubelet.Kill, func() {
		put(t, "record.yaml", "changes", "VERB", "stubborn")
		remove(t, "leaves.yaml")
		put(t, "record.yaml", "comes", "VERB", "pause")
	})
	running(t, "comes", "main")
	stopped(t, "leaves")
	until(t, "the changed pod to be started anew", func(context.Context) error {
		if n := starts("changes"); n != 2 {
			return fmt.Errorf("%d starts", n)
		}
		return nil
	})
	startedOnce(t, "stays")
	if after := running(t, "stays", "main"); after.Id != before.Id {
		t.Error("an unchanged pod was restarted")
	}
	gone(t, "leaves")
}

// Static pods come from a URL, too, with the headers that are configured.
func TestStaticPodsFromURL(t *testing.T) {
	listener, err := node.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var body atomic.Pointer[string]
	var unauthorized atomic.Int32
	serve := func(names ...string) {
		list := "apiVersion: v1\nkind: PodList\nitems:\n"
		for _, name := range names {
			item := manifest(t, "record.yaml", "NAME", name, "VERB", "pause")
			list += "- " + strings.ReplaceAll(strings.TrimSpace(item), "\n", "\n  ") + "\n"
		}
		body.Store(&list)
	}
	serve("url-one", "url-two")
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata-Flavor") != "test" {
			unauthorized.Add(1)
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		fmt.Fprint(w, *body.Load())
	})}
	go server.Serve(listener)
	defer server.Close()

	kubelet.Stop()
	own := kubelet
	kubelet = node.NewKubelet(harness.KubeletOptions{Configure: func(c *kubeletconfig.KubeletConfiguration) {
		c.StaticPodURL = "http://" + listener.Addr().String() + "/pods"
		c.StaticPodURLHeader = map[string][]string{"Metadata-Flavor": {"test"}}
		c.HTTPCheckFrequency.Duration = 500_000_000
	}})
	defer func() {
		kubelet.Stop()
		kubelet = own
		if err := kubelet.StartAndWait(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if err := kubelet.StartAndWait(t.Context()); err != nil {
		t.Fatal(err)
	}
	running(t, "url-one", "main")
	running(t, "url-two", "main")
	serve("url-two")
	stopped(t, "url-one")
	startedOnce(t, "url-two")
	if n := unauthorized.Load(); n > 0 {
		t.Errorf("%d requests came without the configured header", n)
	}
}

// Local endpoints: health, pods and metrics.
func TestLocalEndpoints(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"http://127.0.0.1:10248/healthz":              "ok",
		"http://" + harness.NodeIP + ":10255/healthz": "ok",
		"http://" + harness.NodeIP + ":10255/pods":    `"kind":"PodList"`,
		"http://" + harness.NodeIP + ":10255/metrics": "process_start_time_seconds",
	} {
		body, err := node.Get(t.Context(), url)
		if err != nil || !strings.Contains(body, want) {
			t.Errorf("%s: %.200q, %v; want %q in it", url, body, err, want)
		}
	}
}
