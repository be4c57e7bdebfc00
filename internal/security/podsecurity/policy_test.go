package podsecurity

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"kubelet/internal/podspec"
)

type evaluation struct {
	Name           string            `json:"name"`
	Level          string            `json:"level"`
	Version        string            `json:"version"`
	Limits         Limits            `json:"limits"`
	Annotations    map[string]string `json:"annotations"`
	Spec           v1.PodSpec        `json:"spec"`
	Want           []string          `json:"want"`
	Detail, Advice string
}

func (e *evaluation) pod() *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Annotations: e.Annotations}, Spec: e.Spec}
}

func evaluations(t *testing.T, files ...string) (all []evaluation) {
	t.Helper()
	for _, file := range files {
		data, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var list []evaluation
		if err := yaml.UnmarshalStrict(data, &list); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, list...)
	}
	return all
}

func policyOf(t *testing.T, s Settings) *Policy {
	t.Helper()
	p, err := New(Configuration{PodSecurity: s}, "node-1")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEvaluate(t *testing.T) {
	for _, e := range evaluations(t, "standard.yaml", "limits.yaml") {
		t.Run(e.Name, func(t *testing.T) {
			p := policyOf(t, Settings{Enforce: Rules{Level: e.Level, Version: e.Version, Limits: e.Limits}})
			found := p.Evaluate(e.pod())
			got := []string{}
			if found.Enforce != nil {
				for _, v := range found.Enforce.Violations {
					got = append(got, strings.Join(append([]string{v.Rule}, v.Fields...), " "))
				}
				text := found.Enforce.String()
				for _, part := range []string{e.Detail, e.Advice} {
					if !strings.Contains(text, part) {
						t.Errorf("%q is not in: %s", part, text)
					}
				}
			}
			if diff := cmp.Diff(e.Want, got); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
			if found.Audit != nil || found.Warn != nil {
				t.Error("modes that are not set up found something")
			}
		})
	}
}

// The library's evaluator and ours forbid the same pods for the same reasons,
// at each level and in each version, and each field is found.
func TestAgreesWithTheLibrary(t *testing.T) {
	library, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	versions := []api.Version{api.LatestVersion()}
	for minor := range newestMinor() + 1 {
		versions = append(versions, api.MajorMinorVersion(1, minor))
	}
	for _, e := range evaluations(t, "standard.yaml", "limits.yaml") {
		pod := e.pod()
		for _, level := range []api.Level{api.LevelPrivileged, api.LevelBaseline, api.LevelRestricted} {
			for _, version := range versions {
				var want, got []string
				for _, r := range library.EvaluatePod(api.LevelVersion{Level: level, Version: version}, &pod.ObjectMeta, &pod.Spec) {
					if !r.Allowed {
						want = append(want, r.ForbiddenDetail)
					}
				}
				set := ruleSet{standard: standardRules(level, version)}
				if v := set.judge(pod); v != nil {
					for _, violation := range v.Violations {
						got = append(got, violation.Detail)
						if len(violation.Fields) == 0 {
							t.Errorf("%s at %s:%s: no field to blame for: %s", e.Name, level, version, violation)
						}
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s at %s:%s (-library +ours):\n%s", e.Name, level, version, diff)
				}
			}
		}
	}
}

func newestMinor() int { v := newest(); return v.Minor() }

func TestAllChecksAreKnown(t *testing.T) {
	for _, c := range policy.DefaultChecks() {
		if k, ok := known[c.ID]; !ok || k.advice == "" || len(k.places) == 0 {
			t.Errorf("check %s: it is not known where it looks and what to do", c.ID)
		}
		for _, v := range c.Versions {
			if v := v.MinimumVersion; v.Minor() > newestMinor() {
				t.Errorf("check %s is of 1.%d, newer than what this kubelet calls the newest", c.ID, v.Minor())
			}
		}
	}
}

func TestModesAndExemptions(t *testing.T) {
	p := policyOf(t, Settings{
		Enforce:    Rules{Level: "baseline"},
		Audit:      Rules{Level: "restricted", Version: "v1.30"},
		Warn:       Rules{Limits: Limits{Images: []string{}}},
		Exemptions: Exemptions{Namespaces: []string{"kube-system"}, RuntimeClasses: []string{"kata"}, StaticPods: []string{"infra/etcd"}},
	})
	file := map[string]string{podspec.SourceAnnotation: podspec.SourceFile}
	pod := func(namespace, name string, annotations map[string]string, spec v1.PodSpec) *v1.Pod {
		spec.Containers = append(spec.Containers, v1.Container{Name: "a", Image: "x"})
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Annotations: annotations}, Spec: spec}
	}
	bad := v1.PodSpec{HostPID: true}
	for _, c := range []struct {
		name                 string
		pod                  *v1.Pod
		enforce, audit, warn bool
	}{
		{"all modes", pod("infra", "p", nil, bad), true, true, true},
		{"only audited and warned", pod("infra", "p", nil, v1.PodSpec{}), false, true, true},
		{"namespace", pod("kube-system", "p", nil, bad), false, false, false},
		{"runtime class", pod("infra", "p", nil, v1.PodSpec{HostPID: true, RuntimeClassName: ptr.To("kata")}), false, false, false},
		{"another runtime class", pod("infra", "p", nil, v1.PodSpec{HostPID: true, RuntimeClassName: ptr.To("runc")}), true, true, true},
		{"static pod", pod("infra", "etcd-node-1", file, bad), false, false, false},
		{"static pod of another name", pod("infra", "etcd2-node-1", file, bad), true, true, true},
		{"static pod of another namespace", pod("default", "etcd-node-1", file, bad), true, true, true},
		{"a pod of the API by the name of a static one", pod("infra", "etcd-node-1", nil, bad), true, true, true},
	} {
		f := p.Evaluate(c.pod)
		if got := [...]bool{f.Enforce != nil, f.Audit != nil, f.Warn != nil}; got != [...]bool{c.enforce, c.audit, c.warn} {
			t.Errorf("%s: enforce, audit, warn found something: %v", c.name, got)
		}
	}
	if f := p.Evaluate(pod("infra", "p", nil, bad)); f.Enforce.Rules != "baseline:latest" || f.Audit.Rules != "restricted:v1.30" || f.Warn.Rules != "privileged:latest and limits" {
		t.Errorf("rules are called %s, %s, %s", f.Enforce.Rules, f.Audit.Rules, f.Warn.Rules)
	}
	all := policyOf(t, Settings{Enforce: Rules{Level: "baseline"}, Exemptions: Exemptions{StaticPods: []string{"*"}}})
	if all.Evaluate(pod("a", "b-node-1", file, bad)).Enforce != nil || all.Evaluate(pod("a", "b", nil, bad)).Enforce == nil {
		t.Error("* exempts all static pods and no other")
	}
}

