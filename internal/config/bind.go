package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	netutils "k8s.io/utils/net"
)

// syntax says how the text of a flag is read where the type of the field does
// not tell.
type syntax int

const (
	plain     syntax = iota
	ipAddress        // an IP address, checked
	lessThan         // signal<threshold[,…]
	onePair          // key=value; a comma belongs to the value
)

// bindField defines a flag whose target is the field of kc that path names.
// Pointers are allocated, so kc must have been defaulted.
func bindField(fs *pflag.FlagSet, def fieldFlag, kc *kubeletconfig.KubeletConfiguration) {
	field, ok := fieldByPath(reflect.ValueOf(kc).Elem(), def.field)
	if !ok {
		panic("config: flag --" + def.name + " names no field: " + def.field)
	}
	if field.Kind() == reflect.Pointer {
		if field.IsNil() {
			field.Set(reflect.New(field.Type().Elem()))
		}
		field = field.Elem()
	}
	name, short, usage := def.name, def.short, def.usage
	switch p := field.Addr().Interface().(type) {
	case *bool:
		fs.BoolVarP(p, name, short, *p, usage)
	case *int32:
		fs.Int32VarP(p, name, short, *p, usage)
	case *int64:
		fs.Int64VarP(p, name, short, *p, usage)
	case *string:
		if def.syntax == ipAddress {
			fs.VarP((*ipValue)(p), name, short, usage)
			return
		}
		fs.StringVarP(p, name, short, *p, usage)
	case *kubeletconfig.KubeletAuthorizationMode:
		fs.StringVarP((*string)(p), name, short, string(*p), usage)
	case *metav1.Duration:
		fs.DurationVarP(&p.Duration, name, short, p.Duration, usage)
	case *logsapi.TimeOrMetaDuration:
		fs.DurationVarP(&p.Duration.Duration, name, short, p.Duration.Duration, usage)
	case *logsapi.VerbosityLevel:
		fs.VarP(logsapi.VerbosityLevelPflag(p), name, short, usage)
	case *logsapi.VModuleConfiguration:
		fs.VarP(logsapi.VModuleConfigurationPflag(p), name, short, usage)
	case *resource.QuantityValue:
		fs.VarP(p, name, short, usage)
	case *[]string:
		fs.StringSliceVarP(p, name, short, *p, usage)
	case *map[string]bool:
		fs.VarP(cliflag.NewMapStringBool(p), name, short, usage)
	case *map[string][]string:
		fs.VarP(cliflag.NewColonSeparatedMultimapStringString(p), name, short, usage)
	case *map[string]string:
		switch def.syntax {
		case lessThan:
			fs.VarP(cliflag.NewLangleSeparatedMapStringString(p), name, short, usage)
		case onePair:
			fs.VarP(cliflag.NewMapStringStringNoSplit(p), name, short, usage)
		default:
			fs.VarP(cliflag.NewMapStringString(p), name, short, usage)
		}
	case *[]v1.Taint:
		fs.VarP(&taintsValue{p}, name, short, usage)
	case *[]kubeletconfig.MemoryReservation:
		fs.VarP(&reservedMemoryValue{target: p}, name, short, usage)
	default:
		panic(fmt.Sprintf("config: no flag syntax for the type %T of --%s", p, def.name))
	}
}

// fieldByPath walks the JSON names of a dotted path.
func fieldByPath(v reflect.Value, path string) (reflect.Value, bool) {
	for step := range strings.SplitSeq(path, ".") {
		for v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return reflect.Value{}, false
			}
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return reflect.Value{}, false
		}
		field, ok := jsonField(v.Type(), step)
		if !ok {
			return reflect.Value{}, false
		}
		v = v.FieldByIndex(field.Index)
	}
	return v, true
}

// ipValue is a string that must hold an IP address. An empty value leaves the
// target as it is, as upstream does.
type ipValue string

func (v *ipValue) Set(s string) error {
	if s == "" {
		return nil
	}
	// Leading zeros were always accepted in Kubernetes' own options.
	if netutils.ParseIPSloppy(s) == nil {
		return fmt.Errorf("%q is not an IP address", s)
	}
	*v = ipValue(s)
	return nil
}

func (v *ipValue) String() string { return string(*v) }
func (v *ipValue) Type() string   { return "ip" }

// taintsValue reads key=value:effect[,…]. Each use of the flag replaces the
// taints of the one before.
type taintsValue struct{ target *[]v1.Taint }

