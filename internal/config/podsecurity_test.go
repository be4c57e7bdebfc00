package config

import (
	"os"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"kubelet/internal/security/podsecurity"
)

// The worked example of docs/pod-security.md is valid, and says of its pod
// what the document says that it does.
func TestPodSecurityDoc(t *testing.T) {
	text, err := os.ReadFile("../../docs/pod-security.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, part := range strings.Split(string(text), "```yaml\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, block)
	}
	if len(blocks) != 2 {
		t.Fatalf("%d blocks of YAML, want the policy and the pod", len(blocks))
	}
	doc, err := parseDocument("doc", []byte(blocks[0]), podSecuritySchema())
	if err != nil {
		t.Fatal(err)
	}
	c, err := doc.podSecurity()
	if err != nil {
		t.Fatal(err)
	}
	policy, err := podsecurity.New(*c, "node")
	if err != nil {
		t.Fatal(err)
	}
	pod := &v1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(blocks[1]), pod); err != nil {
		t.Fatal(err)
	}
	found := policy.Evaluate(pod)
	if found.Enforce == nil || !strings.Contains(strings.Join(strings.Fields(string(text)), " "), found.Enforce.String()) {
		t.Errorf("the document does not show: %s", found.Enforce)
	}
	if found.Warn == nil || found.Audit == nil {
		t.Error("warn and audit find nothing")
	}
}
