package image

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func TestKeyring(t *testing.T) {
	data, err := os.ReadFile("testdata/keyring.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name    string              `json:"name"`
		Configs []string            `json:"configs"`
		Broken  bool                `json:"broken"`
		Images  map[string][]string `json:"images"`
	}
	if err := yaml.UnmarshalStrict(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			ring := &keyring{}
			broken := false
			for _, config := range c.Configs {
				err := ring.addSecret(&v1.Secret{
					Type: v1.SecretTypeDockerConfigJson,
					Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(config)},
				})
				broken = broken || err != nil
			}
			if broken != c.Broken {
				t.Errorf("broken: %v", broken)
			}
			for image, want := range c.Images {
				var got []string
				for _, auth := range ring.lookup(image) {
					got = append(got, auth.Username)
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s: %v, want %v", image, got, want)
				}
			}
		})
	}
}

func TestOldSecretTypeAndOthers(t *testing.T) {
	ring := &keyring{}
	for _, s := range []v1.Secret{
		{Type: v1.SecretTypeDockercfg, Data: map[string][]byte{v1.DockerConfigKey: []byte(`{"q.io":{"username":"cfg"}}`)}},
		{Type: v1.SecretTypeOpaque, Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(`{"auths":{"q.io":{"username":"opaque"}}}`)}},
		{Type: v1.SecretTypeDockerConfigJson},
	} {
		if err := ring.addSecret(&s); err != nil {
			t.Error(err)
		}
	}
	if got := ring.lookup("q.io/x"); len(got) != 1 || got[0].Username != "cfg" {
		t.Errorf("found %v", got)
	}
}

func TestSecretsAreNotQuotedInErrors(t *testing.T) {
	ring := &keyring{}
	err := ring.addConfig([]byte(`{"auths":{"q.io":{"auth":"c2VjcmV0"},"bad host":{"password":"secret"}}}`), true)
	if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "c2Vj") {
		t.Errorf("error: %v", err)
	}
}

func TestNodeConfigFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	ring, err := readConfigFiles([]string{
		filepath.Join(dir, "missing.json"),
		write("config.json", `{"auths":{"q.io":{"username":"json"}}}`),
		write(".dockercfg", `{"q.io":{"username":"cfg"}}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := ring.lookup("q.io/x"); len(got) != 2 {
		t.Errorf("found %v", got)
	}
	if _, err := readConfigFiles([]string{dir, write("broken.json", "{")}); err == nil {
		t.Error("a directory and a broken file are no error")
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"*.q.io:80/v1/x":{"auth":"dTpw"}}}`), "a.q.io:80/x")
	f.Fuzz(func(t *testing.T, config []byte, image string) {
		ring := &keyring{}
		_ = ring.addConfig(config, true)
		_ = ring.addConfig(config, false)
		_ = ring.lookup(image)
	})
}
