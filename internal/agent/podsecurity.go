package agent

import (
	"fmt"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/config"
	"kubelet/internal/explain"
	"kubelet/internal/security/podsecurity"
)

// newPodSecurity puts the policy of --pod-security-config in force; nil
// without one.
func (a *Agent) newPodSecurity() (*podsecurity.File, error) {
	if a.cfg.PodSecurity == nil {
		return nil, nil
	}
	// Event and explanation outlive the directory that the kubelet was
	// started in.
	path, err := filepath.Abs(a.cfg.Flags.PodSecurityConfig)
	if err != nil {
		return nil, fmt.Errorf("find pod security policy: %w", err)
	}
	file, err := podsecurity.NewFile(podsecurity.FileConfig{
		Path: path, Node: a.nodeName,
		Read:    func() (*podsecurity.Configuration, error) { return config.ReadPodSecurity(path) },
		Changed: func() { a.queue.Recheck() },
		Problem: func(err error) { a.podSecurityProblem(path, err) },
	}, *a.cfg.PodSecurity)
	if err != nil {
		return nil, fmt.Errorf("set up pod security: %w", err)
	}
	return file, nil
}

// podSecurityProblem says where people look that the file is not what is in
// force.
func (a *Agent) podSecurityProblem(path string, err error) {
	uid := types.UID("pod-security:" + path)
	if err == nil {
		a.explain.Delete(uid)
		a.recorder.NodeEvent(v1.EventTypeNormal, "PodSecurityConfigRead", path+" can be read again and is in force")
		return
	}
	// It is listed as /NAME, like a pod without a namespace.
	a.explain.Set(explain.Entry{UID: uid, Name: strings.TrimPrefix(path, "/"), Stage: explain.Source,
		WaitsFor: "the pod security policy to be mended; the one before stays in force", LastError: err.Error()})
	a.recorder.NodeEvent(v1.EventTypeWarning, "PodSecurityConfigInvalid", "The pod security policy stays as it was: "+err.Error())
	a.signalRows()
}
