package config

import (
	"maps"

	"github.com/spf13/pflag"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// VisitFlags calls visit for every flag, with its default, by name. It is for
// documentation and for tests that compare with upstream.
func VisitFlags(visit func(*pflag.Flag)) {
	fs := allFlags()
	fs.SortFlags = true
	fs.VisitAll(visit)
}

// FlagFields maps the flags that mirror fields to the paths of the fields.
func FlagFields() map[string]string {
	fields := map[string]string{}
	for _, def := range fieldFlags() {
		fields[def.name] = def.field
	}
	return fields
}

// Fields lists every field of KubeletConfiguration by its path.
func Fields() []string { return configFields() }

// allFlags defines all flags with their defaults.
func allFlags() *pflag.FlagSet {
	kc := &kubeletconfig.KubeletConfiguration{}
	applyDefaults(kc, defaultGates())
	applyFlagDefaults(kc)
	return newFlagSet(new(Flags), kc)
}

// FlagValues are the values of all flags as they are in effect, for people who
// look at a running kubelet. Headers, which carry credentials, are masked.
func (c *Config) FlagValues() map[string]string {
	values := maps.Clone(c.OwnFlags)
	kc := c.Kubelet.DeepCopy()
	if len(kc.StaticPodURLHeader) > 0 {
		kc.StaticPodURLHeader = map[string][]string{"<masked>": {"<masked>"}}
	}
	set := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	for _, def := range fieldFlags() {
		bindField(set, def, kc)
	}
	set.VisitAll(func(f *pflag.Flag) { values[f.Name] = f.Value.String() })
	return values
}
