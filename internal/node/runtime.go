package node

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// statusTimeout bounds one question to the runtime.
	statusTimeout = 5 * time.Second
	// runtimeGrace is how long a runtime may fail to answer, while it
	// restarts or is overloaded, before the node counts as not ready; the
	// same as upstream's.
	runtimeGrace = 30 * time.Second
)

// runtimeProbe asks the runtime for its status. It is used by one goroutine.
type runtimeProbe struct {
	runtime Runtime
	// answered is when the runtime answered last.
	answered time.Time
	err      error
	last     *runtimeapi.StatusResponse
	// version is name://version; asked for again after an outage.
	version string
}

func newRuntimeProbe(runtime Runtime) *runtimeProbe { return &runtimeProbe{runtime: runtime} }

func (p *runtimeProbe) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	status, err := p.runtime.Status(ctx, false)
	if err == nil && status.GetStatus() == nil {
		err = errors.New("the runtime answered without a status")
	}
	if err != nil {
		p.err, p.version = err, ""
		return
	}
	p.answered, p.err, p.last = time.Now(), nil, status
	if p.version != "" {
		return
	}
	if version, err := p.runtime.Version(ctx); err == nil {
		p.version = version.GetRuntimeName() + "://" + version.GetRuntimeVersion()
	}
}

// problems says why the runtime keeps the node from being ready.
func (p *runtimeProbe) problems(now time.Time) []error {
	if p.last == nil {
		if p.err != nil {
			return []error{fmt.Errorf("container runtime has not answered since the kubelet started: %w", p.err)}
		}
		return []error{errors.New("container runtime status check may not have completed yet")}
	}
	if p.err != nil && now.Sub(p.answered) >= runtimeGrace {
		return []error{fmt.Errorf("container runtime is down: no answer since %s: %w", p.answered.UTC().Format(time.RFC3339), p.err)}
	}
	var out []error
	conditions := p.last.GetStatus().GetConditions()
	if problem := unmet(conditions, runtimeapi.RuntimeReady); problem != "" {
		out = append(out, fmt.Errorf("container runtime not ready: %s", problem))
	}
	if problem := unmet(conditions, runtimeapi.NetworkReady); problem != "" {
		out = append(out, fmt.Errorf("container runtime network not ready: %s", problem))
	}
	return out
}

// unmet describes a runtime condition that is not true, "" if it is.
func unmet(conditions []*runtimeapi.RuntimeCondition, kind string) string {
	for _, condition := range conditions {
		if condition.GetType() != kind {
			continue
		}
		if condition.GetStatus() {
			return ""
		}
		return fmt.Sprintf("%s=false reason:%s message:%s", kind, condition.GetReason(), condition.GetMessage())
	}
	return kind + " is not reported"
}

// handlers returns the runtime's handlers by name; nil if it never answered.
func (p *runtimeProbe) handlers() []v1.NodeRuntimeHandler {
	if p.last == nil {
		return nil
	}
	handlers := p.last.GetRuntimeHandlers()
	out := make([]v1.NodeRuntimeHandler, 0, len(handlers))
	for _, handler := range handlers {
		readOnly := handler.GetFeatures().GetRecursiveReadOnlyMounts()
		userNamespaces := handler.GetFeatures().GetUserNamespaces()
		out = append(out, v1.NodeRuntimeHandler{Name: handler.GetName(), Features: &v1.NodeRuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: &readOnly, UserNamespaces: &userNamespaces,
		}})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func (p *runtimeProbe) features() *v1.NodeFeatures {
	features := p.last.GetFeatures()
	if features == nil {
		return nil
	}
	policy := features.GetSupplementalGroupsPolicy()
	return &v1.NodeFeatures{SupplementalGroupsPolicy: &policy}
}
