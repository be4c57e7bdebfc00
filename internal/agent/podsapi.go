package agent

import (
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/desired"
	"kubelet/internal/server/podsapi"
)

// newPodsAPI makes the socket on which programs of the node read its pods; nil
// if its gate is off.
func (a *Agent) newPodsAPI() (*podsapi.Server, error) {
	if !a.cfg.Gates.Enabled("PodsAPI") {
		return nil, nil
	}
	return podsapi.New(podsapi.Config{
		Path:       filepath.Join(a.cfg.Flags.RootDir, podsapi.SocketPath),
		Registerer: a.registry, Ready: a.desired.Synced,
		Status: func(uid types.UID) (v1.PodStatus, bool) { return a.writer.Get(uid) },
		Pods: func() (pods []*v1.Pod) {
			for _, d := range a.desired.List() {
				pods = append(pods, d.Pod)
			}
			return pods
		},
		Pod: func(uid types.UID) (*v1.Pod, bool) {
			d, ok := a.desired.Get(uid)
			return d.Pod, ok
		},
	})
}

// forgetting is the table of wanted pods for the workers, who drop what has
// ended from it: then a pod is gone for the pods API, too.
type forgetting struct {
	*desired.Table
	a *Agent
}

// Forget drops the tombstone of a pod.
func (f forgetting) Forget(uid types.UID) {
	f.Table.Forget(uid)
	f.a.podsAPI.Wake(uid)
}
