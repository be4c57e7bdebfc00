package configdiff

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"kubelet/internal/config"
)

var update = flag.Bool("update", false, "rewrite internal/config/gates.txt from upstream")

const gatesFile = "../../../internal/config/gates.txt"

// TestGates holds the table of gates against upstream's.
func TestGates(t *testing.T) {
	all := utilfeature.DefaultMutableFeatureGate.GetAll()
	needs := utilfeature.DefaultMutableFeatureGate.Dependencies()
	var want []config.GateSpec
	for name, spec := range all {
		gate := config.GateSpec{Name: config.Gate(name), Default: spec.Default, Locked: spec.LockToDefault}
		switch spec.PreRelease {
		case featuregate.Alpha:
			gate.Stage = config.Alpha
		case featuregate.Beta:
			gate.Stage = config.Beta
		case featuregate.Deprecated:
			gate.Stage = config.Deprecated
		default:
			gate.Stage = config.GA
		}
		for _, need := range needs[name] {
			gate.Needs = append(gate.Needs, config.Gate(need))
		}
		slices.Sort(gate.Needs)
		want = append(want, gate)
	}
	slices.SortFunc(want, func(a, b config.GateSpec) int { return strings.Compare(string(a.Name), string(b.Name)) })
	if *update {
		writeGates(t, want)
		return
	}
	if diff := cmp.Diff(want, config.KnownGates()); diff != "" {
		t.Errorf("gates (-upstream +ours):\n%s", diff)
	}
}

