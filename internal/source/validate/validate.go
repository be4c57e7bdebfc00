// Package validate says whether a static pod may run: the rules of the pod
// API for a new pod (https://kubernetes.io/docs/reference/kubernetes-api/),
// and those for pods that no API server stands behind. It is pure: it reads
// the pod, which has its defaults already, and writes nothing.
//
// The verdicts equal the upstream kubelet's for every manifest; the
// differential test in test/tooling/manifestdiff holds the two together. The
// exceptions, all of them stricter and none met in a working manifest, are
// listed at Pod.
package validate

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kubelet/internal/podspec"
)

// Options are the feature gates that change a rule, by the gates' names.
type Options struct {
	ContainerRestartRules                bool
	InPlacePodVerticalScaling            bool
	PodLevelResources                    bool
	RestartAllContainersOnContainerExits bool
	SELinuxMount                         bool
	StrictIPCIDRValidation               bool
	TaintTolerationComparisonOperators   bool
	UserNamespacesHostNetworkSupport     bool
}

// Defaults returns the gates as they are in Kubernetes 1.37.
func Defaults() Options {
	return Options{
		ContainerRestartRules:                true,
		InPlacePodVerticalScaling:            true,
		PodLevelResources:                    true,
		RestartAllContainersOnContainerExits: true,
		SELinuxMount:                         true,
		StrictIPCIDRValidation:               true,
	}
}

// Pod returns everything that keeps a static pod from running, nothing if it
// may. The pod carries its defaults, its node's name and its full name.
//
// Stricter than upstream: the mirror annotation is refused (upstream takes
// such a pod for the API object of another one and never runs it), and so is
// a UID that cannot be the name of a directory.
func Pod(pod *v1.Pod, o Options) field.ErrorList {
	c := &check{o: o, spec: &pod.Spec, annotations: pod.Annotations}
	c.metadata(pod, field.NewPath("metadata"))
	spec := field.NewPath("spec")
	c.references(spec)
	c.volumes(spec.Child("volumes"))
	c.containers(spec)
	c.podResources(spec.Child("resources"))
	c.podSecurity(spec)
	c.network(spec)
	c.scheduling(spec)
	c.identity(spec)
	c.windows(spec)
	return c.errs
}

// check collects the errors of one pod.
type check struct {
	o           Options
	spec        *v1.PodSpec
	annotations map[string]string
	errs        field.ErrorList
}

func (c *check) invalid(p *field.Path, value any, why string) {
	c.errs = append(c.errs, field.Invalid(p, value, why))
}

func (c *check) required(p *field.Path, why string) {
	c.errs = append(c.errs, field.Required(p, why))
}

func (c *check) forbidden(p *field.Path, why string) {
	c.errs = append(c.errs, field.Forbidden(p, why))
}

func (c *check) duplicate(p *field.Path, value any) {
	c.errs = append(c.errs, field.Duplicate(p, value))
}

// all adds one error for each message.
func (c *check) all(p *field.Path, value any, messages []string) {
	for _, m := range messages {
		c.invalid(p, value, m)
	}
}

func (c *check) add(errs field.ErrorList) { c.errs = append(c.errs, errs...) }

// nonEmpty asks for a value.
func (c *check) nonEmpty(p *field.Path, value string) bool {
	if value == "" {
		c.required(p, "")
	}
	return value != ""
}

// within asks for a number of a range, bounds included.
func (c *check) within(p *field.Path, value, low, high int64) {
	if value < low || value > high {
		c.invalid(p, value, fmt.Sprintf("must be between %d and %d", low, high))
	}
}

// oneOf asks for one of the values that the API knows.
func oneOf[T ~string](c *check, p *field.Path, value T, known ...T) bool {
	if slices.Contains(known, value) {
		return true
	}
	if value == "" {
		c.required(p, "must be one of "+join(known))
		return false
	}
	c.errs = append(c.errs, field.NotSupported(p, value, known))
	return false
}

// oneOfPtr is oneOf for a field that may be unset.
func oneOfPtr[T ~string](c *check, p *field.Path, value *T, known ...T) {
	if value != nil {
		oneOf(c, p, *value, known...)
	}
}

func join[T ~string](values []T) string {
	s := make([]string, len(values))
	for i, v := range values {
		s[i] = string(v)
	}
	return strings.Join(s, ", ")
}