func (v *taintsValue) Set(s string) error {
	if s == "" {
		*v.target = nil
		return nil
	}
	var taints []v1.Taint
	for spec := range strings.SplitSeq(s, ",") {
		taint, err := parseTaint(spec)
		if err != nil {
			return err
		}
		same := func(other v1.Taint) bool { return taint.MatchTaint(&other) }
		if slices.ContainsFunc(taints, same) {
			return fmt.Errorf("taint %q: key %s is given twice with effect %s", spec, taint.Key, taint.Effect)
		}
		taints = append(taints, taint)
	}
	*v.target = taints
	return nil
}

func parseTaint(spec string) (v1.Taint, error) {
	head, effect, ok := strings.Cut(spec, ":")
	if !ok {
		return v1.Taint{}, fmt.Errorf("taint %q has no effect: expected key=value:effect", spec)
	}
	taint := v1.Taint{Effect: v1.TaintEffect(effect)}
	taint.Key, taint.Value, _ = strings.Cut(head, "=")
	if err := checkTaint(taint); err != nil {
		return v1.Taint{}, fmt.Errorf("taint %q: %w", spec, err)
	}
	return taint, nil
}

func checkTaint(taint v1.Taint) error {
	if problems := validation.IsQualifiedName(taint.Key); len(problems) > 0 {
		return fmt.Errorf("key %q: %s", taint.Key, strings.Join(problems, "; "))
	}
	if problems := validation.IsValidLabelValue(taint.Value); len(problems) > 0 {
		return fmt.Errorf("value %q: %s", taint.Value, strings.Join(problems, "; "))
	}
	switch taint.Effect {
	case v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule, v1.TaintEffectNoExecute:
		return nil
	}
	return fmt.Errorf("effect %q is none of NoSchedule, PreferNoSchedule, NoExecute", taint.Effect)
}

func (v *taintsValue) String() string {
	if v.target == nil {
		return ""
	}
	specs := make([]string, len(*v.target))
	for i, t := range *v.target {
		specs[i] = fmt.Sprintf("%s=%s:%s", t.Key, t.Value, t.Effect)
	}
	return strings.Join(specs, ",")
}

func (v *taintsValue) Type() string { return "key=value:effect,..." }

// reservedMemoryValue reads node:type=quantity[,type=quantity][;node:…]. The
// first use of the flag replaces, each further one adds.
type reservedMemoryValue struct {
	target *[]kubeletconfig.MemoryReservation
	used   bool
}

func (v *reservedMemoryValue) Set(s string) error {
	if s == "" {
		return nil
	}
	if !v.used {
		*v.target, v.used = nil, true
	}
	for part := range strings.SplitSeq(s, ";") {
		node, limits, ok := strings.Cut(part, ":")
		if !ok || strings.Contains(limits, ":") {
			return fmt.Errorf("%q: expected node:type=quantity[,type=quantity...]", part)
		}
		number, err := strconv.ParseInt(node, 10, 32)
		if err != nil {
			return fmt.Errorf("%q: NUMA node %q is not a number", part, node)
		}
		reservation := kubeletconfig.MemoryReservation{NumaNode: int32(number), Limits: v1.ResourceList{}}
		for limit := range strings.SplitSeq(limits, ",") {
			kind, amount, ok := strings.Cut(limit, "=")
			if !ok {
				return fmt.Errorf("%q: expected type=quantity", limit)
			}
			if !isMemoryType(v1.ResourceName(kind)) {
				return fmt.Errorf("%q: type %q is neither memory nor hugepages-<size>", part, kind)
			}
			quantity, err := resource.ParseQuantity(amount)
			if err != nil {
				return fmt.Errorf("%q: %q is not a quantity", part, amount)
			}
			reservation.Limits[v1.ResourceName(kind)] = quantity
		}
		*v.target = append(*v.target, reservation)
	}
	return nil
}

func (v *reservedMemoryValue) String() string {
	if v.target == nil {
		return ""
	}
	var parts []string
	for _, reservation := range *v.target {
		var limits []string
		for kind, quantity := range reservation.Limits {
			limits = append(limits, fmt.Sprintf("%s=%s", kind, quantity.String()))
		}
		slices.Sort(limits)
		parts = append(parts, fmt.Sprintf("%d:%s", reservation.NumaNode, strings.Join(limits, ",")))
	}
	slices.Sort(parts)
	return strings.Join(parts, ";")
}

func (v *reservedMemoryValue) Type() string { return "node:type=quantity,..." }

func isMemoryType(name v1.ResourceName) bool {
	return name == v1.ResourceMemory || strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
}
