package admission

import (
	"fmt"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/security/podsecurity"
)

const (
	reasonPodSecurity        = "PodSecurityViolation"
	reasonPodSecurityAudit   = "PodSecurityAudit"
	reasonPodSecurityWarning = "PodSecurityWarning"
)

// PodSecurityPolicy is the node's own policy (package security/podsecurity),
// which may be replaced between one pod and the next.
type PodSecurityPolicy interface {
	Policy() *podsecurity.Policy
	// Path of the file that it is from.
	Path() string
}

// PodSecurity rejects a pod that breaks the rules that are enforced, and
// remarks on one that breaks those that are audited or warned of. Of a pod
// that is rejected only the audit tells more, as in the API server.
func PodSecurity(p PodSecurityPolicy) Check {
	text := func(what string, v *podsecurity.Verdict) string {
		return fmt.Sprintf("%s pod security %q of this node (%s): %s", what, v.Rules, p.Path(), v)
	}
	return Check{
		Name: "PodSecurity",
		Judge: func(in Input) Verdict {
			v := p.Policy().Evaluate(in.Pod).Enforce
			if v == nil {
				return Verdict{}
			}
			return reject(reasonPodSecurity, text("violates", v))
		},
		Remarks: func(in Input) (said []Remark) {
			found := p.Policy().Evaluate(in.Pod)
			if v := found.Audit; v != nil {
				said = append(said, Remark{Type: v1.EventTypeNormal, Reason: reasonPodSecurityAudit, Message: text("would violate", v),
					Log: []any{"rules", v.Rules, "violated", v.Names(), "fields", v.Fields(), "enforced", found.Enforce != nil}})
			}
			if v := found.Warn; v != nil && found.Enforce == nil {
				said = append(said, Remark{Type: v1.EventTypeWarning, Reason: reasonPodSecurityWarning, Message: text("would violate", v)})
			}
			return said
		},
	}
}