// eachContainer calls f for init, regular and ephemeral containers.
func (c *check) eachContainer(spec *field.Path, f func(ctr *v1.Container, p *field.Path)) {
	for i := range c.spec.InitContainers {
		f(&c.spec.InitContainers[i], spec.Child("initContainers").Index(i))
	}
	for i := range c.spec.Containers {
		f(&c.spec.Containers[i], spec.Child("containers").Index(i))
	}
	for i := range c.spec.EphemeralContainers {
		f((*v1.Container)(&c.spec.EphemeralContainers[i].EphemeralContainerCommon), spec.Child("ephemeralContainers").Index(i))
	}
}

func (c *check) metadata(pod *v1.Pod, meta *field.Path) {
	c.add(apivalidation.ValidateObjectMeta(&pod.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, meta))
	for i, f := range pod.Finalizers {
		if !strings.Contains(f, "/") && !slices.Contains([]string{"kubernetes", "orphan", "foregroundDeletion"}, f) {
			c.invalid(meta.Child("finalizers").Index(i), f, "must be qualified by a domain, as in example.com/name")
		}
	}
	if uid := string(pod.UID); !pathElement(uid) {
		c.invalid(meta.Child("uid"), uid, "names the pod's directory: at most 128 letters, digits, '-', '_' and '.', not starting with '.'; leave it out to have one made")
	}
	annotations := meta.Child("annotations")
	if podspec.IsMirror(pod) {
		c.forbidden(annotations.Key(podspec.MirrorAnnotation), "marks an API object that mirrors a static pod; remove it from the manifest")
	}
	c.tolerationsAnnotation(annotations)
	if cost, ok := pod.Annotations[v1.PodDeletionCost]; ok && !deletionCost(cost) {
		c.invalid(annotations.Key(v1.PodDeletionCost), cost, "must be a whole number of 32 bits")
	}
	c.securityAnnotations(annotations)
}

// pathElement says whether a UID can name a directory.
func pathElement(uid string) bool {
	if uid == "" || len(uid) > 128 || uid[0] == '.' {
		return false
	}
	for _, r := range uid {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '-', r == '_', r == '.':
		default:
			return false
		}
	}
	return true
}

// identity checks what the pod calls itself and whom it belongs to.
func (c *check) identity(spec *field.Path) {
	s := c.spec
	c.all(spec.Child("nodeName"), s.NodeName, apivalidation.NameIsDNSSubdomain(s.NodeName, false))
	if s.PriorityClassName != "" {
		c.all(spec.Child("priorityClassName"), s.PriorityClassName, apivalidation.NameIsDNSSubdomain(s.PriorityClassName, false))
	}
	if s.RuntimeClassName != nil {
		c.all(spec.Child("runtimeClassName"), *s.RuntimeClassName, apivalidation.NameIsDNSSubdomain(*s.RuntimeClassName, false))
	}
	oneOfPtr(c, spec.Child("preemptionPolicy"), s.PreemptionPolicy, v1.PreemptLowerPriority, v1.PreemptNever)
	oneOf(c, spec.Child("restartPolicy"), s.RestartPolicy, v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever)
	if s.ActiveDeadlineSeconds != nil {
		c.within(spec.Child("activeDeadlineSeconds"), *s.ActiveDeadlineSeconds, 1, 1<<31-1)
	}
	if s.TerminationGracePeriodSeconds == nil {
		c.required(spec.Child("terminationGracePeriodSeconds"), "")
	} else if *s.TerminationGracePeriodSeconds < 0 {
		c.invalid(spec.Child("terminationGracePeriodSeconds"), *s.TerminationGracePeriodSeconds, "must not be negative")
	}
	if s.Overhead != nil {
		c.resources(spec.Child("overhead"), &v1.ResourceRequirements{Limits: s.Overhead}, containerResource)
	}
	for i, gate := range s.ReadinessGates {
		c.all(spec.Child("readinessGates").Index(i).Child("conditionType"), gate.ConditionType, validation.IsQualifiedName(string(gate.ConditionType)))
	}
	c.add(metavalidation.ValidateLabels(s.NodeSelector, spec.Child("nodeSelector")))
}

// deletionCost says whether a pod-deletion-cost annotation is a canonical
// number: no plus sign, no leading zeros.
func deletionCost(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	if s == "" || s[0] == '+' || (s[0] == '0' && s != "0") {
		return false
	}
	var n int64
	if digits == "" {
		return false
	}
	for _, r := range digits {
		if r < '0' || r > '9' {
			return false
		}
		if n = n*10 + int64(r-'0'); n > 1<<31 {
			return false
		}
	}
	return n < 1<<31 || s[0] == '-'
}
