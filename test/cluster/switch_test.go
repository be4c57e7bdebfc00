package cluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/dump"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/test/harness"
)

// A node full of pods of every kind is handed from the upstream kubelet to
// this one and back, twice, by SIGTERM and by SIGKILL, while pods come and go.
// No container is restarted, no status takes a step back, tokens and objects
// go on to be refreshed, each kubelet ends the pods of the other, and nothing
// is left over.
func TestSwitchKubelets(t *testing.T) {
	if harness.Upstream() {
		t.Skip("it needs two kubelets")
	}
	s := &handover{t: t, ns: namespace(t), wanted: map[string]*v1.Pod{}}
	t.Cleanup(s.backToOurs)
	s.replace("upstream", (*harness.Kubelet).Stop)
	s.recorder = node.Cluster.Record(t.Context(), s.ns)
	defer s.recorder.Stop()
	s.createAll()
	s.nodeBefore = s.node()

	kill := func(k *harness.Kubelet) bool { k.Kill(); return true }
	s.hand("ours", (*harness.Kubelet).Stop)
	s.putStatic("static-ours")
	// Upstream asks for the first time somewhen in the first period.
	create(t, s.ns, "switch-asked-once.yaml")
	waitReady(t, s.ns, "asked-once")
	s.killContainer("restarted")
	s.hand("upstream", kill)
	s.killContainer("restarted")
	s.hand("ours", kill)
	s.editStatic("static-ours")
	s.hand("upstream", (*harness.Kubelet).Stop)
	s.removeStatic("static-ours")
	s.mend()
	s.noTraceOfGone(3 * time.Minute)
	s.hand("ours", (*harness.Kubelet).Stop)
	s.removeStatic("static-upstream")
	s.endAll()
	s.noTraceOfGone(time.Minute)
	s.recorder.Stop()
	s.judge()
}

// handover is a node whose kubelets take turns.
type handover struct {
	t        *testing.T
	ns       string
	recorder *harness.Recorder
	// turns are the kubelets so far, and the API's version when each began.
	turns      []turn
	nodeBefore *v1.Node
	// wanted are the pods that have to run on, as they were when they were
	// complete; gone those that have ended.
	wanted map[string]*v1.Pod
	gone   []types.UID
	round  int
}

type turn struct {
	kubelet string
	version int
	began   time.Time
}

// replace ends the kubelet that runs and starts another.
func (s *handover) replace(which string, end func(*harness.Kubelet) bool) {
	s.t.Helper()
	if !end(kubelet) {
		s.t.Errorf("the kubelet before %s did not end within 10 s", which)
	}
	options := harness.KubeletOptions{Flags: nodeFlags}
	if which == "upstream" {
		options.Binary = harness.UpstreamBinary()
	}
	list, err := node.Cluster.Client.CoreV1().Pods(s.ns).List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	version, err := strconv.Atoi(list.ResourceVersion)
	if err != nil {
		s.t.Fatal(err)
	}
	s.turns = append(s.turns, turn{which, version, time.Now()})
	kubelet = node.NewKubelet(options)
	if err := kubelet.StartAndWait(context.Background()); err != nil {
		s.t.Fatal(err)
	}
}

// backToOurs leaves the node to this kubelet, for the other tests.
func (s *handover) backToOurs() {
	for _, name := range []string{"static-ours", "static-upstream"} {
		if err := node.RemoveManifest(name + ".yaml"); err != nil {
			s.t.Error(err)
		}
	}
	if n := len(s.turns); n == 0 || s.turns[n-1].kubelet != "ours" || kubelet.Alive() != nil {
		kubelet.Kill()
		kubelet = node.NewKubelet(harness.KubeletOptions{Flags: nodeFlags})
		if err := kubelet.StartAndWait(context.Background()); err != nil {
			s.t.Error(err)
		}
	}
}

func (s *handover) dir() string { return record(s.ns) }

