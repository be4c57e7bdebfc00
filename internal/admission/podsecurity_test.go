package admission

import (
	"strings"
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/security/podsecurity"
)

// Audit and warning are said once: when a judged pod is accepted or rejected,
// not while it waits, and not of pods that were accepted before.
func TestRemarksOncePerPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, func(c *Config) {
			checks, err := Chain(Options{PodSecurity: newPolicy(t, podsecurity.Settings{
				Enforce: podsecurity.Rules{Level: "baseline"},
				Audit:   podsecurity.Rules{Level: "restricted"},
				Warn:    podsecurity.Rules{Level: "restricted", Version: "v1.30"},
			})})
			if err != nil {
				t.Fatal(err)
			}
			c.Checks = checks
		})
		ask := func(p *v1.Pod, accepted bool) {
			r := b.request(p)
			r.Accepted = accepted
			r.Remark = func(m Remark) {
				for _, part := range []string{"rule allowPrivilegeEscalation: spec.containers[0].securityContext.allowPrivilegeEscalation: set it to false", "/etc/policy.yaml"} {
					if !strings.Contains(m.Message, part) {
						t.Errorf("message without %q: %s", part, m.Message)
					}
				}
				b.answers = append(b.answers, p.Name+" "+m.Type+" "+m.Reason+map[bool]string{true: " logged"}[len(m.Log) > 0])
			}
			b.queue.Submit(r)
		}
		ask(pod("earlier", "1", 9), true)
		b.expect("earlier accept")
		b.queue.Leaving("earlier")
		ask(pod("waits", "2", 5), false)
		b.expect("waits wait OutOfcpu")
		b.queue.Recheck()
		b.expect()
		b.queue.Forget("earlier")
		b.expect("waits Normal PodSecurityAudit logged", "waits Warning PodSecurityWarning", "waits accept")
		b.queue.Recheck()
		ask(pod("waits", "2", 5), false)
		b.expect("waits accept")
		forbidden := pod("forbidden", "0", 1)
		forbidden.Spec.HostPID = true
		ask(forbidden, false)
		b.expect("forbidden Normal PodSecurityAudit logged", "forbidden reject PodSecurityViolation")
	})
}
