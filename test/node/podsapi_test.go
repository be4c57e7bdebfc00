package node

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	v1 "k8s.io/api/core/v1"
	podsv1alpha1 "k8s.io/kubelet/pkg/apis/pods/v1alpha1"

	"kubelet/test/harness"
)

// A program on the node follows a pod from its manifest to its end over the
// pods API.
func TestPodsAPI(t *testing.T) {
	t.Parallel()
	conn, err := grpc.NewClient("unix://"+node.Path("/var/lib/kubelet/pods-api/pods-api.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pods := podsv1alpha1.NewPodsClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := pods.WatchPods(ctx, &podsv1alpha1.WatchPodsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	// await reads events until one of the pod is as wanted.
	await := func(what string, wanted func(podsv1alpha1.EventType, *v1.Pod) bool) *v1.Pod {
		t.Helper()
		for last := ""; ; {
			e, err := stream.Recv()
			if err != nil {
				t.Fatalf("waiting for %s: %v; last: %s", what, err, last)
			}
			pod := &v1.Pod{}
			if err := pod.Unmarshal(e.Pod); err != nil {
				t.Fatal(err)
			}
			if e.Type == podsv1alpha1.EventType_INITIAL_SYNC_COMPLETE || pod.Name == "followed"+suffix {
				last = fmt.Sprintf("%s %s", e.Type, harness.PodSummary(pod))
				if wanted(e.Type, pod) {
					return pod
				}
			}
		}
	}
	await("the end of the list", func(e podsv1alpha1.EventType, _ *v1.Pod) bool {
		return e == podsv1alpha1.EventType_INITIAL_SYNC_COMPLETE
	})
	put(t, "one.yaml", "followed", "GRACE", "1", "POLICY", "Always", "ARGS", "sleep", "MORE", "")
	await("a new pod", func(e podsv1alpha1.EventType, _ *v1.Pod) bool { return e == podsv1alpha1.EventType_ADDED })
	pod := await("it to be ready", func(e podsv1alpha1.EventType, p *v1.Pod) bool { return harness.Ready(p) })
	if len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Running == nil || pod.Status.PodIP == "" {
		t.Errorf("ready, but %s", harness.PodSummary(pod))
	}
	one, err := pods.GetPod(ctx, &podsv1alpha1.GetPodRequest{PodUID: string(pod.UID)})
	if err != nil {
		t.Fatal(err)
	}
	got := &v1.Pod{}
	if err := got.Unmarshal(one.Pod); err != nil || got.Name != pod.Name || !harness.Ready(got) {
		t.Errorf("got %s, %v", harness.PodSummary(got), err)
	}
	if list, err := pods.ListPods(ctx, &podsv1alpha1.ListPodsRequest{}); err != nil || len(list.Pods) == 0 {
		t.Errorf("list: %v, %v", list, err)
	}
	remove(t, "followed.yaml")
	end := await("its end", func(e podsv1alpha1.EventType, _ *v1.Pod) bool { return e == podsv1alpha1.EventType_DELETED })
	if end.UID != pod.UID || end.Namespace != pod.Namespace {
		t.Errorf("the end is of %s/%s %s", end.Namespace, end.Name, end.UID)
	}
	stopped(t, "followed")
}
