package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/test/harness"
)

// starts counts how often each recording container was really started.
func starts(ns string) map[string]int {
	counts := map[string]int{}
	for _, line := range readRecord(ns) {
		if name, ok := strings.CutPrefix(line, "start "); ok {
			counts[name]++
		}
	}
	return counts
}

// kills is how often TestKubeletKilledAtRandom kills; KILLS changes it.
func kills(t *testing.T) int {
	text, ok := os.LookupEnv("KILLS")
	if !ok {
		return 200
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("KILLS: %v", err)
	}
	return n
}

// The kubelet is killed at random moments while pods start, run and stop. No
// pod notices: every container is started once, none is restarted, no pod that
// is wanted stops being ready, and nothing is left of those that go.
func TestKubeletKilledAtRandom(t *testing.T) {
	upstreamFails(t, "5 restarts in 18 kills were measured")
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("KILL_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("KILL_SEED: %v", err)
		}
	}
	t.Logf("KILL_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	ns := namespace(t)
	recorder := node.Cluster.Record(t.Context(), ns)
	defer recorder.Stop()
	pods := node.Cluster.Client.CoreV1().Pods(ns)
	make1 := func(name string) {
		verb, grace := "pause", "3"
		if strings.HasSuffix(name, "0") { // every tenth must be killed
			verb, grace = "stubborn", "1"
		}
		create(t, ns, "record.yaml", "NAME", name, "VERB", verb, "ARG", "", "GRACE", grace, "DIR", record(ns))
	}
	for i := range 8 {
		make1(fmt.Sprintf("steady-%d", i+1))
	}
	for i := range 8 {
		waitStarted(t, ns, fmt.Sprintf("steady-%d", i+1))
	}

	// Pods come and go meanwhile, about as fast as the node can follow.
	stop, stopped := make(chan struct{}), make(chan struct{})
	created := 8
	go func() {
		defer close(stopped)
		var alive []string
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(700 * time.Millisecond):
			}
			name := fmt.Sprintf("churn-%d", i)
			make1(name)
			created++
			alive = append(alive, name)
			if len(alive) > 6 {
				// In the order of age and yet sometimes one that has not started.
				victim := 0
				if i%5 == 0 {
					victim = len(alive) - 1
				}
				if err := pods.Delete(t.Context(), alive[victim], metav1.DeleteOptions{}); err != nil {
					t.Errorf("delete %s: %v", alive[victim], err)
				}
				alive = slices.Delete(alive, victim, victim+1)
			}
		}
	}()
	n := kills(t)
	for i := range n {
		wait := time.Duration(random.Int64N(int64(time.Second)))
		if i%10 == 9 { // now and then it gets somewhere
			wait += 2 * time.Second
		}
		time.Sleep(wait)
		kubelet.Kill()
		if err := kubelet.Start(); err != nil {
			t.Fatal(err)
		}
		if (i+1)%50 == 0 {
			t.Logf("%d kills, %d pods created", i+1, created)
		}
	}
	close(stop)
	<-stopped
	if err := kubelet.WaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}

	list, err := pods.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wanted := map[types.UID]bool{}
	for _, pod := range list.Items {
		if pod.DeletionTimestamp != nil {
			waitGone(t, ns, pod.Name)
			continue
		}
		waitStarted(t, ns, pod.Name)
		wanted[pod.UID] = true
	}
	recorder.Stop()
	for _, d := range recorder.Disturbances() {
		t.Error(d)
	}
	for name, count := range starts(ns) {
		if count != 1 {
			t.Errorf("the container of %s was started %d times", name, count)
		}
	}
	var gone []types.UID
	for uid := range recorder.Pods() {
		if !wanted[uid] {
			gone = append(gone, uid)
		}
	}
	t.Logf("%d kills; %d pods stayed, %d came and went", n, len(wanted), len(gone))
	if len(gone) > 0 {
		noTrace(t, gone...)
	}
}