func writeGates(t *testing.T, specs []config.GateSpec) {
	data, err := os.ReadFile(gatesFile)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "#") {
			out.WriteString(line)
		}
	}
	for _, spec := range specs {
		value := "off"
		if spec.Default {
			value = "on"
		}
		line := fmt.Sprintf("%-52s %-10s %-3s", spec.Name, spec.Stage, value)
		if spec.Locked {
			line = strings.TrimRight(line, " ") + " locked"
		}
		if len(spec.Needs) > 0 {
			names := make([]string, len(spec.Needs))
			for i, need := range spec.Needs {
				names[i] = string(need)
			}
			line = strings.TrimRight(line, " ") + " needs=" + strings.Join(names, ",")
		}
		out.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	if err := os.WriteFile(gatesFile, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// ownFlags are flags that upstream does not have.
var ownFlags = []string{"strict-config", "pod-security-config", "exec-requires-create", "restart-budget"}

// TestFlags compares names, shorthands, defaults and whether a value may be
// left out.
func TestFlags(t *testing.T) {
	theirs, _, _, err := flagSet()
	if err != nil {
		t.Fatal(err)
	}
	theirs.BoolP("help", "h", false, "") // upstream adds it in its command
	describe := func(f *pflag.Flag) string {
		value := f.DefValue
		if value == "[]" {
			value = ""
		}
		return fmt.Sprintf("-%s default=%q bare=%q", f.Shorthand, value, f.NoOptDefVal)
	}
	want, got := map[string]string{}, map[string]string{}
	theirs.VisitAll(func(f *pflag.Flag) { want[f.Name] = describe(f) })
	config.VisitFlags(func(f *pflag.Flag) { got[f.Name] = describe(f) })
	for _, name := range ownFlags {
		delete(got, name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flags (-upstream +ours):\n%s", diff)
	}
}

// stricter are the fields whose bad values upstream notices only later in its
// start, or not at all. docs/compatibility.md says so.
var stricter = map[string]string{
	"address":                                   "not an IP address; upstream checks only the flag",
	"healthzBindAddress":                        "not an IP address; upstream checks only the flag",
	"authorization.mode":                        "unknown mode; upstream refuses it when it builds the server",
	"cgroupDriver":                              "unknown driver; upstream takes it for cgroupfs",
	"cpuManagerPolicy":                          "unknown policy; upstream refuses it when it builds the manager",
	"memoryManagerPolicy":                       "unknown policy; upstream refuses it when it builds the manager",
	"topologyManagerPolicyOptions":              "unknown option; upstream refuses it when it builds the manager",
	"allowedUnsafeSysctls":                      "no sysctl; upstream refuses it when it builds the kubelet",
	"configMapAndSecretChangeDetectionStrategy": "unknown strategy; upstream refuses it when it builds the kubelet",
	"containerLogMaxSize":                       "no size; upstream refuses it when it builds the kubelet",
	"kubeReserved":                              "no resource or amount; upstream refuses it when it starts",
	"systemReserved":                            "no resource or amount; upstream refuses it when it starts",
	"qosReserved":                               "no resource or share; upstream refuses it when it starts",
	"evictionHard":                              "no signal or threshold; upstream refuses it when it starts",
	"evictionSoft":                              "no signal or threshold; upstream refuses it when it starts",
	"evictionSoftGracePeriod":                   "no signal or duration; upstream refuses it when it starts",
	"evictionMinimumReclaim":                    "no signal or amount; upstream refuses it when it starts",
	"tlsCipherSuites":                           "unknown suite; upstream refuses it when it starts",
	"tlsMinVersion":                             "unknown version; upstream refuses it when it starts",
	"tlsCurvePreferences":                       "unknown curve; upstream refuses it when it starts",
	"staticPodURL":                              "no URL; upstream fails on every fetch",
}

// compare runs both and holds verdict and result against each other. about is
// the field that the case is about, if it is about one. It reports whether
// upstream accepts the case.
func compare(t *testing.T, r *reader, about string, args []string) bool {
	t.Helper()
	want, upstreamErr := r.read(t.Context(), args)
	ours, ourErr := config.Parse(args)
	switch {
	case upstreamErr == nil && ourErr != nil:
		if stricter[about] == "" {
			t.Errorf("upstream accepts it, we do not: %v", ourErr)
		}
	case upstreamErr != nil && ourErr == nil:
		t.Errorf("we accept it, upstream does not: %v", upstreamErr)
	case upstreamErr == nil:
		if diff := cmp.Diff(tree(t, want), tree(t, &ours.Kubelet)); diff != "" {
			t.Errorf("effective configuration (-upstream +ours):\n%s", diff)
		}
	}
	return upstreamErr == nil
}

func tree(t *testing.T, kc *kubeletconfig.KubeletConfiguration) map[string]any {
	t.Helper()
	data, err := json.Marshal(kc)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// values to try in a field, by its type.
func values(t reflect.Type, path string) []string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	common := []string{"null", "[]", "{}", `"text"`, "1.5"}
	switch {
	case strings.HasSuffix(t.String(), "Duration"):
		return append(common, "0s", "1ms", "3s", "10m", "-5s", "1h", "7")
	case t.Kind() == reflect.Bool:
		return append(common, "true", "false", `"true"`, "yes")
	case t.Kind() == reflect.Int32, t.Kind() == reflect.Int64:
		return append(common, "-1001", "-1000", "-2", "-1", "0", "1", "2", "31", "32", "99", "100", "101", "1000", "65535", "65536", "131072", "4294967296", `"1"`)
	case t.Kind() == reflect.Float64:
		return append(common, "0", "0.5", "0.9", "1", "1.1", "-1")
	case t.Kind() == reflect.String:
		return append(common, `""`, `"::1"`, `"10.0.0.1"`, `"/abs/path"`, `"/not/./clean"`, `"rel/path"`, "none", "None", "static", "Static", "restricted", "pod",
			"hairpin-veth", "10Mi", "1.36", "1.35", "Webhook", "systemd", "TieredReservation", "NoSwap", "LimitedSwap", "VersionTLS13", "AlwaysVerify", "NeverVerifyAllowlistedImages", "Get",
			`"0-1,4"`, `"http://host/x"`, `"dns:///x"`, `"http://x"`, "json")
	case t.Kind() == reflect.Map:
		return append(common, "{memory.available: 5%}", "{memory.available: 1Gi}", "{memory.available: 1m}", "{memory: 1Gi}", "{memory: 50%}", "{cpu: -1}", "{gpu: 1}",
			`{kernel.shm_rmid_forced: "1"}`, "{a: [b, c]}", `{full-pcpus-only: "true"}`, "{NodeLogQuery: true}", "{NodeLogQuery: false}", "{AllAlpha: false}", "{AllBeta: false}", "{Nonsense: true}", "{EventedPLEG: true}")
	case t.Kind() == reflect.Slice:
		return append(common, "[pods]", "[none]", "[none, pods]", "[pods, pods]", "[kube-reserved]", "[kernel.shm*]", "[net.ipv4.ip_forward]", "[vm.swappiness]", "[10.0.0.1]", "[29]", "[29, 29]", "[TLS_AES_128_GCM_SHA256]",
			"[{key: a, effect: NoSchedule}]", "[{key: a}]", "[{key: 'a b', effect: NoSchedule}]", "[{key: a, effect: Never}]", "[{numaNode: 0, limits: {memory: 1Gi}}]", "[{numaNode: 0, limits: {memory: 0}}]", "[{numaNode: 0, limits: {cpu: 1}}]",
			"[{priority: 1, shutdownGracePeriodSeconds: 2}]", "[registry.io/*]", "['*']", "[{filePattern: a, verbosity: 3}]")
	}
	return common
}

// TestFields sets each field to each value that is somehow possible, alone in
// a file.
func TestFields(t *testing.T) {
	r := newReader()
	var cases int
	for _, path := range config.Fields() {
		if path == "kind" || path == "apiVersion" {
			continue
		}
		for _, value := range values(typeOf(path), path) {
			if path == "logging.options.text.splitStream" || path == "logging.options.json.splitStream" {
				continue // upstream's flag resets it to false
			}
			cases++
			t.Run(path+"="+value, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "kubelet.yaml")
				write(t, file, nested(path, value))
				compare(t, r, path, []string{"--config=" + file})
			})
		}
	}
	t.Logf("%d cases", cases)
}

func typeOf(path string) reflect.Type {
	t := reflect.TypeFor[kubeletconfig.KubeletConfiguration]()
	for step := range strings.SplitSeq(path, ".") {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		t = fieldType(t, step)
	}
	return t
}

func fieldType(t reflect.Type, step string) reflect.Type {
	for _, field := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name == step {
			return field.Type
		}
	}
	panic("no field " + step + " in " + t.String())
}

