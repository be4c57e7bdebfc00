package validate

import (
	"encoding/json"
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A static pod is not scheduled, but its node affinity and tolerations are
// judged at admission, and its mirror goes through the API server.

func (c *check) scheduling(spec *field.Path) {
	s := c.spec
	c.tolerations(s.Tolerations, spec.Child("tolerations"))
	if s.Affinity != nil {
		c.affinity(s.Affinity, spec.Child("affinity"))
	}
	c.spread(spec.Child("topologySpreadConstraints"))
	if g := s.SchedulingGroup; g != nil {
		p := spec.Child("schedulingGroup", "podGroupName")
		if g.PodGroupName == nil {
			c.required(p, "")
		} else {
			c.all(p, *g.PodGroupName, apivalidation.NameIsDNSSubdomain(*g.PodGroupName, false))
		}
		if len(s.EvictionResponders) > 0 {
			c.forbidden(spec.Child("schedulingGroup"), "does not go with evictionResponders")
		}
	}
}

// tolerationsKey is where tolerations stood before they were a field.
const tolerationsKey = "scheduler.alpha.kubernetes.io/tolerations"

func (c *check) tolerationsAnnotation(p *field.Path) {
	value := c.annotations[tolerationsKey]
	if value == "" {
		return
	}
	var list []v1.Toleration
	if err := json.Unmarshal([]byte(value), &list); err != nil {
		c.invalid(p.Key(tolerationsKey), value, err.Error())
		return
	}
	c.tolerations(list, p.Key(tolerationsKey))
}

func (c *check) tolerations(list []v1.Toleration, p *field.Path) {
	for i, t := range list {
		at := p.Index(i)
		if t.Key != "" {
			c.add(metavalidation.ValidateLabelName(t.Key, at.Child("key")))
		} else if t.Operator != v1.TolerationOpExists {
			c.invalid(at.Child("operator"), t.Operator, "must be Exists where no key is given")
		}
		if t.TolerationSeconds != nil && t.Effect != v1.TaintEffectNoExecute {
			c.invalid(at.Child("effect"), t.Effect, "must be NoExecute where tolerationSeconds is set")
		}
		switch t.Operator {
		case v1.TolerationOpEqual, "":
			c.all(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))
		case v1.TolerationOpExists:
			if t.Value != "" {
				c.invalid(at.Child("value"), t.Value, "must be empty with operator Exists")
			}
		case v1.TolerationOpLt, v1.TolerationOpGt:
			if !c.o.TaintTolerationComparisonOperators {
				c.errs = append(c.errs, field.NotSupported(at.Child("operator"), t.Operator, []v1.TolerationOperator{v1.TolerationOpEqual, v1.TolerationOpExists}))
			} else if n, err := strconv.ParseInt(t.Value, 10, 64); err != nil || strconv.FormatInt(n, 10) != t.Value {
				c.invalid(at.Child("value"), t.Value, "must be a whole number in its shortest form")
			}
		default:
			c.errs = append(c.errs, field.NotSupported(at.Child("operator"), t.Operator, []v1.TolerationOperator{v1.TolerationOpEqual, v1.TolerationOpExists}))
		}
		if t.Effect != "" {
			oneOf(c, at.Child("effect"), t.Effect, v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule, v1.TaintEffectNoExecute)
		}
	}
}

const (
	required  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferred = "preferredDuringSchedulingIgnoredDuringExecution"
)