// createAll makes the pods under the first kubelet and waits until each is
// what it will be.
func (s *handover) createAll() {
	t := s.t
	create(t, s.ns, "switch.yaml", "DIR", s.dir())
	if node.OwnUsers() {
		create(t, s.ns, "switch-own-users.yaml")
	}
	if node.Containerd != "1.6" {
		create(t, s.ns, "switch-image-volume.yaml")
	}
	s.putStatic("static-upstream")
	gate := []byte(`{"status":{"conditions":[{"type":"example.org/gate","status":"True"}]}}`)
	if _, err := node.Cluster.Client.CoreV1().Pods(s.ns).Patch(t.Context(), "gated", types.StrategicMergePatchType, gate, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	waitReady(t, s.ns, "debugged")
	debug := []byte(`{"spec":{"ephemeralContainers":[{"name":"debug","image":"localhost/test/agent:1","args":["pause"]}]}}`)
	if _, err := node.Cluster.Client.CoreV1().Pods(s.ns).Patch(t.Context(), "debugged", types.StrategicMergePatchType, debug, metav1.PatchOptions{}, "ephemeralcontainers"); err != nil {
		t.Fatal(err)
	}
	for _, pod := range s.list() {
		settled := waitPodFor(t, 3*time.Minute, s.ns, pod.Name, "its final state", func(p *v1.Pod) bool {
			if p == nil {
				return false
			}
			switch p.Labels["as"] {
			case "running":
				if p.Name == "far-deadline" {
					return harness.ContainerStatus(p, "ended").State.Terminated != nil
				}
				for _, name := range []string{"restarted", "on-failure", "rules"} {
					if p.Name == name && harness.ContainerStatus(p, "main").RestartCount == 0 {
						return false
					}
				}
				if p.Name == "on-failure" {
					return harness.ContainerStatus(p, "main").State.Running != nil
				}
				if p.Name == "debugged" && harness.ContainerStatus(p, "debug").State.Running == nil {
					return false
				}
				return harness.Ready(p)
			case "ended":
				return p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
			case "crashing":
				return harness.ContainerStatus(p, "main").RestartCount >= 2
			}
			return harness.PodCondition(p, v1.PodScheduled) != nil
		})
		s.wanted[pod.Name] = settled
	}
	for name, grace := range map[string]int64{"terminating": 3600, "in-hook": 3600} {
		deletePod(t, s.ns, name, grace)
	}
	for _, name := range []string{"init-runs", "not-started", "no-image"} {
		waitPod(t, s.ns, name, "its containers to be told of", func(p *v1.Pod) bool {
			return p != nil && len(p.Status.ContainerStatuses) > 0
		})
	}
	s.comesAndGoes("goes-0")
	waitReady(t, s.ns, "goes-0")
	t.Logf("%d pods after %s", len(s.wanted), time.Since(s.turns[0].began).Round(time.Second))
}

func (s *handover) list() []v1.Pod {
	s.t.Helper()
	list, err := node.Cluster.Client.CoreV1().Pods(s.ns).List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

// comesAndGoes makes a pod that takes its time to end.
func (s *handover) comesAndGoes(name string) {
	s.t.Helper()
	createText(s.t, s.ns, agentPod(name, []string{"linger", "3s"}, `initContainers: [{name: init, image: "localhost/test/agent:1", args: [exit, "0", 1s]}]`,
		"terminationGracePeriodSeconds: 20"))
}

// hand gives the node to another kubelet while one pod goes and another
// comes, and looks at what it does with what it finds.
func (s *handover) hand(to string, end func(*harness.Kubelet) bool) {
	t := s.t
	t.Helper()
	running := s.running()
	goes, comes := fmt.Sprintf("goes-%d", s.round), fmt.Sprintf("goes-%d", s.round+1)
	s.round++
	deletePod(t, s.ns, goes, 20)
	s.comesAndGoes(comes)
	s.gone = append(s.gone, s.uid(goes))
	time.Sleep(time.Duration(s.round) * 300 * time.Millisecond) // another moment each time
	s.replace(to, end)
	start := s.turns[len(s.turns)-1].began

	if pod := waitReady(t, s.ns, comes); harness.ContainerStatus(pod, "main").RestartCount > 0 {
		t.Errorf("%s was restarted: %s", comes, harness.PodSummary(pod))
	}
	waitGone(t, s.ns, goes)
	s.refreshed(start)
	if lost := s.missing(running); len(lost) > 0 {
		t.Errorf("under %s (turn %d) these containers run no more: %s", to, s.round, strings.Join(lost, ", "))
	}
	s.sameNode()
	t.Logf("turn %d, %s: %d containers run on, after %s", s.round, to, len(running), time.Since(start).Round(time.Second))
}

func (s *handover) uid(name string) types.UID {
	s.t.Helper()
	pod, err := node.Cluster.Client.CoreV1().Pods(s.ns).Get(s.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return pod.UID
}

// running are the containers and sandboxes that nobody has a reason to end,
// with what they are called.
func (s *handover) running() map[string]string {
	s.t.Helper()
	found := map[string]string{}
	containers, err := node.Runtime.ListContainers(s.t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.namespace": s.ns},
		State:         &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range containers.Containers {
		pod, name := c.Labels["io.kubernetes.pod.name"], c.Metadata.Name
		if strings.HasPrefix(pod, "goes-") || pod == "backs-off" && name == "main" {
			continue
		}
		found[c.Id] = fmt.Sprintf("%s/%s #%d", pod, name, c.Metadata.Attempt)
	}
	sandboxes, err := node.Runtime.ListPodSandbox(s.t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		LabelSelector: map[string]string{"io.kubernetes.pod.namespace": s.ns},
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, b := range sandboxes.Items {
		if !strings.HasPrefix(b.Metadata.Name, "goes-") {
			found[b.Id] = fmt.Sprintf("%s (sandbox)", b.Metadata.Name)
		}
	}
	return found
}

func (s *handover) missing(before map[string]string) []string {
	s.t.Helper()
	now := s.running()
	var lost []string
	for id, name := range before {
		if _, ok := now[id]; !ok {
			lost = append(lost, name)
		}
	}
	slices.Sort(lost)
	return lost
}

// refreshed waits until the pod with volumes sees new contents of its objects,
// and a token made since the kubelet began.
func (s *handover) refreshed(since time.Time) {
	t := s.t
	t.Helper()
	word := fmt.Sprintf("round-%d", s.round)
	client := node.Cluster.Client.CoreV1()
	if _, err := client.ConfigMaps(s.ns).Patch(t.Context(), "settings", types.MergePatchType, []byte(`{"data":{"key":"`+word+`"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Secrets(s.ns).Patch(t.Context(), "words", types.MergePatchType, []byte(`{"stringData":{"word":"`+word+`"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Pods(s.ns).Patch(t.Context(), "volumes", types.MergePatchType, []byte(`{"metadata":{"labels":{"word":"`+word+`"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	ip := s.wanted["volumes"].Status.PodIP
	err := harness.Until(t.Context(), 3*time.Minute, "new contents of volumes", func(ctx context.Context) error {
		for path, want := range map[string]string{
			"/config/key": word, "/secret/word": word, "/down/labels": `word="` + word + `"`, "/all/key": word, "/all/word": word, "/all/name": "volumes",
		} {
			body, err := node.Get(ctx, "http://"+ip+":8080"+path)
			if err == nil && !strings.Contains(body, want) {
				err = fmt.Errorf("%s: got %q, want %q", path, body, want)
			}
			if err != nil {
				return err
			}
		}
		for _, path := range []string{"/token/token", "/var/run/secrets/kubernetes.io/serviceaccount/token"} {
			token, err := node.Get(ctx, "http://"+ip+":8080"+path)
			if err != nil {
				return err
			}
			// JWTs have whole seconds.
			if issued, err := issuedAt(token); err != nil || issued.Before(since.Truncate(time.Second)) {
				return fmt.Errorf("%s: the token is of %s, %v", path, issued, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func issuedAt(token string) (time.Time, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, errors.New("not a JWT")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, err
	}
	var claims struct {
		Issued int64 `json:"iat"`
	}
	err = json.Unmarshal(text, &claims)
	return time.Unix(claims.Issued, 0), err
}

func (s *handover) node() *v1.Node {
	s.t.Helper()
	n, err := node.Cluster.Client.CoreV1().Nodes().Get(s.t.Context(), node.Name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// sameNode compares what the scheduler sees of the node.
func (s *handover) sameNode() {
	s.t.Helper()
	now := s.node()
	for what, values := range map[string][2]any{
		"labels":      {s.nodeBefore.Labels, now.Labels},
		"annotations": {s.nodeBefore.Annotations, now.Annotations},
		"taints":      {s.nodeBefore.Spec.Taints, now.Spec.Taints},
		"capacity":    {quantities(s.nodeBefore.Status.Capacity), quantities(now.Status.Capacity)},
		"allocatable": {quantities(s.nodeBefore.Status.Allocatable), quantities(now.Status.Allocatable)},
		"addresses":   {s.nodeBefore.Status.Addresses, now.Status.Addresses},
		"features":    {s.nodeBefore.Status.Features, now.Status.Features},
		"handlers":    {s.nodeBefore.Status.RuntimeHandlers, now.Status.RuntimeHandlers},
	} {
		if !reflect.DeepEqual(values[0], values[1]) {
			s.t.Errorf("the node's %s changed with the kubelet:\n %v\n %v", what, asJSON(values[0]), asJSON(values[1]))
		}
	}
}

func quantities(list v1.ResourceList) map[v1.ResourceName]string {
	out := map[v1.ResourceName]string{}
	for name, q := range list {
		out[name] = q.String()
	}
	return out
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// killContainer ends the main container of a pod and waits for the next.
func (s *handover) killContainer(pod string) {
	s.t.Helper()
	c, err := node.RunningContainer(s.t.Context(), s.ns, pod, "main")
	if err == nil {
		err = node.KillContainer(s.t.Context(), c.Id)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	before := harness.ContainerStatus(waitPod(s.t, s.ns, pod, "", func(*v1.Pod) bool { return true }), "main").RestartCount
	waitPod(s.t, s.ns, pod, "the restart", func(p *v1.Pod) bool {
		now := harness.ContainerStatus(p, "main")
		return p != nil && now.State.Running != nil && (now.RestartCount > before || now.ContainerID != "containerd://"+c.Id)
	})
}

func (s *handover) static(name string) string {
	text, err := harness.Manifest("switch-static.yaml", "NAME", name, "NAMESPACE", s.ns)
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

func (s *handover) putStatic(name string) {
	s.t.Helper()
	if err := node.PutManifest(name+".yaml", s.static(name)); err != nil {
		s.t.Fatal(err)
	}
	s.wanted[name+"-"+node.Name] = waitReady(s.t, s.ns, name+"-"+node.Name)
}

// editStatic changes the manifest of a static pod, which makes it another.
func (s *handover) editStatic(name string) {
	s.t.Helper()
	mirror := name + "-" + node.Name
	before := s.wanted[mirror]
	text := strings.Replace(s.static(name), "env: [", "env: [{name: NEW, value: new}, ", 1)
	if err := node.PutManifest(name+".yaml", text); err != nil {
		s.t.Fatal(err)
	}
	s.wanted[mirror] = waitPod(s.t, s.ns, mirror, "the edited pod", func(p *v1.Pod) bool {
		return harness.Ready(p) && p.UID != before.UID
	})
	s.gone = append(s.gone, before.UID, types.UID(before.Annotations["kubernetes.io/config.hash"]))
}

func (s *handover) removeStatic(name string) {
	s.t.Helper()
	mirror := name + "-" + node.Name
	if err := node.RemoveManifest(name + ".yaml"); err != nil {
		s.t.Fatal(err)
	}
	waitGone(s.t, s.ns, mirror)
	s.gone = append(s.gone, types.UID(s.wanted[mirror].Annotations["kubernetes.io/config.hash"]))
	delete(s.wanted, mirror)
}

// mend gives the pods that wait what they wait for.
func (s *handover) mend() {
	t := s.t
	t.Helper()
	createText(t, s.ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: late}\ndata: {key: value}\n")
	if err := node.WriteFile(s.dir()+"/go", "", 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"no-volume", "init-runs"} {
		waitPodFor(t, 3*time.Minute, s.ns, name, "Ready", harness.Ready)
	}
	for _, name := range []string{"own-users", "subpath", "hooks", "succeeded"} {
		pod := s.wanted[name]
		if pod == nil {
			continue // containerd 1.6
		}
		deletePod(t, s.ns, name, 30) // time for a hook on a busy machine
		waitGone(t, s.ns, name)
		s.gone = append(s.gone, pod.UID)
		delete(s.wanted, name)
	}
	got, err := os.ReadFile(node.Path(filepath.Join(s.dir(), "hooks")))
	if want := "start main\npostStart\npreStop\nterm main\nend main\n"; err != nil || string(got) != want {
		// The program's own start and its hook may come in either order.
		if sorted(string(got)) != sorted(want) {
			t.Errorf("the pod with hooks: got %q, %v, want %q", got, err, want)
		}
	}
}

func sorted(text string) string {
	all := lines(text)
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// endAll ends every pod.
func (s *handover) endAll() {
	t := s.t
	t.Helper()
	if err := node.WriteFile(s.dir()+"/hook-may-end", "", 0o644); err != nil {
		t.Fatal(err)
	}
	waitGone(t, s.ns, "in-hook")
	deletePod(t, s.ns, "terminating", 1)
	waitGone(t, s.ns, "terminating")
	uids, err := node.Cluster.DeletePods(t.Context(), s.ns, patience)
	if err != nil {
		t.Fatal(err)
	}
	s.gone = append(s.gone, uids...)
	s.gone = append(s.gone, s.wanted["in-hook"].UID, s.wanted["terminating"].UID)
}

func (s *handover) noTraceOfGone(patience time.Duration) {
	s.t.Helper()
	if err := node.NoTraceFor(s.t.Context(), patience, s.gone...); err != nil {
		s.t.Error(err)
	}
}

// judge reads all that the API was told, from the first turn to the last.
func (s *handover) judge() {
	s.t.Helper()
	versions, upstreams := s.recorder.Pods(), 0
	for _, uid := range slices.Sorted(maps.Keys(versions)) {
		for i, after := range versions[uid][1:] {
			for _, step := range stepsBack(versions[uid][i], after) {
				// Upstream takes steps back of its own when it starts: it forgets
				// what it was told of static pods and of ended ones, and asks for
				// readiness anew. A restart would be somebody's fault here.
				turn := s.whose(after)
				if strings.HasPrefix(turn, "ours") || strings.Contains(step, "restart") {
					s.t.Errorf("%s, under %s: %s", after.Name, turn, step)
				} else {
					upstreams++
				}
			}
		}
	}
	s.t.Logf("%d steps back by the upstream kubelet", upstreams)
}

// whose names the kubelet that ran when a version was written.
func (s *handover) whose(pod *v1.Pod) string {
	version, _ := strconv.Atoi(pod.ResourceVersion)
	for i := len(s.turns) - 1; i >= 0; i-- {
		if version > s.turns[i].version {
			return fmt.Sprintf("%s (turn %d)", s.turns[i].kubelet, i)
		}
	}
	return "nobody"
}

// stepsBack lists what went backwards, or was forgotten, from one version of a
// pod to the next.
func stepsBack(before, after *v1.Pod) []string {
	var steps []string
	say := func(format string, args ...any) { steps = append(steps, fmt.Sprintf(format, args...)) }
	b, a := before.Status, after.Status
	rank := map[v1.PodPhase]int{v1.PodPending: 1, v1.PodRunning: 2, v1.PodSucceeded: 3, v1.PodFailed: 3}
	if rank[a.Phase] < rank[b.Phase] || rank[b.Phase] == 3 && a.Phase != b.Phase {
		say("phase %s, then %s", b.Phase, a.Phase)
	}
	for what, values := range map[string][2]any{
		"podIP": {b.PodIP, a.PodIP}, "podIPs": {b.PodIPs, a.PodIPs}, "hostIP": {b.HostIP, a.HostIP}, "hostIPs": {b.HostIPs, a.HostIPs},
		"startTime": {b.StartTime, a.StartTime}, "qosClass": {b.QOSClass, a.QOSClass},
	} {
		if !reflect.ValueOf(values[0]).IsZero() && !reflect.DeepEqual(values[0], values[1]) {
			say("%s %s, then %s", what, asJSON(values[0]), asJSON(values[1]))
		}
	}
	if a.ObservedGeneration < b.ObservedGeneration {
		say("observedGeneration %d, then %d", b.ObservedGeneration, a.ObservedGeneration)
	}
	leaving := after.DeletionTimestamp != nil || rank[a.Phase] == 3 || after.Labels["as"] == "crashing"
	for _, old := range b.Conditions {
		now := harness.PodCondition(after, old.Type)
		switch {
		case now == nil:
			say("condition %s is gone", old.Type)
		case now.Status == old.Status && !now.LastTransitionTime.Equal(&old.LastTransitionTime):
			say("condition %s is %s still, since %s, then %s", old.Type, old.Status, old.LastTransitionTime.Format(time.TimeOnly), now.LastTransitionTime.Format(time.TimeOnly))
		case old.Status == v1.ConditionTrue && now.Status != old.Status && !leaving && !restarted(before, after):
			say("condition %s was True, then %s: %s %s", old.Type, now.Status, now.Reason, now.Message)
		}
	}
	for kind, lists := range map[string][2][]v1.ContainerStatus{
		"init container": {b.InitContainerStatuses, a.InitContainerStatuses},
		"container":      {b.ContainerStatuses, a.ContainerStatuses},
		"debugger":       {b.EphemeralContainerStatuses, a.EphemeralContainerStatuses},
	} {
		for i := range lists[0] {
			old := &lists[0][i]
			at := slices.IndexFunc(lists[1], func(c v1.ContainerStatus) bool { return c.Name == old.Name })
			if at < 0 {
				say("the status of %s %s is gone", kind, old.Name)
				continue
			}
			for _, step := range containerStepsBack(old, &lists[1][at], leaving) {
				say("%s %s: %s", kind, old.Name, step)
			}
		}
	}
	slices.Sort(steps)
	return steps
}

// restarted says whether a container's end or restart explains what changed.
func restarted(before, after *v1.Pod) bool {
	for i := range before.Status.ContainerStatuses {
		old := &before.Status.ContainerStatuses[i]
		now := harness.ContainerStatus(after, old.Name)
		if now.RestartCount > old.RestartCount || old.State.Running != nil && now.State.Running == nil {
			return true
		}
	}
	return false
}

func containerStepsBack(old, now *v1.ContainerStatus, leaving bool) []string {
	var steps []string
	say := func(format string, args ...any) { steps = append(steps, fmt.Sprintf(format, args...)) }
	if now.RestartCount < old.RestartCount {
		say("%d restarts, then %d", old.RestartCount, now.RestartCount)
	}
	if old.LastTerminationState.Terminated != nil && now.LastTerminationState.Terminated == nil {
		say("the last state is forgotten")
	}
	if old.ContainerID != "" && now.ContainerID == "" {
		say("the containerID is forgotten, state %s", asJSON(now.State))
	}
	if old.ContainerID != now.ContainerID {
		if old.ContainerID != "" && now.RestartCount == old.RestartCount {
			say("another container, %s then %s, without a restart being told", old.ContainerID, now.ContainerID)
		}
		return steps
	}
	if old.ContainerID == "" {
		return steps
	}
	switch {
	case old.State.Running != nil && now.State.Running != nil:
		if !old.State.Running.StartedAt.Equal(&now.State.Running.StartedAt) {
			say("started at %s, then %s", old.State.Running.StartedAt, now.State.Running.StartedAt)
		}
		if ptrTrue(old.Started) && !ptrTrue(now.Started) {
			say("it had started, then not")
		}
		if old.Ready && !now.Ready && !leaving {
			say("it was ready, then not")
		}
	case old.State.Running != nil && now.State.Waiting != nil && now.LastTerminationState.Terminated == nil:
		say("it ran, then it waits: %s", asJSON(now.State.Waiting))
	case old.State.Terminated != nil && now.State.Running != nil:
		say("it had ended, then it runs")
	case old.State.Terminated != nil && now.State.Terminated != nil && !reflect.DeepEqual(old.State.Terminated, now.State.Terminated):
		say("it ended so: %s, then so: %s", asJSON(old.State.Terminated), asJSON(now.State.Terminated))
	}
	for what, values := range map[string][2]any{
		"image": {old.Image, now.Image}, "imageID": {old.ImageID, now.ImageID}, "allocatedResources": {quantities(old.AllocatedResources), quantities(now.AllocatedResources)},
		"resources": {old.Resources, now.Resources}, "volumeMounts": {old.VolumeMounts, now.VolumeMounts}, "user": {old.User, now.User}, "stopSignal": {old.StopSignal, now.StopSignal},
	} {
		if !reflect.ValueOf(values[0]).IsZero() && asJSON(values[0]) != asJSON(values[1]) {
			say("%s %s, then %s", what, asJSON(values[0]), asJSON(values[1]))
		}
	}
	return steps
}

func ptrTrue(b *bool) bool { return b != nil && *b }

// A resize that the upstream kubelet has written down and not made when it is
// killed is made by this one, and what this one resizes is not resized again by
// upstream.
func TestSwitchKubeletsWhileResizing(t *testing.T) {
	if harness.Upstream() {
		t.Skip("it needs two kubelets")
	}
	s := &handover{t: t, ns: namespace(t)}
	t.Cleanup(s.backToOurs)
	s.replace("upstream", (*harness.Kubelet).Stop)
	pod := create(t, s.ns, "resize.yaml", "NAME", "resize")
	waitReady(t, s.ns, "resize")
	kubelet.Kill()
	pod = resize(t, pod, map[string]amounts{"main": "100m/300m 64Mi/128Mi"})
	writeAllocated(t, pod, "main")
	s.replace("ours", func(*harness.Kubelet) bool { return true })
	pod = waitResized(t, pod)
	pod = waitResized(t, resize(t, pod, map[string]amounts{"strict": "20m/100m 32Mi/64Mi"}))
	if got := restarts(pod); got != "side 0 main 0 strict 1" {
		t.Errorf("restarts: %s", got)
	}
	s.replace("upstream", (*harness.Kubelet).Stop)
	// It has looked at all containers when it has done this.
	pod = waitResized(t, resize(t, pod, map[string]amounts{"main": "50m/100m 32Mi/64Mi"}))
	if got := restarts(pod); got != "side 0 main 0 strict 1" {
		t.Errorf("restarts under upstream again: %s", got)
	}
}

// writeAllocated writes down what a container asks for as allocated, in the
// place of the upstream kubelet.
func writeAllocated(t *testing.T, pod *v1.Pod, container string) {
	t.Helper()
	const path = "/var/lib/kubelet/allocated_pods_state"
	body, err := os.ReadFile(node.Path(path))
	if err != nil {
		t.Fatal(err)
	}
	var outer struct {
		Data     string `json:"data"`
		Checksum uint64 `json:"checksum"`
	}
	var inner struct {
		Entries map[types.UID]map[string]any `json:"entries"`
	}
	if err := errors.Join(json.Unmarshal(body, &outer), json.Unmarshal([]byte(outer.Data), &inner)); err != nil {
		t.Fatal(err)
	}
	for _, c := range pod.Spec.Containers {
		if c.Name == container {
			inner.Entries[pod.UID]["ContainerResources"].(map[string]any)[container] = c.Resources
		}
	}
	data, err := json.Marshal(inner)
	if err != nil {
		t.Fatal(err)
	}
	sum := fnv.New32a()
	fmt.Fprint(sum, dump.ForHash(string(data)))
	outer.Data, outer.Checksum = string(data), uint64(sum.Sum32())
	if body, err = json.Marshal(outer); err != nil {
		t.Fatal(err)
	}
	if err := node.WriteFile(path, string(body), 0o600); err != nil {
		t.Fatal(err)
	}
}
