package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/test/harness"
)

// What is wrong with a pod, or with what it refers to, is said where people
// look, and once it is mended the pod goes on by itself: the same pod in the
// same sandbox, without a restart.
func TestMended(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	patch := func(pod, body string) error {
		_, err := node.Cluster.Client.CoreV1().Pods(ns).Patch(context.Background(), pod, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{})
		return err
	}
	image := func(pod, image string) error {
		return patch(pod, `{"spec":{"containers":[{"name":"main","image":"`+image+`"}]}}`)
	}
	cases := []struct {
		name, spec string // spec of the container
		reason     string
		message    []string
		mend       func(pod string) error
	}{
		{
			"no-key", "env: [{name: X, valueFrom: {configMapKeyRef: {name: settings, key: late}}}]",
			"CreateContainerConfigError", []string{"X", "couldn't find key late in ConfigMap " + ns + "/settings", "optional"},
			func(string) error {
				_, err := node.Cluster.Client.CoreV1().ConfigMaps(ns).Patch(context.Background(), "settings", types.MergePatchType, []byte(`{"data":{"late":"1"}}`), metav1.PatchOptions{})
				return err
			},
		},
		{
			"no-secret", "envFrom: [{secretRef: {name: words}}]",
			"CreateContainerConfigError", []string{`secret "words" not found`, "create it"},
			func(string) error {
				_, err := node.Cluster.Client.CoreV1().Secrets(ns).Create(context.Background(),
					&v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "words"}}, metav1.CreateOptions{})
				return err
			},
		},
		{
			"bad-image", "image: 'localhost/Not A Name'",
			"InvalidImageName", []string{"Not A Name"},
			func(pod string) error { return image(pod, "localhost/test/agent:1") },
		},
		{
			"root-image", "securityContext: {runAsNonRoot: true}\nimage: localhost/test/agent:1",
			"CreateContainerConfigError", []string{"container has runAsNonRoot and image will run as root", "runAsUser"},
			func(pod string) error { return image(pod, "registry.k8s.io/pause:3.10.2") },
		},
		{
			"no-such-user", "image: localhost/test/user-ghost:1",
			"CreateContainerError", []string{"no such user in /etc/passwd", "set securityContext.runAsUser"},
			func(pod string) error { return image(pod, "localhost/test/agent:1") },
		},
		{
			"image-comes-late", "image: localhost/test/late:1",
			"ImagePullBackOff", []string{"Back-off pulling image", "localhost/test/late:1"},
			func(string) error {
				_, err := node.Run(context.Background(), node.Ctr(), "-a", "/run/containerd/containerd.sock", "-n", "k8s.io", "images", "tag", "localhost/test/agent:1", "localhost/test/late:1")
				return err
			},
		},
		{
			"no-program", "command: [sleep, '100000']\nimage: localhost/test/agent:1",
			"RunContainerError", []string{"executable file", "not found in $PATH", "check command"},
			func(pod string) error { return image(pod, "registry.k8s.io/e2e-test-images/busybox:1.29-4") },
		},
	}
	createText(t, ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {key: value}\n")
	for _, c := range cases {
		spec := c.spec
		if !strings.Contains(spec, "image:") {
			spec += "\nimage: localhost/test/agent:1"
		}
		createText(t, ns, "apiVersion: v1\nkind: Pod\nmetadata: {name: "+c.name+"}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    imagePullPolicy: IfNotPresent\n    "+
			strings.ReplaceAll(spec, "\n", "\n    ")+"\n")
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			pod := waitPod(t, ns, c.name, c.reason, func(p *v1.Pod) bool {
				w := harness.ContainerStatus(p, "main").State.Waiting
				return w != nil && w.Reason == c.reason
			})
			w := harness.ContainerStatus(pod, "main").State.Waiting
			for _, words := range c.message {
				if !strings.Contains(w.Message, words) {
					t.Errorf("message %q lacks %q", w.Message, words)
				}
			}
			if err := c.mend(c.name); err != nil {
				t.Fatal(err)
			}
			after := waitReady(t, ns, c.name)
			sandboxes, err := node.Sandboxes(t.Context(), ns, c.name)
			restarts := harness.ContainerStatus(after, "main").RestartCount
			if c.reason == "RunContainerError" {
				restarts = 0 // a container that was created and could not run counts, as upstream
			}
			if err != nil || after.UID != pod.UID || len(sandboxes) != 1 || restarts != 0 {
				t.Errorf("the pod was restarted: UID %s was %s, %d sandboxes, %d restarts, %v", after.UID, pod.UID, len(sandboxes), restarts, err)
			}
		})
	}
}