// Every violation names at most some of many fields.
func TestLongViolation(t *testing.T) {
	e := evaluation{}
	for range 50 {
		e.Spec.Containers = append(e.Spec.Containers, v1.Container{SecurityContext: &v1.SecurityContext{Privileged: ptr.To(true)}})
	}
	v := policyOf(t, Settings{Enforce: Rules{Level: "baseline"}}).Evaluate(e.pod()).Enforce
	if n := len(v.Violations[0].Fields); n != 50 || !slices.Contains(v.Violations[0].Fields, "spec.containers[49].securityContext.privileged") {
		t.Errorf("%d fields: %v", n, v.Violations[0].Fields)
	}
	if text := v.String(); !strings.Contains(text, "spec.containers[4].securityContext.privileged and 45 more: remove it or set it to false") {
		t.Errorf("text: %s", text)
	}
}

// FuzzImage: an image is of the registry that it is pulled from, and of no
// other that its name brings to mind.
func FuzzImage(f *testing.F) {
	for _, s := range []string{"busybox", "a.example.com/x:1", "evil/a.example.com/x", "a.example.com.evil.net/x", "A.Example.com:80/x@sha256:0", "a.example.com:x/y", "@a.example.com/x", ":a.example.com/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, image string) {
		if matchesImage("a.example.com", image) && !strings.HasPrefix(strings.ToLower(image), "a.example.com/") {
			t.Errorf("%q is taken for one of a.example.com", image)
		}
		if matchesImage("a.example.com/team", image) && !matchesImage("a.example.com", image) {
			t.Errorf("%q is of a repository, not of its registry", image)
		}
	})
}
