package config

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	utiljson "k8s.io/apimachinery/pkg/util/json"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"kubelet/internal/security/podsecurity"
)

// Config is the effective configuration of one kubelet.
type Config struct {
	Flags Flags
	// Kubelet is defaulted, merged and valid. featureGates holds what was set;
	// Gates says what follows from it.
	Kubelet kubeletconfig.KubeletConfiguration
	Gates   Gates
	// PodSecurity is the file of --pod-security-config, valid; nil without.
	PodSecurity *podsecurity.Configuration
	// Warnings are to be shown at start, one line each: fields that are not
	// known, settings that are accepted but not acted on, gates that will go.
	Warnings []string

	// OwnFlags are the values of the flags that mirror no field.
	OwnFlags map[string]string
}

// Parse reads the command line, and the files that it names, in the order of
// precedence: defaults, --config, drop-ins of --config-dir, flags. The error,
// if any, is of type Errors and lists everything that is wrong. With --help or
// --version only Flags is filled.
func Parse(args []string) (*Config, error) {
	p := parser{origins: origins{flags: map[string]string{}}}
	if done := p.readFlags(args); done {
		if len(p.problems) > 0 {
			return nil, p.problems.sorted()
		}
		return &Config{Flags: p.flags}, nil
	}
	readable := p.readFiles()
	podSecurity := p.readPodSecurity()
	p.resolveGates()
	if !readable {
		// Without a whole file, further findings would be about values that
		// nobody wrote.
		return nil, p.problems.sorted()
	}
	kc, err := p.merge()
	if err != nil {
		return nil, append(p.problems, Problem{Reason: err.Error()}).sorted()
	}
	cfg := &Config{Flags: p.flags, Kubelet: *kc, Gates: p.gates, PodSecurity: podSecurity, OwnFlags: p.ownFlags}
	p.problems = append(p.problems, validate(cfg, &p.origins)...)
	if len(p.problems) > 0 {
		return nil, p.problems.sorted()
	}
	cfg.Warnings = append(p.warnings, supportWarnings(cfg, p.defaults(), p.changed, &p.origins)...)
	cfg.Warnings = append(cfg.Warnings, p.remarks...)
	if names := p.mirroringFlags(); len(names) > 0 {
		cfg.Warnings = append(cfg.Warnings, fmt.Sprintf("flags that mirror configuration fields are deprecated, prefer the file of --config: --%s", strings.Join(names, ", --")))
	}
	return cfg, nil
}

// parser holds what is known in the middle of Parse.
type parser struct {
	flags    Flags
	given    []occurrence
	changed  map[string]bool // flags whose value differs from their default
	ownFlags map[string]string
	docs     []*document // --config first, then drop-ins
	gates    Gates
	origins  origins
	problems Errors
	warnings []string
	remarks  []string
}

// readFlags fills flags, and reports whether that is all there is to do.
func (p *parser) readFlags(args []string) (done bool) {
	scratch := p.flagBase(defaultGates())
	set := newFlagSet(&p.flags, scratch)
	p.given, p.problems = scan(set, args)
	for _, o := range p.given {
		if err := set.Set(o.flag.Name, o.value); err != nil {
			p.problems = append(p.problems, Problem{Source: "--" + o.flag.Name, Reason: flagReason(o, err)})
		}
	}
	p.ownFlags = map[string]string{}
	mirrors := FlagFields()
	set.VisitAll(func(f *pflag.Flag) {
		if _, mirror := mirrors[f.Name]; !mirror {
			p.ownFlags[f.Name] = f.Value.String()
		}
	})
	p.changed = map[string]bool{}
	set.Visit(func(f *pflag.Flag) { p.changed[f.Name] = f.Value.String() != f.DefValue })
	for _, def := range fieldFlags() {
		if slices.ContainsFunc(p.given, func(o occurrence) bool { return o.flag.Name == def.name }) {
			p.origins.flags[def.field] = def.name
		}
	}
	for name, advice := range deprecatedFlags() {
		if set.Changed(name) {
			p.remarks = append(p.remarks, fmt.Sprintf("--%s is deprecated: %s", name, advice))
		}
	}
	slices.Sort(p.remarks)
	return p.flags.Help || p.flags.Version != NoVersion
}

