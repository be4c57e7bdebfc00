package podsecurity_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"kubelet/internal/security/podsecurity"
)

// A changed file is in force at once; a broken one is told and changes
// nothing, however it came there.
func TestFileIsFollowed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "policy.yaml")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (*podsecurity.Configuration, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		c := &podsecurity.Configuration{}
		return c, yaml.UnmarshalStrict(data, c)
	}
	const off, baseline, broken = "podSecurity: {}", "podSecurity: {enforce: {level: baseline}}", "podSecurity: {enforce: {levle: baseline}}"
	write("policy.yaml", off)
	changed, problems := make(chan struct{}, 10), make(chan error, 10)
	first, err := read()
	if err != nil {
		t.Fatal(err)
	}
	file, err := podsecurity.NewFile(podsecurity.FileConfig{
		Path: path, Node: "n", Read: read,
		Changed: func() { changed <- struct{}{} },
		Problem: func(err error) { problems <- err },
	}, *first)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- file.Run(ctx) }()

	const patience = 30 * time.Second
	enforces := func() bool {
		return file.Policy().Evaluate(&v1.Pod{Spec: v1.PodSpec{HostPID: true}}).Enforce != nil
	}
	change := func(want bool, how string) {
		t.Helper()
		for enforces() != want {
			select {
			case <-changed:
			case <-time.After(patience):
				t.Fatalf("%s: no other policy is in force", how)
			}
		}
	}
	problem := func(want string) {
		t.Helper()
		for {
			select {
			case err := <-problems:
				switch {
				case err == nil && want == "", err != nil && want != "" && strings.Contains(err.Error(), want):
					return
				}
			case <-time.After(patience):
				t.Fatalf("no problem that says %q", want)
			}
		}
	}
	if enforces() {
		t.Fatal("enforces before anything was asked for")
	}
	write("policy.yaml", baseline)
	change(true, "written in place")
	write("policy.yaml", broken)
	problem("levle")
	if !enforces() {
		t.Error("a broken file ended the policy")
	}
	write("policy.yaml", off)
	problem("")
	change(false, "mended")
	write("new", baseline)
	if err := os.Rename(filepath.Join(dir, "new"), path); err != nil {
		t.Fatal(err)
	}
	change(true, "renamed over")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	problem("no such file")
	if !enforces() {
		t.Error("the end of the file ended the policy")
	}
	// As a ConfigMap's volume changes its files.
	for _, v := range []struct{ dir, text string }{{"1", off}, {"2", baseline}} {
		if err := os.Mkdir(filepath.Join(dir, v.dir), 0o755); err != nil {
			t.Fatal(err)
		}
		write(v.dir+"/policy.yaml", v.text)
	}
	if err := os.Symlink("1", filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("data/policy.yaml", path); err != nil {
		t.Fatal(err)
	}
	change(false, "a link")
	if err := os.Symlink("2", filepath.Join(dir, "next")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	change(true, "the directory behind a link replaced")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("end: %v", err)
	}
}
