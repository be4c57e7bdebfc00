package podspec_test

import (
	"os"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"kubelet/internal/podspec"
)

func TestDownwardFields(t *testing.T) {
	data, err := os.ReadFile("testdata/fields.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var table struct {
		Pod         v1.Pod
		Allocatable v1.ResourceList
		Fields      []struct{ Path, Want, Error string }
		Resources   []struct{ Container, Resource, Divisor, Want, Error string }
	}
	if err := yaml.UnmarshalStrict(data, &table); err != nil {
		t.Fatal(err)
	}
	check := func(t *testing.T, got string, err error, want, wantErr string) {
		t.Helper()
		switch {
		case wantErr == "" && err != nil:
			t.Errorf("error %v, want %q", err, want)
		case wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
			t.Errorf("got %q, error %v; want an error with %q", got, err, wantErr)
		case wantErr == "" && got != want:
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, c := range table.Fields {
		t.Run(c.Path, func(t *testing.T) {
			got, err := podspec.FieldValue(&table.Pod, c.Path)
			check(t, got, err, c.Want, c.Error)
		})
	}
	for _, c := range table.Resources {
		t.Run(c.Container+" "+c.Resource+" by "+c.Divisor, func(t *testing.T) {
			ref := &v1.ResourceFieldSelector{Resource: c.Resource}
			if c.Divisor != "" {
				ref.Divisor = resource.MustParse(c.Divisor)
			}
			got, err := podspec.ResourceValue(&table.Pod, c.Container, ref, table.Allocatable)
			check(t, got, err, c.Want, c.Error)

			// A container that ref names goes before the caller's own.
			ref.ContainerName = c.Container
			got, err = podspec.ResourceValue(&table.Pod, "other", ref, table.Allocatable)
			check(t, got, err, c.Want, c.Error)
		})
	}
}

func FuzzFieldValue(f *testing.F) {
	f.Add("metadata.labels['a']")
	f.Add("metadata.annotations['']']")
	f.Fuzz(func(t *testing.T, path string) {
		_, _ = podspec.FieldValue(&v1.Pod{}, path)
	})
}