// flagReason cuts pflag's preamble, which repeats flag and value.
func flagReason(o occurrence, err error) string {
	reason := err.Error()
	if i := strings.Index(reason, " flag: "); i >= 0 {
		reason = reason[i+len(" flag: "):]
	}
	reason = strings.TrimPrefix(reason, "strconv.")
	if !strings.Contains(reason, o.value) {
		reason = fmt.Sprintf("%q: %s", o.value, reason)
	}
	return reason
}

// mirroringFlags lists the flags that were given and are deprecated because a
// field says the same.
func (p *parser) mirroringFlags() []string {
	var names []string
	for _, def := range fieldFlags() {
		if _, ok := p.origins.flags[def.field]; ok && !def.current {
			names = append(names, def.name)
		}
	}
	return names
}

// readFiles decodes --config and the drop-ins and reports whether all of them
// could be read.
func (p *parser) readFiles() bool {
	names, problem := p.fileNames()
	readable := problem == nil
	if problem != nil {
		p.problems = append(p.problems, *problem)
	}
	for _, name := range names {
		doc, err := readDocument(name, kubeletSchema())
		if err != nil {
			p.problems = append(p.problems, err.(Errors)...)
			readable = false
			continue
		}
		found := doc.check()
		p.problems = append(p.problems, found.wrong...)
		if p.flags.StrictConfig {
			p.problems = append(p.problems, found.odd...)
		} else {
			for _, odd := range found.odd {
				p.warnings = append(p.warnings, odd.String())
			}
		}
		p.docs = append(p.docs, doc)
	}
	p.origins.docs = p.docs
	return readable
}

