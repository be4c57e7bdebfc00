package config

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Gate is the name of a feature gate.
type Gate string

// Gates that change what this package accepts. Other parts name theirs where
// the agent resolves them.
const (
	AllAlpha                               Gate = "AllAlpha"
	AllBeta                                Gate = "AllBeta"
	CustomCPUCFSQuotaPeriod                Gate = "CustomCPUCFSQuotaPeriod"
	CPUManagerPolicyAlphaOptions           Gate = "CPUManagerPolicyAlphaOptions"
	CPUManagerPolicyBetaOptions            Gate = "CPUManagerPolicyBetaOptions"
	DefaultPodSysctls                      Gate = "DefaultPodSysctls"
	GracefulNodeShutdown                   Gate = "GracefulNodeShutdown"
	GracefulNodeShutdownBasedOnPodPriority Gate = "GracefulNodeShutdownBasedOnPodPriority"
	KubeletCrashLoopBackOffMax             Gate = "KubeletCrashLoopBackOffMax"
	KubeletEnsureSecretPulledImages        Gate = "KubeletEnsureSecretPulledImages"
	KubeletInUserNamespace                 Gate = "KubeletInUserNamespace"
	MemoryQoS                              Gate = "MemoryQoS"
	ReduceDefaultCrashLoopBackOffDecay     Gate = "ReduceDefaultCrashLoopBackOffDecay"
	RotateKubeletServerCertificate         Gate = "RotateKubeletServerCertificate"
)

// Stage is how mature a gate's feature is.
type Stage string

// Stages of a feature gate.
const (
	Alpha      Stage = "Alpha"
	Beta       Stage = "Beta"
	GA         Stage = "GA"
	Deprecated Stage = "Deprecated"
)

// GateSpec is what is known about one gate in 1.37.
type GateSpec struct {
	Name    Gate
	Stage   Stage
	Default bool
	// Locked gates refuse every value but their default.
	Locked bool
	// Needs are the gates without which this one must not be on.
	Needs []Gate
}

//go:embed gates.txt
var gatesText string

// KnownGates lists every gate of 1.37 by name.
func KnownGates() []GateSpec {
	var specs []GateSpec
	for line := range strings.Lines(gatesText) {
		columns := strings.Fields(line)
		if len(columns) < 3 || columns[0] == "#" {
			continue
		}
		spec := GateSpec{Name: Gate(columns[0]), Stage: Stage(columns[1]), Default: columns[2] == "on"}
		for _, extra := range columns[3:] {
			if needs, ok := strings.CutPrefix(extra, "needs="); ok {
				for name := range strings.SplitSeq(needs, ",") {
					spec.Needs = append(spec.Needs, Gate(name))
				}
			} else if extra == "locked" {
				spec.Locked = true
			}
		}
		specs = append(specs, spec)
	}
	return specs
}

// Gates is the resolved state of all feature gates.
type Gates struct {
	specs   map[Gate]GateSpec
	enabled map[Gate]bool
}

// Enabled reports whether a gate is on. An unknown name is a mistake in the
// program, not of the user, and panics.
func (g Gates) Enabled(name Gate) bool {
	on, ok := g.enabled[name]
	if !ok {
		panic(fmt.Sprintf("config: feature gate %q is not in gates.txt", name))
	}
	return on
}

// All returns the state of every gate.
func (g Gates) All() map[Gate]bool { return maps.Clone(g.enabled) }

// resolveGates applies the wanted values to the defaults. AllAlpha and AllBeta
// set every gate of their stage that is not named itself. It reports unknown
// names, locked gates and unmet needs, all of them; report gets the gate that
// it is about. The second result are remarks about gates that will go away.
func resolveGates(wanted map[string]bool, report func(gate, reason string)) (Gates, []string) {
	g := Gates{specs: map[Gate]GateSpec{}, enabled: map[Gate]bool{}}
	for _, spec := range KnownGates() {
		g.specs[spec.Name] = spec
		g.enabled[spec.Name] = spec.Default
	}
	for group, stage := range map[Gate]Stage{AllAlpha: Alpha, AllBeta: Beta} {
		on, set := wanted[string(group)]
		if !set {
			continue
		}
		for name, spec := range g.specs {
			if spec.Stage == stage && name != AllAlpha && name != AllBeta {
				g.enabled[name] = on
			}
		}
	}
	var remarks []string
	blamed := len(wanted) == 0
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		spec, ok := g.specs[Gate(name)]
		switch {
		case !ok:
			blamed = true
			reason := "is not a feature gate of Kubernetes 1.37"
			if near := nearest(name, namesOf(g.specs)); near != "" {
				reason += "; did you mean " + near + "?"
			}
			report(name, reason)
			continue
		case spec.Locked && wanted[name] != spec.Default:
			blamed = true
			report(name, fmt.Sprintf("cannot be set to %t: the gate is locked to %t", wanted[name], spec.Default))
			continue
		case spec.Stage == GA:
			remarks = append(remarks, fmt.Sprintf("feature gate %s is GA and will be removed; stop setting it", name))
		case spec.Stage == Deprecated:
			remarks = append(remarks, fmt.Sprintf("feature gate %s is deprecated and will be removed", name))
		}
		g.enabled[spec.Name] = wanted[name]
	}
	if blamed {
		return g, remarks // needs are judged only on gates that are right by themselves
	}
	for _, name := range slices.Sorted(maps.Keys(g.specs)) {
		if !g.enabled[name] {
			continue
		}
		var missing []string
		for _, need := range g.specs[name].Needs {
			if !g.enabled[need] {
				missing = append(missing, string(need))
			}
		}
		if len(missing) > 0 {
			report(string(name), "is on but needs "+strings.Join(missing, " and ")+" to be on as well")
		}
	}
	return g, remarks
}

func namesOf(specs map[Gate]GateSpec) []string {
	names := make([]string, 0, len(specs))
	for name := range specs {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}
