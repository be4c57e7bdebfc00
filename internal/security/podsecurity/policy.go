package podsecurity

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
)

// Policy is a configuration that is ready to judge by. It never changes.
type Policy struct {
	configuration Configuration
	node          string
	enforce       ruleSet
	audit         ruleSet
	warn          ruleSet
}

// ruleSet is what holds in one mode.
type ruleSet struct {
	// name of the level and version, "baseline:latest".
	name     string
	standard []rule
	limits   Limits
}

// New makes a policy of a valid configuration. node is the node's name, which
// static pods carry at the end of theirs.
func New(c Configuration, node string) (*Policy, error) {
	if problems := c.Validate(); len(problems) > 0 {
		errs := make([]error, len(problems))
		for i, p := range problems {
			errs[i] = fmt.Errorf("%s: %s", p.Field, p.Reason)
		}
		return nil, fmt.Errorf("make pod security policy: %w", errors.Join(errs...))
	}
	return &Policy{
		configuration: c, node: node,
		enforce: compile(c.PodSecurity.Enforce),
		audit:   compile(c.PodSecurity.Audit),
		warn:    compile(c.PodSecurity.Warn),
	}, nil
}

func compile(r Rules) ruleSet {
	level, version, _ := r.standard() // validated
	return ruleSet{
		name:     string(level) + ":" + version.String(),
		standard: standardRules(level, version),
		limits:   r.Limits,
	}
}

// Violation is one rule that a pod breaks.
type Violation struct {
	// Rule is the check's id in the Pod Security Standards, or the name of a
	// limit: "privileged", "limits.hostPaths".
	Rule string
	// Fields are the paths of the fields to blame, those of missing fields
	// included: spec.containers[0].securityContext.privileged.
	Fields []string
	// Detail says what is wrong with which values.
	Detail string
	// Advice says what to do.
	Advice string
}

// Verdict is what one mode has to say about a pod that is not within its
// rules.
type Verdict struct {
	// Rules that hold: "baseline:latest", with "and limits" if there are any.
	Rules      string
	Violations []Violation
}

// Findings are the verdicts of all modes, nil where there is nothing to say.
type Findings struct {
	Enforce, Audit, Warn *Verdict
}

// Evaluate judges a pod by all modes.
func (p *Policy) Evaluate(pod *v1.Pod) Findings {
	if p.exempt(pod) {
		return Findings{}
	}
	return Findings{Enforce: p.enforce.judge(pod), Audit: p.audit.judge(pod), Warn: p.warn.judge(pod)}
}

func (p *Policy) exempt(pod *v1.Pod) bool {
	e := &p.configuration.PodSecurity.Exemptions
	if slices.Contains(e.Namespaces, pod.Namespace) {
		return true
	}
	if class := pod.Spec.RuntimeClassName; class != nil && *class != "" && slices.Contains(e.RuntimeClasses, *class) {
		return true
	}
	if !podspec.IsStatic(pod) {
		return false
	}
	name := pod.Namespace + "/" + strings.TrimSuffix(pod.Name, "-"+p.node)
	return slices.Contains(e.StaticPods, allStaticPods) || slices.Contains(e.StaticPods, name)
}

func (s *ruleSet) judge(pod *v1.Pod) *Verdict {
	var found []Violation
	for _, r := range s.standard {
		if result := r.check(&pod.ObjectMeta, &pod.Spec); !result.Allowed {
			detail := result.ForbiddenDetail
			if detail == "" {
				detail = result.ForbiddenReason
			}
			found = append(found, Violation{Rule: string(r.id), Fields: r.locate(pod), Detail: detail, Advice: r.advice})
		}
	}
	found = append(found, s.limits.judge(pod)...)
	if len(found) == 0 {
		return nil
	}
	name := s.name
	if !s.limits.empty() {
		name += " and limits"
	}
	return &Verdict{Rules: name, Violations: found}
}

// mostFields bounds how many fields of one violation are shown.
const mostFields = 5

// String is the violation in a line.
func (v Violation) String() string {
	fields := strings.Join(v.Fields[:min(len(v.Fields), mostFields)], ", ")
	if more := len(v.Fields) - mostFields; more > 0 {
		fields += fmt.Sprintf(" and %d more", more)
	}
	if fields == "" {
		fields = "the pod"
	}
	return fmt.Sprintf("rule %s: %s: %s (%s)", v.Rule, fields, v.Advice, v.Detail)
}

// String lists the violations.
func (v *Verdict) String() string {
	lines := make([]string, len(v.Violations))
	for i, violation := range v.Violations {
		lines[i] = violation.String()
	}
	return strings.Join(lines, "; ")
}

// Names lists the rules that are broken.
func (v *Verdict) Names() []string {
	names := make([]string, len(v.Violations))
	for i := range v.Violations {
		names[i] = v.Violations[i].Rule
	}
	return names
}

// Fields lists the fields to blame.
func (v *Verdict) Fields() []string {
	var fields []string
	for i := range v.Violations {
		fields = append(fields, v.Violations[i].Fields...)
	}
	return fields
}