// What a container's status tells beside its state: what it was made from,
// what it may use, whom it runs as and how its volumes are mounted.
func TestContainerStatus(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, agentPod("told", []string{"crash-once", "7", "/data/crashed"}, `  volumeMounts:
  - {name: data, mountPath: /data}
  - {name: data, mountPath: /read, readOnly: true}
  securityContext: {runAsUser: 1000, runAsGroup: 3000}
  resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {cpu: 500m, memory: 64Mi}}`,
		"securityContext: {fsGroup: 2000}", "volumes: [{name: data, emptyDir: {}}]"))
	pod := waitPod(t, ns, "told", "Ready after a restart", func(p *v1.Pod) bool {
		return harness.Ready(p) && harness.ContainerStatus(p, "main").RestartCount == 1
	})
	s := harness.ContainerStatus(pod, "main")
	last := s.LastTerminationState.Terminated
	if last == nil || last.ExitCode != 7 || last.Reason != "Error" || last.ContainerID == "" || last.ContainerID == s.ContainerID || last.StartedAt.IsZero() || last.FinishedAt.IsZero() {
		t.Errorf("last state: %+v", last)
	}
	if s.Started == nil || !*s.Started || !s.Ready || !strings.HasPrefix(s.ImageID, "sha256:") {
		t.Errorf("started %v, ready %v, image ID %s", s.Started, s.Ready, s.ImageID)
	}
	want := pod.Spec.Containers[0].Resources
	if s.Resources == nil || !apiequality.Semantic.DeepEqual(*s.Resources, want) || !apiequality.Semantic.DeepEqual(s.AllocatedResources, want.Requests) {
		t.Errorf("resources %v, allocated %v; want %v", s.Resources, s.AllocatedResources, want)
	}
	disabled := v1.RecursiveReadOnlyDisabled
	mounts := []v1.VolumeMountStatus{{Name: "data", MountPath: "/data"}, {Name: "data", MountPath: "/read", ReadOnly: true, RecursiveReadOnly: &disabled}}
	ours := s.VolumeMounts[:min(len(s.VolumeMounts), 2)] // then the token's
	if !apiequality.Semantic.DeepEqual(ours, mounts) || len(s.VolumeMounts) != 3 {
		t.Errorf("mounts: %+v, want first %+v", s.VolumeMounts, mounts)
	}
	if node.Containerd != "1.6" && (s.User == nil || s.User.Linux == nil || s.User.Linux.UID != 1000 || s.User.Linux.GID != 3000 || !slices.Contains(s.User.Linux.SupplementalGroups, 2000)) {
		t.Errorf("user: %+v", s.User)
	}
}

