package node

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"kubelet/test/harness"
)

// fieldCase is a pod, and what can be seen in it and told of it.
type fieldCase struct {
	Name string
	// Containerd is version that the case is for; empty for all.
	Containerd string
	// OwnUsers and RecursiveReadOnly limit the case to runtimes that have user
	// namespaces and recursively read-only mounts, or have not.
	OwnUsers, RecursiveReadOnly *bool
	// Pod and Container are what is set of the spec; the container is called
	// main and runs the script in a shell.
	Pod       v1.PodSpec
	Container v1.Container
	Run       string
	// Output is what the script printed, line by line, each as it stands or,
	// after "~ ", as a regular expression.
	Output []string
	// User is what the status tells of the first process, for runtimes that do.
	User *v1.LinuxContainerUser
	// Mounts is what it tells of the mounts.
	Mounts []v1.VolumeMountStatus
	// Waiting and Terminated are the container's state in the end, by reason
	// and words of the message.
	Waiting, Terminated *told
	// UpstreamFails is why the upstream kubelet does not pass this.
	UpstreamFails string
	// Rejected and Sandbox: the pod was refused, or its sandbox not made.
	Rejected, Sandbox *told
}

type told struct {
	Reason  string
	Message []string
}

func (w *told) check(t *testing.T, what, reason, message string) {
	t.Helper()
	if reason != w.Reason {
		t.Errorf("%s: reason %q, want %q", what, reason, w.Reason)
	}
	for _, words := range w.Message {
		// runc and crun write alike but for capitals.
		if !strings.Contains(strings.ToLower(message), strings.ToLower(words)) {
			t.Errorf("%s: message %q lacks %q", what, message, words)
		}
	}
}

// fieldCases runs the pods of a table, all at once.
func fieldCases(t *testing.T, file string) {
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var cases []fieldCase
	if err := yaml.UnmarshalStrict(text, &cases); err != nil {
		t.Fatal(err)
	}
	cases = slices.DeleteFunc(cases, func(c fieldCase) bool {
		return c.Containerd != "" && c.Containerd != node.Containerd ||
			c.OwnUsers != nil && *c.OwnUsers != node.OwnUsers() ||
			c.RecursiveReadOnly != nil && *c.RecursiveReadOnly != node.RecursiveReadOnly()
	})
	for i := range cases {
		cases[i].put(t)
	}
	for i := range cases {
		t.Run(cases[i].Name, cases[i].check)
	}
}

func (c *fieldCase) pod() string { return strings.ReplaceAll(c.Name, " ", "-") }

func (c *fieldCase) put(t *testing.T) {
	t.Helper()
	name := c.pod()
	pod := &v1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: c.Pod}
	pod.Labels = map[string]string{"label": "of-the-pod"}
	main := c.Container
	main.Name = "main"
	if main.Image == "" {
		main.Image = "registry.k8s.io/e2e-test-images/busybox:1.29-4"
	}
	main.ImagePullPolicy = v1.PullIfNotPresent
	if main.Command == nil {
		main.Command = []string{"sh", "-c", "exec 2>&1\n" + c.Run}
	}
	pod.Spec.Containers = append([]v1.Container{main}, pod.Spec.Containers...)
	pod.Spec.TerminationGracePeriodSeconds = new(int64)
	if pod.Spec.RestartPolicy == "" {
		pod.Spec.RestartPolicy = v1.RestartPolicyNever
	}
	text, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	putText(t, name+".yaml", string(text))
}

func (c *fieldCase) check(t *testing.T) {
	if c.UpstreamFails != "" {
		upstreamFails(t, c.UpstreamFails)
	}
	name := c.pod()
	switch {
	case c.Rejected != nil:
		got := status(t, name, "rejected", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
		c.Rejected.check(t, "pod", got.Status.Reason, got.Status.Message)
		return
	case c.Sandbox != nil:
		got := status(t, name, "without a sandbox", func(p *v1.Pod) bool {
			ready := harness.PodCondition(p, v1.PodReadyToStartContainers)
			return ready != nil && slices.ContainsFunc(c.Sandbox.Message, func(words string) bool { return strings.Contains(ready.Message, words) })
		})
		c.Sandbox.check(t, "condition", "", harness.PodCondition(got, v1.PodReadyToStartContainers).Message)
		return
	case c.Waiting != nil:
		got := status(t, name, "waiting", func(p *v1.Pod) bool {
			w := harness.ContainerStatus(p, "main").State.Waiting
			return w != nil && w.Reason == c.Waiting.Reason
		})
		w := harness.ContainerStatus(got, "main").State.Waiting
		c.Waiting.check(t, "container", w.Reason, w.Message)
		return
	}
	got := status(t, name, "at its end", func(p *v1.Pod) bool { return harness.ContainerStatus(p, "main").State.Terminated != nil })
	s := harness.ContainerStatus(got, "main")
	if c.Terminated != nil {
		c.Terminated.check(t, "container", s.State.Terminated.Reason, s.State.Terminated.Message)
		if c.Terminated.Message == nil && s.State.Terminated.Message != "" {
			t.Errorf("message %q, want none", s.State.Terminated.Message)
		}
	}
	if c.Output != nil {
		out, err := node.Log(got, "main", 0)
		if err != nil {
			t.Fatal(err)
		}
		checkLines(t, out, c.Output)
	}
	if c.User != nil && node.Containerd != "1.6" { // CRI has it since 1.31
		want := &v1.ContainerUser{Linux: c.User}
		if s.User != nil && s.User.Linux != nil {
			slices.Sort(s.User.Linux.SupplementalGroups)
		}
		if diff := cmp.Diff(want, s.User); diff != "" {
			t.Errorf("user in the status: %s", diff)
		}
	}
	if c.Mounts != nil {
		if diff := cmp.Diff(c.Mounts, s.VolumeMounts); diff != "" {
			t.Errorf("mounts in the status: %s", diff)
		}
	}
}

func checkLines(t *testing.T, out string, want []string) {
	t.Helper()
	var wrong []string
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	for i := range max(len(lines), len(want)) {
		var is, should string
		if i < len(lines) {
			is = strings.TrimRight(lines[i], "\r")
		}
		if i < len(want) {
			should = want[i]
		}
		pattern, isPattern := strings.CutPrefix(should, "~ ")
		if isPattern && regexp.MustCompile("^(?:"+pattern+")$").MatchString(is) || is == should {
			continue
		}
		wrong = append(wrong, fmt.Sprintf("line %d: got %q, want %q", i+1, is, should))
	}
	if wrong != nil {
		t.Errorf("%s\nin all:\n%s", strings.Join(wrong, "\n"), out)
	}
}