// The API server goes away for a while: pods run on and are restarted by their
// policy, and what happened meanwhile is told when it is back.
func TestAPIServerAway(t *testing.T) {
	ns := namespace(t)
	for _, name := range []string{"steady", "killed"} {
		create(t, ns, "record.yaml", "NAME", name, "VERB", "pause", "ARG", "", "GRACE", "3", "DIR", record(ns))
	}
	createText(t, ns, agentPod("ends", []string{"wait-file", "/record/end"}, "  volumeMounts: [{name: record, mountPath: /record}]",
		"restartPolicy: Never", "volumes: [{name: record, hostPath: {path: "+record(ns)+", type: DirectoryOrCreate}}]"))
	for _, name := range []string{"steady", "killed", "ends"} {
		waitReady(t, ns, name)
	}

	node.Cluster.StopAPIServer()
	c, err := node.WaitContainer(t.Context(), ns, "killed", "main")
	if err == nil {
		err = node.KillContainer(t.Context(), c.Id)
	}
	if err == nil {
		err = node.WriteFile(record(ns)+"/end", "", 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the killed container to be started again without the API server", func(context.Context) error {
		if n := starts(ns)["killed"]; n < 2 {
			return fmt.Errorf("%d starts", n)
		}
		return nil
	})
	if err := node.Cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitPhase(t, ns, "ends", v1.PodSucceeded)
	waitPod(t, ns, "killed", "the restart to be told", func(p *v1.Pod) bool {
		s := harness.ContainerStatus(p, "main")
		return s.RestartCount == 1 && s.State.Running != nil
	})
	waitReady(t, ns, "steady")
	if n := starts(ns)["steady"]; n != 1 {
		t.Errorf("a pod that nobody disturbed was started %d times", n)
	}
	if err := kubelet.WaitHealthy(t.Context()); err != nil {
		t.Error(err)
	}
}

// A kubelet that is killed while there is no API server starts without one and
// leaves the containers alone; a final state it saw before is told after all.
func TestKilledWhileAPIServerAway(t *testing.T) {
	ns := namespace(t)
	create(t, ns, "record.yaml", "NAME", "steady", "VERB", "pause", "ARG", "", "GRACE", "3", "DIR", record(ns))
	createText(t, ns, agentPod("ends", []string{"wait-file", "/record/end"}, "  volumeMounts: [{name: record, mountPath: /record}]",
		"restartPolicy: Never", "volumes: [{name: record, hostPath: {path: "+record(ns)+", type: DirectoryOrCreate}}]"))
	waitReady(t, ns, "steady")
	waitReady(t, ns, "ends")
	recorder := node.Cluster.Record(t.Context(), ns)
	defer recorder.Stop()

	node.Cluster.StopAPIServer()
	if err := node.WriteFile(record(ns)+"/end", "", 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, "the container to end", func(ctx context.Context) error {
		if c, err := node.RunningContainer(ctx, ns, "ends", "main"); err == nil {
			return fmt.Errorf("%s still runs", c.Id)
		}
		return nil
	})
	for range 3 {
		kubelet.Kill()
		if err := kubelet.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(700 * time.Millisecond) // long enough to do harm
	}
	if err := node.Cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := kubelet.WaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitPhase(t, ns, "ends", v1.PodSucceeded)
	waitReady(t, ns, "steady")
	if n := starts(ns)["steady"]; n != 1 {
		t.Errorf("a pod that nobody disturbed was started %d times", n)
	}
	recorder.Stop()
	for _, d := range recorder.Disturbances() {
		if !strings.HasPrefix(d, "ends ") {
			t.Error(d)
		}
	}
}

// containerd dies and comes back: its containers never stopped, and nothing is
// started anew.
func TestContainerdKilled(t *testing.T) {
	ns := namespace(t)
	recorder := node.Cluster.Record(t.Context(), ns)
	defer recorder.Stop()
	for i := range 4 {
		create(t, ns, "record.yaml", "NAME", fmt.Sprintf("steady-%d", i), "VERB", "pause", "ARG", "", "GRACE", "3", "DIR", record(ns))
	}
	for i := range 4 {
		waitReady(t, ns, fmt.Sprintf("steady-%d", i))
	}
	node.KillContainerd()
	time.Sleep(time.Second) // time for hasty conclusions
	if err := node.StartContainerd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := kubelet.WaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	create(t, ns, "record.yaml", "NAME", "after", "VERB", "pause", "ARG", "", "GRACE", "3", "DIR", record(ns))
	waitReady(t, ns, "after")
	recorder.Stop()
	for _, d := range recorder.Disturbances() {
		t.Error(d)
	}
	for name, count := range starts(ns) {
		if count != 1 {
			t.Errorf("the container of %s was started %d times", name, count)
		}
	}
}