func (c *check) affinity(a *v1.Affinity, p *field.Path) {
	if n := a.NodeAffinity; n != nil {
		at := p.Child("nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			terms := at.Child(required, "nodeSelectorTerms")
			if len(r.NodeSelectorTerms) == 0 {
				c.required(terms, "")
			}
			for i := range r.NodeSelectorTerms {
				c.nodeTerm(&r.NodeSelectorTerms[i], true, terms.Index(i))
			}
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			term := &n.PreferredDuringSchedulingIgnoredDuringExecution[i]
			c.within(at.Child(preferred).Index(i).Child("weight"), int64(term.Weight), 1, 100)
			c.nodeTerm(&term.Preference, false, at.Child(preferred).Index(i).Child("preference"))
		}
	}
	if pa := a.PodAffinity; pa != nil {
		c.podTerms(pa.RequiredDuringSchedulingIgnoredDuringExecution, pa.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAffinity"))
	}
	if pa := a.PodAntiAffinity; pa != nil {
		c.podTerms(pa.RequiredDuringSchedulingIgnoredDuringExecution, pa.PreferredDuringSchedulingIgnoredDuringExecution, p.Child("podAntiAffinity"))
	}
}

// nodeTerm checks one term over a node's labels and fields. Values of
// preferences need not be label values: a term that never matches harms
// nobody.
func (c *check) nodeTerm(term *v1.NodeSelectorTerm, values bool, p *field.Path) {
	for i, r := range term.MatchExpressions {
		at := p.Child("matchExpressions").Index(i)
		switch r.Operator {
		case v1.NodeSelectorOpIn, v1.NodeSelectorOpNotIn:
			if len(r.Values) == 0 {
				c.required(at.Child("values"), "goes with operator In and NotIn")
			}
		case v1.NodeSelectorOpExists, v1.NodeSelectorOpDoesNotExist:
			if len(r.Values) > 0 {
				c.forbidden(at.Child("values"), "does not go with operator Exists and DoesNotExist")
			}
		case v1.NodeSelectorOpGt, v1.NodeSelectorOpLt:
			if len(r.Values) != 1 {
				c.required(at.Child("values"), "needs exactly one with operator Gt and Lt")
			}
		default:
			c.invalid(at.Child("operator"), r.Operator, "must be In, NotIn, Exists, DoesNotExist, Gt or Lt")
		}
		c.add(metavalidation.ValidateLabelName(r.Key, at.Child("key")))
		if values {
			for j, v := range r.Values {
				c.all(at.Child("values").Index(j), v, validation.IsValidLabelValue(v))
			}
		}
	}
	for i, r := range term.MatchFields {
		at := p.Child("matchFields").Index(i)
		if r.Operator != v1.NodeSelectorOpIn && r.Operator != v1.NodeSelectorOpNotIn {
			c.invalid(at.Child("operator"), r.Operator, "must be In or NotIn")
		} else if len(r.Values) != 1 {
			c.required(at.Child("values"), "needs exactly one")
		}
		if r.Key != metav1.ObjectNameField {
			c.invalid(at.Child("key"), r.Key, "must be "+metav1.ObjectNameField)
			continue
		}
		for j, v := range r.Values {
			c.all(at.Child("values").Index(j), v, apivalidation.NameIsDNSSubdomain(v, false))
		}
	}
}

func (c *check) podTerms(must []v1.PodAffinityTerm, may []v1.WeightedPodAffinityTerm, p *field.Path) {
	for i := range must {
		c.podTerm(&must[i], p.Child(required).Index(i))
	}
	for i := range may {
		at := p.Child(preferred).Index(i)
		c.within(at.Child("weight"), int64(may[i].Weight), 1, 100)
		c.podTerm(&may[i].PodAffinityTerm, at.Child("podAffinityTerm"))
	}
}

func (c *check) podTerm(term *v1.PodAffinityTerm, p *field.Path) {
	c.selector(term.LabelSelector, p.Child("labelSelector"))
	c.selector(term.NamespaceSelector, p.Child("namespaceSelector"))
	for i, name := range term.Namespaces {
		c.all(p.Child("namespaces").Index(i), name, apivalidation.ValidateNamespaceName(name, false))
	}
	c.labelKeys(term.MatchLabelKeys, term.MismatchLabelKeys, term.LabelSelector, p)
	c.add(metavalidation.ValidateLabelName(term.TopologyKey, p.Child("topologyKey")))
}

func (c *check) selector(s *metav1.LabelSelector, p *field.Path) {
	c.add(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, p))
}

// labelKeys checks matchLabelKeys and mismatchLabelKeys (KEP-3633). A key of
// matchLabelKeys stands in the selector once already, put there by the API
// server; a second time it comes from the user.
func (c *check) labelKeys(match, mismatch []string, selector *metav1.LabelSelector, p *field.Path) {
	for _, keys := range []struct {
		name string
		list []string
	}{{"matchLabelKeys", match}, {"mismatchLabelKeys", mismatch}} {
		if len(keys.list) > 0 && selector == nil {
			c.forbidden(p.Child(keys.name), "needs labelSelector to be set")
			continue
		}
		for i, key := range keys.list {
			c.add(metavalidation.ValidateLabelName(key, p.Child(keys.name).Index(i)))
		}
	}
	if selector != nil {
		seen := map[string]bool{}
		for key := range selector.MatchLabels {
			seen[key] = true
		}
		for _, e := range selector.MatchExpressions {
			if seen[e.Key] && slices.Contains(match, e.Key) {
				c.invalid(p.Child("matchLabelKeys"), e.Key, "stands in labelSelector as well")
			}
			seen[e.Key] = true
		}
	}
	for i, key := range match {
		if slices.Contains(mismatch, key) {
			c.invalid(p.Child("matchLabelKeys").Index(i), key, "stands in mismatchLabelKeys as well")
		}
	}
}

func (c *check) spread(p *field.Path) {
	list := c.spec.TopologySpreadConstraints
	for i, s := range list {
		at := p.Index(i)
		if s.MaxSkew <= 0 {
			c.invalid(at.Child("maxSkew"), s.MaxSkew, "must be greater than 0")
		}
		c.nonEmpty(at.Child("topologyKey"), s.TopologyKey)
		oneOf(c, at.Child("whenUnsatisfiable"), s.WhenUnsatisfiable, v1.DoNotSchedule, v1.ScheduleAnyway)
		for _, other := range list[i+1:] {
			if s.TopologyKey == other.TopologyKey && s.WhenUnsatisfiable == other.WhenUnsatisfiable {
				c.duplicate(at, s.TopologyKey+", "+string(s.WhenUnsatisfiable))
			}
		}
		if s.MinDomains != nil {
			if *s.MinDomains <= 0 {
				c.invalid(at.Child("minDomains"), *s.MinDomains, "must be greater than 0")
			}
			if s.WhenUnsatisfiable != v1.DoNotSchedule {
				c.invalid(at.Child("minDomains"), *s.MinDomains, "goes with whenUnsatisfiable DoNotSchedule only")
			}
		}
		oneOfPtr(c, at.Child("nodeAffinityPolicy"), s.NodeAffinityPolicy, v1.NodeInclusionPolicyIgnore, v1.NodeInclusionPolicyHonor)
		oneOfPtr(c, at.Child("nodeTaintsPolicy"), s.NodeTaintsPolicy, v1.NodeInclusionPolicyIgnore, v1.NodeInclusionPolicyHonor)
		c.labelKeys(s.MatchLabelKeys, nil, s.LabelSelector, at)
		c.selector(s.LabelSelector, at.Child("labelSelector"))
	}
}
