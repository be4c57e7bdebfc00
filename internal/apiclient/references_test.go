package apiclient

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func TestReferencesOfAPod(t *testing.T) {
	raw, err := os.ReadFile("testdata/references.yaml")
	if err != nil {
		t.Fatal(err)
	}
	pod := &v1.Pod{}
	if err := yaml.UnmarshalStrict(raw, pod); err != nil {
		t.Fatal(err)
	}
	configMap := func(name string) objectKey { return objectKey{kindConfigMap, "shop", name} }
	secret := func(name string) objectKey { return objectKey{kindSecret, "shop", name} }
	want := map[objectKey]bool{
		secret("registry"):            false,
		secret("init-env"):            false,
		configMap("settings"):         true, // optional in env, needed by a volume
		secret("password"):            true,
		configMap("shared-env"):       true,
		configMap("debug"):            true,
		secret("tls"):                 false,
		configMap("kube-root-ca.crt"): true,
		secret("extra"):               false,
		secret("csi"):                 true,
	}
	if diff := cmp.Diff(want, references(pod), cmp.AllowUnexported(objectKey{})); diff != "" {
		t.Errorf("references (-want +got):\n%s", diff)
	}
}
