package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"kubelet/internal/volume"
)

type mountCase struct {
	Root            bool
	ConfigMaps      map[string]*v1.ConfigMap
	Secrets         map[string]*v1.Secret
	Volumes         []v1.Volume
	Unmounted       []string
	MountPaths      map[string]string
	SecurityContext *v1.PodSecurityContext
	Allocatable     v1.ResourceList

	Want      map[string]string
	Error     string
	Missing   string
	Permanent bool
}

func TestMount(t *testing.T) {
	files, err := filepath.Glob("testdata/mount/*.yaml")
	must(t, err)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			must(t, err)
			var c mountCase
			must(t, yaml.UnmarshalStrict(data, &c))
			if c.Root {
				needRoot(t)
			}
			testMount(t, c)
		})
	}
}

func testMount(t *testing.T, c mountCase) {
	n := newNode(t)
	n.allocatable = c.Allocatable
	for name, o := range c.ConfigMaps {
		n.api.configMaps["default/"+name] = o
	}
	for name, o := range c.Secrets {
		n.api.secrets["default/"+name] = o
	}
	pod := newPod("uid-1", c.Volumes...)
	pod.Spec.SecurityContext = c.SecurityContext
	main := &pod.Spec.Containers[0]
	main.VolumeMounts = slices.DeleteFunc(main.VolumeMounts, func(m v1.VolumeMount) bool { return slices.Contains(c.Unmounted, m.Name) })
	for i := range main.VolumeMounts {
		if path := c.MountPaths[main.VolumeMounts[i].Name]; path != "" {
			main.VolumeMounts[i].MountPath = path
		}
	}

	// Three agents one after the other, each asked twice: nothing changes.
	for range 3 {
		r := n.start()
		for range 2 {
			mounts, err := r.Mount(context.Background(), pod)
			if c.Error != "" {
				var ve *volume.Error
				if err == nil || err.Error() != c.Error || !errors.As(err, &ve) {
					t.Fatalf("error  %v\nwanted %s", err, c.Error)
				}
				if ve.Missing != c.Missing || ve.Permanent != c.Permanent {
					t.Errorf("missing %q, permanent %v; wanted %q, %v", ve.Missing, ve.Permanent, c.Missing, c.Permanent)
				}
				continue
			}
			must(t, err)
			for name, want := range c.Want {
				if diff := cmp.Diff(want, listing(t, mounts[name].Path)); diff != "" {
					t.Errorf("volume %s (- want, + is):\n%s", name, diff)
				}
			}
		}
	}
	if info, err := os.Stat(n.podDir(pod.UID)); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("pod directory: %v, %v; want mode 0750", info.Mode(), err)
	}
	must(t, n.start().Unmount(context.Background(), pod.UID))
	n.clean(pod.UID)
}
