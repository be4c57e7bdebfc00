package config

import (
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"kubelet/internal/security/podsecurity"
)

// FuzzDocument: whatever stands in a file, it is refused with a reason, or
// everything that the check let through can be decoded.
func FuzzDocument(f *testing.F) {
	const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
	for _, body := range []string{
		"", "maxPods: 3", "maxPods: [", "maxPods: &a 3\npodsPerCore: *a", "logging: {vmodule: [{filePattern: a, verbosity: 1}]}",
		"evictionHard: {memory.available: 5%}", "a: &a [*a]", "maxPods: 1\nmaxPods: 2", "? [a]\n: b", "authentication: 7", "\tmaxPods: 1",
	} {
		f.Add([]byte(head + body))
	}
	f.Add([]byte(`{"apiVersion":"kubelet.config.k8s.io/v1beta1","kind":"KubeletConfiguration","maxPods":1e3}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := parseDocument("f", data, kubeletSchema())
		if err != nil {
			problems, ok := err.(Errors)
			if !ok || len(problems) == 0 || strings.Contains(problems[0].String(), "\n") {
				t.Fatalf("not a list of one-line problems: %v", err)
			}
			return
		}
		doc.check()
		if _, err := decode(doc.tree); err != nil {
			t.Fatalf("checked, but cannot be decoded: %v", err)
		}
	})
}

// FuzzPodSecurity: whatever stands in a policy's file, it is refused with a
// reason for each line, or a policy can be made of it.
func FuzzPodSecurity(f *testing.F) {
	const head = "apiVersion: podsecurity.kubelet/v1alpha1\nkind: PodSecurityConfiguration\n"
	for _, body := range []string{
		"", "podSecurity: {enforce: {level: baseline, version: v1.30}}", "podSecurity: {enforce: {limits: {hostPaths: [{path: /a, readOnly: true}, null]}}}",
		"podSecurity: {warn: {limits: {images: ['*.example.com:5000/a'], volumeTypes: [emptyDir], capabilities: {allowAdd: [ALL], requireDrop: []}}}}",
		"podSecurity: {exemptions: {staticPods: ['*', a/b], namespaces: [x, x]}}", "podSecurity: &a {audit: *a}", "podSecurity: []",
	} {
		f.Add([]byte(head + body))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := parseDocument("f", data, podSecuritySchema())
		if err != nil {
			return
		}
		c, err := doc.podSecurity()
		if err != nil {
			if problems, ok := err.(Errors); !ok || len(problems) == 0 {
				t.Fatalf("not a list of problems: %v", err)
			}
			return
		}
		if _, err := podsecurity.New(*c, "node"); err != nil {
			t.Fatalf("checked, but no policy: %v", err)
		}
	})
}

// FuzzScan: a command line that pflag accepts is read the same way.
func FuzzScan(f *testing.F) {
	for _, line := range []string{
		"--max-pods=3", "--max-pods 3", "--max_pods 3 --register-node", "-v2", "-v=2", "-v 2", "--cluster-dns= --v=1", "--", "-h=false", "-v=", "-hv4", "--fail-swap-on=false --config x",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		define := func() *pflag.FlagSet {
			fs := pflag.NewFlagSet("", pflag.ContinueOnError)
			fs.SetOutput(io.Discard)
			fs.Usage = func() {}
			fs.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
				return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
			})
			for _, name := range []string{"max-pods", "config", "cluster-dns"} {
				fs.String(name, "", "")
			}
			fs.StringP("v", "v", "", "")
			fs.Bool("register-node", false, "")
			fs.Bool("fail-swap-on", true, "")
			fs.BoolP("help", "h", false, "")
			return fs
		}
		values := func(fs *pflag.FlagSet) map[string]string {
			out := map[string]string{}
			fs.VisitAll(func(f *pflag.Flag) { out[f.Name] = f.Value.String() })
			return out
		}
		theirs := define()
		if err := theirs.Parse(args); err != nil || theirs.NArg() > 0 {
			return
		}
		ours := define()
		found, problems := scan(ours, args)
		if len(problems) > 0 {
			t.Fatalf("pflag accepts %q, we say: %v", args, problems)
		}
		for _, o := range found {
			if err := ours.Set(o.flag.Name, o.value); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(values(theirs), values(ours)); diff != "" {
			t.Fatalf("%q (-pflag +ours):\n%s", args, diff)
		}
	})
}

// Nothing of Parse may depend on the configuration of an earlier call.
func TestParseIsRepeatable(t *testing.T) {
	args := []string{"--eviction-hard=memory.available<1Gi", "--node-labels=a=b", "--feature-gates=EventedPLEG=true"}
	first, err := Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse([]string{"--max-pods=7", "--eviction-hard=nodefs.available<1Gi"}); err != nil {
		t.Fatal(err)
	}
	second, err := Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second, cmp.AllowUnexported(Gates{})); diff != "" {
		t.Error(diff)
	}
}

func TestEffectiveYAMLMasksHeaders(t *testing.T) {
	cfg := Config{Kubelet: kubeletconfig.KubeletConfiguration{StaticPodURLHeader: map[string][]string{"Authorization": {"Bearer secret"}}}}
	text, err := cfg.EffectiveYAML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "secret") || !strings.Contains(text, "<masked>") {
		t.Error(text)
	}
	if cfg.Kubelet.StaticPodURLHeader["Authorization"][0] != "Bearer secret" {
		t.Error("the configuration itself was masked")
	}
}