// fileNames lists --config and, below --config-dir, every *.conf in the order
// in which they are merged.
func (p *parser) fileNames() ([]string, *Problem) {
	var names []string
	if p.flags.ConfigFile != "" {
		names = append(names, p.flags.ConfigFile)
	}
	if p.flags.ConfigDir == "" {
		return names, nil
	}
	err := filepath.WalkDir(p.flags.ConfigDir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && filepath.Ext(path) == ".conf" {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		return names, &Problem{Source: "--config-dir", Reason: fmt.Sprintf("%s cannot be read: %s", p.flags.ConfigDir, reasonOf(err))}
	}
	return names, nil
}

// resolveGates looks at files and flags together: the gates decide about some
// defaults, whichever place they were set in.
func (p *parser) resolveGates() {
	wanted := map[string]bool{}
	for _, doc := range p.docs {
		gates, _ := doc.tree["featureGates"].(map[string]any)
		for name, value := range gates {
			switch on := value.(type) {
			case bool:
				wanted[name] = on
			case nil:
				delete(wanted, name)
			}
		}
	}
	scratch := p.flagBase(defaultGates())
	p.applyGiven(scratch)
	maps.Copy(wanted, scratch.FeatureGates)

	gates, remarks := resolveGates(wanted, func(gate, reason string) {
		path := childPath("featureGates", gate)
		source := p.origins.of(path)
		if _, ok := scratch.FeatureGates[gate]; ok {
			source = "--feature-gates"
		}
		p.problems = append(p.problems, Problem{Source: source, Field: path, Reason: reason})
	})
	p.gates = gates
	p.remarks = append(p.remarks, remarks...)
}

// merge builds the effective configuration.
func (p *parser) merge() (*kubeletconfig.KubeletConfiguration, error) {
	base, drops := p.flagBase(p.gates), p.docs
	if p.flags.ConfigFile != "" {
		var err error
		if base, err = decode(p.docs[0].tree); err != nil {
			return nil, fmt.Errorf("%s: %w", p.docs[0].name, err)
		}
		applyDefaults(base, p.gates)
		defaultEvictionHard(base)
		resolvePaths(base, p.flags.ConfigFile)
		drops = p.docs[1:]
	}
	if len(drops) > 0 {
		tree, err := encode(base)
		if err != nil {
			return nil, err
		}
		for _, doc := range drops {
			tree = mergePatch(tree, doc.tree)
		}
		if base, err = decode(tree); err != nil {
			return nil, fmt.Errorf("merge %s: %w", p.flags.ConfigDir, err)
		}
		applyDefaults(base, p.gates)
	}
	gates := base.FeatureGates
	p.applyGiven(base)
	// Gates are merged by name; every other map is replaced by its flag.
	for name, on := range gates {
		if _, ok := base.FeatureGates[name]; !ok {
			base.FeatureGates[name] = on
		}
	}
	// The flag and the field mean the same; either turns it on.
	if p.flags.SeccompDefault {
		base.SeccompDefault = ptr.To(true)
	}
	base.Kind, base.APIVersion = "KubeletConfiguration", kubeletconfig.SchemeGroupVersion.String()
	return base, nil
}

// applyGiven sets the fields whose flags were given. Values that cannot be
// read have been reported before.
func (p *parser) applyGiven(kc *kubeletconfig.KubeletConfiguration) {
	set := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	for _, def := range fieldFlags() {
		if _, given := p.origins.flags[def.field]; given {
			bindField(set, def, kc)
		}
	}
	for _, o := range p.given {
		if set.Lookup(o.flag.Name) != nil {
			_ = set.Set(o.flag.Name, o.value)
		}
	}
}

// flagBase is the configuration that flags alone start from.
func (p *parser) flagBase(gates Gates) *kubeletconfig.KubeletConfiguration {
	kc := &kubeletconfig.KubeletConfiguration{}
	applyDefaults(kc, gates)
	applyFlagDefaults(kc)
	return kc
}

// defaults is what the configuration would be had nobody set anything.
func (p *parser) defaults() *kubeletconfig.KubeletConfiguration {
	if p.flags.ConfigFile == "" {
		return p.flagBase(p.gates)
	}
	kc := &kubeletconfig.KubeletConfiguration{}
	applyDefaults(kc, p.gates)
	defaultEvictionHard(kc)
	return kc
}

func defaultGates() Gates {
	gates, _ := resolveGates(nil, func(string, string) {})
	return gates
}

// resolvePaths makes relative paths of the --config file relative to its
// directory. Paths in drop-ins stay as they are, as upstream.
func resolvePaths(kc *kubeletconfig.KubeletConfiguration, configFile string) {
	absolute, err := filepath.Abs(configFile)
	if err != nil {
		absolute = configFile
	}
	for _, path := range []*string{
		&kc.StaticPodPath, &kc.Authentication.X509.ClientCAFile, &kc.TLSCertFile, &kc.TLSPrivateKeyFile,
		kc.ResolverConfig, &kc.VolumePluginDir, &kc.PodLogsDir,
	} {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(filepath.Dir(absolute), *path)
		}
	}
}

// mergePatch lays a drop-in over a tree (RFC 7386): mappings are merged by
// key, everything else, lists included, is replaced, null removes.
func mergePatch(base, patch map[string]any) map[string]any {
	for key, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(base, key)
		case map[string]any:
			inner, ok := base[key].(map[string]any)
			if !ok {
				inner = map[string]any{}
			}
			base[key] = mergePatch(inner, value)
		default:
			base[key] = value
		}
	}
	return base
}

func decode(tree map[string]any) (*kubeletconfig.KubeletConfiguration, error) {
	data, err := json.Marshal(tree)
	if err != nil {
		return nil, err
	}
	kc := &kubeletconfig.KubeletConfiguration{}
	return kc, utiljson.Unmarshal(data, kc)
}

func encode(kc *kubeletconfig.KubeletConfiguration) (map[string]any, error) {
	data, err := json.Marshal(kc)
	if err != nil {
		return nil, err
	}
	tree := map[string]any{}
	return tree, utiljson.Unmarshal(data, &tree)
}

// EffectiveYAML renders the configuration for the log. Values of HTTP headers
// are masked, because they carry credentials.
func (c *Config) EffectiveYAML() (string, error) {
	kc := c.Kubelet.DeepCopy()
	for name := range kc.StaticPodURLHeader {
		kc.StaticPodURLHeader[name] = []string{"<masked>"}
	}
	data, err := yaml.Marshal(kc)
	if err != nil {
		return "", fmt.Errorf("render configuration: %w", err)
	}
	return string(data), nil
}