// Many pods wait for a network that a pod on the host's network has yet to
// provide. That pod does not queue behind them.
func TestNetworkPluginNeedsPod(t *testing.T) {
	ns := namespace(t)
	if err := node.InstallCNIPlugin("testdata/bridge-when-agent-runs.sh"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.RestoreCNI(); err != nil {
			t.Error(err)
		}
	})
	const ahead = 50
	for i := range ahead {
		createText(t, ns, agentPod(fmt.Sprintf("waits-%d", i), []string{"pause"}))
	}
	until(t, "network set-ups to hang", func(context.Context) error {
		entries, err := os.ReadDir(node.Path("/run/cni-test/waiting"))
		if err == nil && len(entries) < 4 {
			err = fmt.Errorf("%d wait", len(entries))
		}
		return err
	})
	create(t, ns, "network-agent.yaml")
	waitReady(t, ns, "network-agent")
	for i := range ahead {
		waitPodFor(t, 3*time.Minute, ns, fmt.Sprintf("waits-%d", i), "Ready", harness.Ready)
	}
	n, err := node.Cluster.Client.CoreV1().Nodes().Get(t.Context(), node.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady && c.Status != v1.ConditionTrue {
			t.Errorf("the node is not Ready: %s", c.Message)
		}
	}
}

