package criconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"kubelet/internal/volume"
)

// The cases of testdata/envfile/cases.yaml: files of variables, and what a key of
// them is.
func TestEnvFileValue(t *testing.T) {
	text, err := os.ReadFile("testdata/envfile/cases.yaml")
	must(t, err)
	var cases []struct {
		Name, File, Key string
		Value           *string // nil if it is not there
		Error           string
	}
	must(t, yaml.UnmarshalStrict(text, &cases))
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			value, found, err := envFileValue(c.File, c.Key)
			switch {
			case c.Error != "":
				if err == nil || !strings.Contains(err.Error(), c.Error) {
					t.Errorf("got %q, %v; want the error %q", value, err, c.Error)
				}
			case err != nil, found != (c.Value != nil), found && value != *c.Value:
				t.Errorf("got %q, %v, %v", value, found, err)
			}
		})
	}
}

func TestFileKey(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	must(t, os.WriteFile(secret, []byte("A='node'"), 0o600))
	vol := filepath.Join(dir, "vol")
	must(t, os.MkdirAll(filepath.Join(vol, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(vol, "sub/env"), []byte("A='one'\nEMPTY=''\n"), 0o600))
	must(t, os.Symlink("sub/env", filepath.Join(vol, "inside")))
	must(t, os.Symlink(secret, filepath.Join(vol, "outside")))
	must(t, os.WriteFile(filepath.Join(vol, "large"), make([]byte, maxEnvFile+1), 0o600))
	mounts := volume.Mounts{"v": {Path: vol}, "image": {}}

	for _, c := range []struct {
		volume, path, key string
		optional          bool
		value             string
		ok                bool
		wrong             string
	}{
		{volume: "v", path: "sub/env", key: "A", value: "one", ok: true},
		{volume: "v", path: "inside", key: "A", value: "one", ok: true},
		{volume: "v", path: "sub/env", key: "EMPTY", ok: true},
		{volume: "v", path: "sub/env", key: "B", wrong: `key "B" not found`},
		{volume: "v", path: "sub/env", key: "B", optional: true},
		{volume: "v", path: "none", key: "A", wrong: `volume "v" has no file none`},
		{volume: "v", path: "none", key: "A", optional: true},
		{volume: "v", path: "outside", key: "A", wrong: "outside"},
		{volume: "v", path: "outside", key: "A", optional: true, wrong: "outside"},
		{volume: "v", path: "../secret", key: "A", wrong: "secret"},
		{volume: "v", path: "sub", key: "A", wrong: "no regular file"},
		{volume: "v", path: "large", key: "A", wrong: "more than"},
		{volume: "other", path: "env", key: "A", wrong: `no volume "other"`},
		{volume: "image", path: "env", key: "A", wrong: `no volume "image"`},
	} {
		value, ok, err := fileKey(mounts, &v1.FileKeySelector{VolumeName: c.volume, Path: c.path, Key: c.key, Optional: &c.optional})
		if c.wrong != "" {
			if e := asUserError(t, err); e.Reason != "CreateContainerConfigError" || !strings.Contains(e.Message, c.wrong) {
				t.Errorf("%s %s: %v, want %q", c.path, c.key, e, c.wrong)
			}
			continue
		}
		if err != nil || ok != c.ok || value != c.value {
			t.Errorf("%s %s: got %q, %v, %v", c.path, c.key, value, ok, err)
		}
	}
}

func FuzzEnvFileValue(f *testing.F) {
	f.Add("A='1'\nB='2\n3' # c\n\n# d\nC= x", "B")
	f.Fuzz(func(t *testing.T, content, key string) {
		value, found, err := envFileValue(content, key)
		if strings.Contains(value, "'") || err != nil && found {
			t.Errorf("%q, %v, %v", value, found, err)
		}
		// What stands behind the line that counts does not matter.
		if found {
			if again, ok, err := envFileValue(content+"\n"+key+"='later'", key); again != value || !ok || err != nil {
				t.Errorf("with a later line: %q, %v, %v", again, ok, err)
			}
		}
	})
}
