package admission

import (
	"os"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"kubelet/internal/security/podsecurity"
)

type fixedPolicy struct{ policy *podsecurity.Policy }

func (p fixedPolicy) Policy() *podsecurity.Policy { return p.policy }
func (fixedPolicy) Path() string                  { return "/etc/policy.yaml" }

func newPolicy(t *testing.T, s podsecurity.Settings) PodSecurityPolicy {
	t.Helper()
	p, err := podsecurity.New(podsecurity.Configuration{PodSecurity: s}, "n1")
	if err != nil {
		t.Fatal(err)
	}
	return fixedPolicy{p}
}

func defaultNode() *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"zone": "z1"}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{
			v1.ResourceCPU:              resource.MustParse("2"),
			v1.ResourceMemory:           resource.MustParse("1Gi"),
			v1.ResourcePods:             resource.MustParse("3"),
			v1.ResourceEphemeralStorage: resource.MustParse("10Gi"),
		}},
	}
}

func TestJudge(t *testing.T) {
	data, err := os.ReadFile("testdata/judge.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name    string `json:"name"`
		Options struct {
			AllowedUnsafeSysctls []string `json:"allowedUnsafeSysctls"`
			AppArmor             bool     `json:"appArmor"`
			PodLevelResources    bool     `json:"podLevelResources"`
			DeclaredFeatures     []string `json:"declaredFeatures"`

			PodSecurity *podsecurity.Settings `json:"podSecurity"`
		} `json:"options"`
		Node    *v1.Node `json:"node"`
		NoNode  bool     `json:"noNode"`
		Held    []v1.Pod `json:"held"`
		Pod     v1.Pod   `json:"pod"`
		Want    string   `json:"want"`
		Message string   `json:"message"`
	}
	if err := yaml.UnmarshalStrict(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			options := Options{
				AllowedUnsafeSysctls: c.Options.AllowedUnsafeSysctls,
				KernelVersion:        "6.1.0-18-amd64",
				AppArmor:             c.Options.AppArmor,
				PodLevelResources:    c.Options.PodLevelResources,
				DeclaredFeatures:     c.Options.DeclaredFeatures,
			}
			if c.Options.PodSecurity != nil {
				options.PodSecurity = newPolicy(t, *c.Options.PodSecurity)
			}
			checks, err := Chain(options)
			if err != nil {
				t.Fatal(err)
			}
			in := Input{Pod: &c.Pod, Node: defaultNode()}
			if c.Node != nil {
				in.Node = c.Node
				in.Node.Name = "n1"
			}
			if c.NoNode {
				in.Node = nil
			}
			for i := range c.Held {
				in.Held = append(in.Held, Hold(&c.Held[i]))
			}
			v := Judge(checks, in)
			got := strings.TrimSpace([]string{"accept", "reject", "wait"}[v.Decision] + " " + v.Reason)
			if got != c.Want || !strings.Contains(v.Message, c.Message) {
				t.Errorf("got %s (%s: %s), want %s %q", got, v.Check, v.Message, c.Want, c.Message)
			}
			if v.Decision != Accept && (v.Message == "" || v.Check == "") {
				t.Errorf("verdict without message or check: %+v", v)
			}
		})
	}
}

func TestSysctlAllowListIsChecked(t *testing.T) {
	for _, bad := range []string{"kernel.panic", "vm.*", "net..x", "NET.x", "*", "net.*.x", strings.Repeat("a", 300)} {
		if _, err := Sysctls([]string{bad}); err == nil {
			t.Errorf("allow-list entry %q accepted", bad)
		}
	}
	for _, good := range []string{"net.*", "kernel.shm*", "net/core/somaxconn", "net.ipv4.conf.eth0/1.rp_filter", "fs.mqueue.msg_max", "user.max_user_namespaces"} {
		if _, err := Sysctls([]string{good}); err != nil {
			t.Errorf("allow-list entry %q: %v", good, err)
		}
	}
}

func TestSafeSysctlsByKernel(t *testing.T) {
	for kernel, want := range map[string]int{"3.10": 5, "4.4.0": 6, "4.5": 9, "4.9.1-x": 11, "6.1.0-18-amd64": 14, "": 5, "nonsense": 5} {
		if got := len(SafeSysctls(kernel)); got != want {
			t.Errorf("kernel %q: %d safe sysctls, want %d", kernel, got, want)
		}
	}
}
