package simulation

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
)

// What the tests ask of the world, each an error while it is not so.

// podRuns: the API says so, ready, and of the containers that the runtime has.
func (w *world) podRuns(names ...string) func() error {
	return func() error {
		for _, name := range names {
			pod := w.api.get(name)
			if pod == nil {
				return fmt.Errorf("pod %s is not in the API", name)
			}
			if pod.Status.Phase != v1.PodRunning {
				return fmt.Errorf("pod %s is %s", name, pod.Status.Phase)
			}
			for _, c := range pod.Status.Conditions {
				if c.Type == v1.PodReady && c.Status != v1.ConditionTrue {
					return fmt.Errorf("pod %s is not ready: %s", name, c.Message)
				}
			}
			if err := w.told(pod); err != nil {
				return fmt.Errorf("pod %s: %w", name, err)
			}
		}
		return nil
	}
}

// podEnded: the API says so, and the node holds nothing of it but its records.
func (w *world) podEnded(name string) func() error {
	return func() error {
		pod := w.api.get(name)
		if pod == nil || !podspec.IsTerminalPhase(pod.Status.Phase) {
			return fmt.Errorf("pod %s has not ended", name)
		}
		if err := w.released(pod.UID); err != nil {
			return err
		}
		return w.told(pod)
	}
}

// podGone: neither the API nor the runtime has it.
func (w *world) podGone(names ...string) func() error {
	return func() error {
		for _, name := range names {
			if w.api.get(name) != nil {
				return fmt.Errorf("pod %s is still in the API", name)
			}
			if n := len(w.runtime.Sandboxes(name)); n > 0 {
				return fmt.Errorf("pod %s has %d sandboxes", name, n)
			}
		}
		return nil
	}
}

// changes counts the calls that have changed something in the runtime.
func (w *world) changes() int {
	n := 0
	for call, count := range w.runtime.Counts() {
		switch call {
		case "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "CreateContainer", "StartContainer", "StopContainer", "RemoveContainer", "PullImage":
			n += count
		}
	}
	return n
}

// writes counts the calls that have changed something in the API, events
// apart.
func (w *world) writes() int {
	return w.api.counted("patch") + w.api.counted("create") + w.api.counted("delete")
}

// elapsed is how long f takes on the fake clock.
func elapsed(f func()) time.Duration {
	begin := time.Now()
	f()
	return time.Since(begin)
}

func names(prefix string, n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("%s-%03d", prefix, i))
	}
	return list
}