// A pod is Ready when its containers are and others have opened its gates.
func TestReadinessGates(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, agentPod("gated", []string{"pause"}, "readinessGates: [{conditionType: example.com/balanced}]"))
	closed := func(words string) func(*v1.Pod) bool {
		return func(p *v1.Pod) bool {
			containers, ready := harness.PodCondition(p, v1.ContainersReady), harness.PodCondition(p, v1.PodReady)
			return containers != nil && containers.Status == v1.ConditionTrue && ready != nil && ready.Status == v1.ConditionFalse &&
				ready.Reason == "ReadinessGatesNotReady" && strings.Contains(ready.Message, words)
		}
	}
	set := func(status string) {
		t.Helper()
		body := `{"status":{"conditions":[{"type":"example.com/balanced","status":"` + status + `"}]}}`
		if _, err := node.Cluster.Client.CoreV1().Pods(ns).Patch(t.Context(), "gated", types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	waitPod(t, ns, "gated", "held by its gate", closed(`"example.com/balanced" does not exist`))
	set("True")
	pod := waitReady(t, ns, "gated")
	if c := harness.PodCondition(pod, "example.com/balanced"); c == nil || c.Status != v1.ConditionTrue {
		t.Errorf("the gate's condition, which is not the kubelet's: %+v", c)
	}
	set("False")
	waitPod(t, ns, "gated", "held again", closed(`"example.com/balanced" is not "True", but False`))
}

// The input of a container with stdinOnce ends with the first client.
func TestStdinOnce(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	for _, once := range []string{"true", "false"} {
		createText(t, ns, `apiVersion: v1
kind: Pod
metadata: {name: once-`+once+`}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: registry.k8s.io/e2e-test-images/busybox:1.29-4
    stdin: true
    stdinOnce: `+once+`
    command: [sh, -c, "cat; echo end of input"]
`)
		waitReady(t, ns, "once-"+once)
		out, err := node.Run(t.Context(), "/bin/sh", "-c", "(echo hello; sleep 1) | timeout 20 kubectl --kubeconfig=/etc/kubernetes/admin.conf attach -i -n "+ns+" once-"+once)
		if err != nil && once == "true" {
			t.Logf("attach: %v, %q", err, out)
		}
	}
	pod := waitPhase(t, ns, "once-true", v1.PodSucceeded)
	if out, err := node.Log(pod, "main", 0); err != nil || out != "hello\nend of input\n" {
		t.Errorf("with stdinOnce: %q, %v", out, err)
	}
	waitReady(t, ns, "once-false")
	until(t, "the input that another client may follow", func(context.Context) error {
		out, err := node.LogOf(ns, "once-false", "main")
		if err == nil && out != "hello\n" {
			err = fmt.Errorf("output: %q", out)
		}
		return err
	})
}

// Containers find services by variables: those of their namespace unless they
// want none, and always the API server.
func TestServiceLinks(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, "apiVersion: v1\nkind: Service\nmetadata: {name: my-web}\nspec: {ports: [{name: http, port: 80}, {name: admin, port: 8080}]}\n")
	service, err := node.Cluster.Client.CoreV1().Services(ns).Get(t.Context(), "my-web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The service has to be known before the pod starts: a container keeps its
	// variables for life.
	tries := 0
	until(t, "the service in a pod", func(context.Context) error {
		name := fmt.Sprint("links-", tries)
		tries++
		createText(t, ns, agentPod(name, []string{"serve", ":8080", "/"}))
		pod := waitReady(t, ns, name)
		env := lines(fetch(t, pod, "/env"))
		for _, want := range []string{
			"MY_WEB_SERVICE_HOST=" + service.Spec.ClusterIP, "MY_WEB_SERVICE_PORT=80", "MY_WEB_SERVICE_PORT_ADMIN=8080",
			"MY_WEB_PORT_80_TCP_ADDR=" + service.Spec.ClusterIP, "KUBERNETES_SERVICE_PORT_HTTPS=443",
		} {
			if !slices.Contains(env, want) {
				return fmt.Errorf("no %s in %q", want, env)
			}
		}
		return nil
	})
	createText(t, ns, agentPod("no-links", []string{"serve", ":8080", "/"}, "enableServiceLinks: false"))
	env := lines(fetch(t, waitReady(t, ns, "no-links"), "/env"))
	has := func(prefix string) bool {
		return slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, prefix) })
	}
	if has("MY_WEB") || !has("KUBERNETES_SERVICE_HOST=") {
		t.Errorf("without service links: %q", env)
	}
}