func nested(path, value string) string {
	var out strings.Builder
	out.WriteString("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n")
	indent := ""
	steps := strings.Split(path, ".")
	for _, step := range steps[:len(steps)-1] {
		out.WriteString(indent + step + ":\n")
		indent += "  "
	}
	out.WriteString(indent + steps[len(steps)-1] + ": " + value + "\n")
	return out.String()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestFlagValues gives each flag each value over a file, and the first value
// that it accepts also without one.
func TestFlagValues(t *testing.T) {
	r := newReader()
	file := filepath.Join(t.TempDir(), "kubelet.yaml")
	write(t, file, nested("podsPerCore", "3"))
	texts := []string{"", "true", "false", "-1", "0", "1", "100", "70000", "1m", "text", "10.0.0.1", "a=b", "a=b,c=d", "a:b", "memory=1Gi", "memory.available<5%", "memory.available=5%",
		"pods", "0:memory=1Gi", "a=b:NoSchedule", "a:NoSchedule,a:NoSchedule", "NodeLogQuery=true", "EventedPLEG=true", "kubernetes.io/x=y", "node.kubernetes.io/x=y", "static", "json", "x=3"}
	fields := config.FlagFields()
	var names []string
	config.VisitFlags(func(f *pflag.Flag) { names = append(names, f.Name) })
	for _, name := range names {
		if slices.Contains(ownFlags, name) {
			continue
		}
		switch name {
		case "config", "config-dir", "help", "version":
			continue
		case "node-ip", "image-credential-provider-config", "image-credential-provider-bin-dir":
			continue // judged earlier than upstream does
		}
		alone := false
		for _, text := range texts {
			if name == "log-flush-frequency" && text == "0" || strings.HasPrefix(name, "log-") && strings.HasSuffix(name, "split-stream") {
				continue // upstream defaults the file after, and resets, these
			}
			arg := "--" + name + "=" + text
			t.Run(arg, func(t *testing.T) {
				if compare(t, r, fields[name], []string{"--config=" + file, arg}) && !alone {
					alone = true
					compare(t, r, fields[name], []string{arg})
				}
			})
		}
	}
}

// TestTranscripts replays the transcripts of internal/config, but for those
// that show a difference made on purpose.
func TestTranscripts(t *testing.T) {
	onPurpose := map[string]bool{"strict": true, "gate-default": true}
	r := newReader()
	files, err := filepath.Glob("../../../internal/config/testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, name := range files {
		short := strings.TrimSuffix(filepath.Base(name), ".txt")
		if onPurpose[short] {
			continue
		}
		t.Run(short, func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			var args []string
			for _, part := range strings.Split("\n"+string(data), "\n-- ")[1:] {
				head, body, _ := strings.Cut(part, " --\n")
				switch head {
				case "args":
					args = strings.Fields(strings.ReplaceAll(body, "$DIR", dir))
				case "show", "out":
				default:
					write(t, filepath.Join(dir, head), body+"\n")
				}
			}
			compare(t, r, "", args)
		})
	}
}