// What a pod's start costs the API server. At 50 requests a second, which is
// the default limit, and 8 pods a second, which is more than two cores start,
// a pod may take 6 requests of the main client; events have a limit of their
// own.
func TestRequestsPerPodStart(t *testing.T) {
	ns := namespace(t)
	const count, limit, eventLimit = 20, 6, 4
	create(t, ns, "shared-objects.yaml")
	_, mark, err := node.Cluster.Requests(0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range count {
		create(t, ns, "with-objects.yaml", "NAME", fmt.Sprintf("pod-%d", i))
	}
	for i := range count {
		waitReady(t, ns, fmt.Sprintf("pod-%d", i))
	}
	requests, _, err := node.Cluster.Requests(mark)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	main, events := 0, 0
	for _, r := range requests {
		switch r.Resource {
		case "leases", "nodes", "nodes/status", "csinodes":
			continue // costs of the node, not of the pods
		case "events":
			events++
		default:
			main++
		}
		kinds[r.Verb+" "+r.Resource]++
	}
	t.Logf("%d pods: %.1f requests and %.1f events a pod: %v", count, float64(main)/count, float64(events)/count, kinds)
	if !harness.Upstream() && (main > limit*count || events > eventLimit*count) {
		t.Errorf("%.1f requests and %.1f events a pod, want at most %d and %d", float64(main)/count, float64(events)/count, limit, eventLimit)
	}
}

// A Deployment is made, scaled, rolled and deleted by the real controllers.
func TestDeployment(t *testing.T) {
	ns := namespace(t)
	create(t, ns, "deployment.yaml")
	deployments := node.Cluster.Client.AppsV1().Deployments(ns)
	settled := func(what string, replicas int32) {
		t.Helper()
		err := harness.Until(t.Context(), 4*time.Minute, what, func(ctx context.Context) error {
			d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			s := d.Status
			if s.ObservedGeneration < d.Generation || s.Replicas != replicas || s.ReadyReplicas != replicas || s.UpdatedReplicas != replicas || s.AvailableReplicas != replicas {
				return fmt.Errorf("%d replicas, %d updated, %d ready, %d available", s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	patch := func(text string) {
		t.Helper()
		if _, err := deployments.Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(text), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	timed := func(what string, replicas int32) {
		t.Helper()
		settled(what, replicas)
		t.Logf("%s after %s", what, time.Since(start).Round(100*time.Millisecond))
		start = time.Now()
	}
	timed("30 replicas ready", 30)
	patch(`{"spec":{"replicas":5}}`)
	timed("scaled to 5", 5)
	patch(`{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"localhost/test/agent:2"}]}}}}`)
	timed("rolled", 5)

	pods, err := node.Cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		t.Fatal(err)
	}
	running := 0
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && p.Spec.Containers[0].Image == "localhost/test/agent:2" {
			running++
		}
	}
	if running != 5 {
		t.Errorf("%d pods have the new image, want 5", running)
	}
	if err := deployments.Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationForeground)}); err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		waitGone(t, ns, p.Name)
	}
	// No other pod is on the node now, so nothing at all may be left.
	noTrace(t)
	t.Logf("deleted without a trace after %s", time.Since(start).Round(100*time.Millisecond))
}

// TestAdmission puts pods on the node that it has to reject.
func TestAdmission(t *testing.T) {
	ns := namespace(t)
	// A kubelet that allows as many pods as there are and two more.
	list, err := node.Cluster.Client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 0 {
		t.Fatalf("%d pods are left of other tests", len(list.Items))
	}
	defer restartWith(t, nil)
	restartWith(t, func(c *kubeletConfig) { c.MaxPods = 2 })
	direct := func(name string, more ...string) string {
		return agentPod(name, []string{"pause"}, append(more, "nodeName: "+node.Name)...)
	}
	rejected := func(name, reason, word string) {
		t.Helper()
		pod := waitPhase(t, ns, name, v1.PodFailed)
		if pod.Status.Reason != reason || !strings.Contains(pod.Status.Message, word) {
			t.Errorf("%s: got %s %q, want %s and %q in the message", name, pod.Status.Reason, pod.Status.Message, reason, word)
		}
		event := waitEvent(t, ns, name, reason)
		if event.Type != v1.EventTypeWarning {
			t.Errorf("%s: the event is %s, want a Warning", name, event.Type)
		}
	}

	createText(t, ns, direct("cpu", "  resources: {requests: {cpu: 1000}}"))
	createText(t, ns, direct("memory", "  resources: {requests: {memory: 100Ti}}"))
	createText(t, ns, direct("selector", "nodeSelector: {no: where}"))
	createText(t, ns, direct("windows", "os: {name: windows}"))
	rejected("cpu", "OutOfcpu", "cpu")
	rejected("memory", "OutOfmemory", "memory")
	rejected("selector", "NodeAffinity", "ode")
	rejected("windows", "PodOSNotSupported", "OS")

	for _, name := range []string{"one", "two"} {
		createText(t, ns, direct(name))
		waitReady(t, ns, name)
	}
	createText(t, ns, direct("three"))
	rejected("three", "OutOfpods", "pods")

	// Accepted pods stay, even under a kubelet that would not accept them.
	restartWith(t, func(c *kubeletConfig) { c.MaxPods = 1 })
	for _, name := range []string{"one", "two"} {
		if pod := waitReady(t, ns, name); harness.ContainerStatus(pod, "main").RestartCount != 0 {
			t.Errorf("%s was restarted", name)
		}
	}
	restartWith(t, nil)

	taint := []byte(`{"spec":{"taints":[{"key":"test","effect":"NoExecute"}]}}`)
	nodes := node.Cluster.Client.CoreV1().Nodes()
	if _, err := nodes.Patch(t.Context(), node.Name, types.StrategicMergePatchType, taint, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := nodes.Patch(context.Background(), node.Name, types.MergePatchType, []byte(`{"spec":{"taints":null}}`), metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}()
	// The kubelet sees the taint by its own watch of the node, in a moment.
	for i := 0; ; i++ {
		name := fmt.Sprintf("tainted-%d", i)
		createText(t, ns, direct(name))
		pod := waitPod(t, ns, name, "a verdict", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed || harness.Ready(p) })
		if pod.Status.Phase == v1.PodFailed {
			rejected(name, "TaintToleration", "taint")
			break
		}
		if i == 5 {
			t.Fatal("pods are accepted in spite of the taint")
		}
	}
}

// restartWith restarts the kubelet with a changed configuration; nil is the
// ordinary one, to which the caller returns in the end.
func restartWith(t *testing.T, configure func(*kubeletConfig)) {
	t.Helper()
	if !kubelet.Stop() {
		t.Error("the kubelet did not end within 10 s of SIGTERM")
	}
	kubelet = node.NewKubelet(harness.KubeletOptions{Configure: configure, Flags: nodeFlags})
	if err := kubelet.StartAndWait(context.Background()); err != nil {
		t.Fatal(err)
	}
}