// A pod with users of its own reads its token and objects like any other, and
// what it is told it runs as is what it sees.
func TestOwnUsers(t *testing.T) {
	t.Parallel()
	if !node.OwnUsers() {
		t.Skip("the runtime has no user namespaces; what is said then is tested in test/node")
	}
	ns := namespace(t)
	createText(t, ns, `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {key: value}
`)
	createText(t, ns, `apiVersion: v1
kind: Pod
metadata: {name: own-users}
spec:
  hostUsers: false
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  containers:
  - name: main
    image: registry.k8s.io/e2e-test-images/busybox:1.29-4
    command:
    - sh
    - -c
    - |
      cat /config/key; echo; wc -c </var/run/secrets/kubernetes.io/serviceaccount/token
      stat -L -c %u:%g /config/key /var/run/secrets/kubernetes.io/serviceaccount/token
    volumeMounts: [{name: config, mountPath: /config}]
  volumes: [{name: config, configMap: {name: settings}}]
`)
	pod := waitPhase(t, ns, "own-users", v1.PodSucceeded)
	out, err := node.Log(pod, "main", 0)
	if err != nil {
		t.Fatal(err)
	}
	got := lines(out)
	if len(got) != 4 || got[0] != "value" || len(got[1]) < 3 || got[2] != "0:2000" || got[3] != "1000:2000" {
		t.Errorf("it saw %q", got)
	}
	text, err := node.Cluster.Client.CoreV1().Nodes().Get(t.Context(), node.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(text.Status.RuntimeHandlers, func(h v1.NodeRuntimeHandler) bool {
		return h.Name == "" && h.Features != nil && h.Features.UserNamespaces != nil && *h.Features.UserNamespaces &&
			h.Features.RecursiveReadOnlyMounts != nil && *h.Features.RecursiveReadOnlyMounts
	}) {
		handlers, _ := json.Marshal(text.Status.RuntimeHandlers)
		t.Errorf("runtime handlers of the node: %s", handlers)
	}
}

// An ephemeral container sees the processes of the container that it targets,
// and no others.
func TestEphemeralContainerTargets(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, agentPod("target", []string{"pause"}))
	pod := waitReady(t, ns, "target")
	for _, target := range []string{"main", ""} {
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, v1.EphemeralContainer{
			TargetContainerName: target,
			EphemeralContainerCommon: v1.EphemeralContainerCommon{
				Name: "debug-" + target + "x", Image: "registry.k8s.io/e2e-test-images/busybox:1.29-4", ImagePullPolicy: v1.PullIfNotPresent,
				Command: []string{"sh", "-c", "tr '\\000' ' ' </proc/1/cmdline; true"},
			},
		})
	}
	if _, err := node.Cluster.Client.CoreV1().Pods(ns).UpdateEphemeralContainers(t.Context(), "target", pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod = waitPod(t, ns, "target", "the end of its ephemeral containers", func(p *v1.Pod) bool {
		ended := 0
		for _, s := range p.Status.EphemeralContainerStatuses {
			if s.State.Terminated != nil {
				ended++
			}
		}
		return ended == 2
	})
	for name, want := range map[string]string{"debug-mainx": "/agent pause", "debug-x": "sh -c"} {
		out, err := node.Log(pod, name, 0)
		if err != nil || !strings.HasPrefix(out, want) {
			t.Errorf("%s: the first process is %q, %v; want %q", name, out, err, want)
		}
	}
}

// Resolvers take three servers; more are left out, and an event says so.
func TestDNSLimits(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	createText(t, ns, agentPod("many-servers", []string{"cat", "/etc/resolv.conf"}, "dnsConfig: {nameservers: [1.1.1.1, 1.1.1.2, 1.1.1.3]}"))
	if e := waitEvent(t, ns, "many-servers", "DNSConfigForming"); !strings.Contains(e.Message, harness.ClusterDNS+" 1.1.1.1 1.1.1.2") {
		t.Errorf("event: %s", e.Message)
	}
	pod := waitReady(t, ns, "many-servers")
	until(t, "the pod to print its resolver's file", func(context.Context) error {
		out, err := node.Log(pod, "main", 0)
		if servers := strings.Count(out, "nameserver"); err == nil && servers != 3 {
			err = fmt.Errorf("%d servers: %q", servers, out)
		}
		return err
	})
}

// A host port that another pod has is refused, by name of that pod.
func TestHostPortInUse(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	port := func(name string) string {
		return agentPod(name, []string{"pause"}, "  ports: [{containerPort: 80, hostPort: 18099}]", "nodeName: "+node.Name)
	}
	createText(t, ns, port("first"))
	waitReady(t, ns, "first")
	createText(t, ns, port("second"))
	pod := waitPhase(t, ns, "second", v1.PodFailed)
	if pod.Status.Reason != "NodePorts" || !strings.Contains(pod.Status.Message, "18099") || !strings.Contains(pod.Status.Message, "first") {
		t.Errorf("reason %s, message %s", pod.Status.Reason, pod.Status.Message)
	}
}
