package lifecycle

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/observed"
	"kubelet/internal/volume"
)

// TestVolumesWaitForTheGate: of a pod that waits at the start gate nothing is
// mounted yet, and mounting goes on beside the sandbox once it is let in. A
// pod that is taken back mounts nothing.
func TestVolumesWaitForTheGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := NewGate(1, 1, 1, nil)
		leave, err := gate.Enter(t.Context(), Class{})
		if err != nil {
			t.Fatal(err)
		}
		runtime := &slowRuntime{release: make(chan struct{})}
		volumes := &countedVolumes{}
		steps := &Steps{Runtime: runtime, Volumes: volumes, Refresher: runtime, Configs: plainConfigs{}, Events: noEvents{}, Gate: gate,
			IsUnknown: func(error) bool { return false }}
		pod := &v1.Pod{}
		pod.UID = "u1"
		plan := func() []Action {
			in := Input{Pod: pod, BesideSandbox: true, Observed: observed.Pod{UID: "u1"}}
			in.History.Begin(Action{Key: Key{Kind: Prepare}}, in.Now)
			in.History.End(Result{Key: Key{Kind: Prepare}}, in.Now)
			return Plan(in).Actions
		}
		results := make(chan Result, 4)
		begin := func(ctx context.Context) {
			for _, a := range plan() {
				go func() { results <- steps.Do(ctx, Scene{Pod: pod}, a) }()
			}
			synctest.Wait()
		}

		ctx, cancel := context.WithCancel(t.Context())
		begin(ctx)
		if volumes.mounts != 0 {
			t.Error("mounted while the sandbox waits at the gate")
		}
		cancel()
		for range 2 {
			if r := <-results; !errors.Is(r.Err, context.Canceled) {
				t.Errorf("%s of a pod that was taken back: %v", r.Kind, r.Err)
			}
		}

		begin(t.Context())
		leave()
		synctest.Wait()
		if volumes.mounts != 1 || runtime.ran != 1 {
			t.Errorf("let in: %d mounts, %d sandboxes under way, want one each", volumes.mounts, runtime.ran)
		}
		close(runtime.release)
		for range 2 {
			if r := <-results; r.Err != nil {
				t.Errorf("%s: %v", r.Kind, r.Err)
			}
		}
	})
}

// slowRuntime makes sandboxes when it is released.
type slowRuntime struct {
	Runtime
	release chan struct{}
	ran     int
}

func (r *slowRuntime) RunPodSandbox(ctx context.Context, _ *runtimeapi.PodSandboxConfig, _ string) (string, error) {
	r.ran++
	<-r.release
	return "s1", nil
}

func (r *slowRuntime) Refresh(context.Context, types.UID) error                          { return nil }
func (r *slowRuntime) RefreshSandbox(context.Context, types.UID, string) error           { return nil }
func (r *slowRuntime) RefreshContainer(context.Context, types.UID, string, string) error { return nil }

type countedVolumes struct {
	Volumes
	mounts int
}

func (v *countedVolumes) Mount(ctx context.Context, _ *v1.Pod) (volume.Mounts, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	v.mounts++
	return nil, nil
}

type plainConfigs struct{ Configs }

func (plainConfigs) Sandbox(*v1.Pod, uint32, string) (*runtimeapi.PodSandboxConfig, error) {
	return &runtimeapi.PodSandboxConfig{}, nil
}
func (plainConfigs) RuntimeHandler(context.Context, *v1.Pod) (string, error) { return "", nil }

type noEvents struct{}

func (noEvents) Event(*v1.Pod, string, string, string, string) {}
