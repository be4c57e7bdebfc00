package criconfig

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/podspec"
	"kubelet/internal/volume"
	"kubelet/internal/volume/subpath"
)

// ImageRef knows one image.
func (c *cluster) ImageRef(_ context.Context, _ *v1.Pod, name string) (string, error) {
	if name != "registry.example.com/models:1" {
		return "", nil
	}
	return "sha256:models", nil
}

// bindings notes what is asked for.
type bindings struct {
	parts []subpath.Part
	err   error
}

func (b *bindings) Bind(_ context.Context, p subpath.Part) (string, error) {
	b.parts = append(b.parts, p)
	return filepath.Join(p.PodDir, "bound", p.SubPath), b.err
}

// Parts of volumes are mounted from where they were bound, with everything
// else as for the whole volume; the index is the mount's in the spec.
func TestSubPaths(t *testing.T) {
	content, err := os.ReadFile("testdata/minimal.yaml")
	must(t, err)
	c := load(t, content)
	c.pod.Spec.Volumes = []v1.Volume{{Name: "v"}, {Name: "s", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{}}}}
	container := &c.pod.Spec.Containers[0]
	container.Env = []v1.EnvVar{{Name: "POD", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}}, {Name: "EMPTY"}}
	container.VolumeMounts = []v1.VolumeMount{
		{Name: "v", MountPath: "/whole"},
		{Name: "v", MountPath: "/part", SubPath: "a/b"},
		{Name: "v", MountPath: "/expr", SubPathExpr: "logs/$(POD)/$$(POD)", ReadOnly: true},
		{Name: "s", MountPath: "/key", SubPath: "key"},
		{Name: "v", MountPath: "/empty", SubPathExpr: "$(EMPTY)"},
	}
	bound := &bindings{}
	b := node(t, c)
	b.SubPaths = bound
	config, err := b.Container(t.Context(), input(c, container, podspec.Regular))
	must(t, err)
	pod := b.podDir(c.pod)
	want := []string{
		"/whole /vol/v rw", "/part " + pod + "/bound/a/b rw", "/expr " + pod + "/bound/logs/" + c.pod.Name + "/$(POD) ro",
		"/key " + pod + "/bound/key ro", "/empty /vol/v rw",
	}
	var got []string
	for _, m := range config.Mounts[:len(want)] {
		got = append(got, m.ContainerPath+" "+m.HostPath+map[bool]string{true: " ro", false: " rw"}[m.Readonly])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]subpath.Part{
		{PodDir: pod, Volume: "v", Container: container.Name, Index: 1, VolumePath: "/vol/v", SubPath: "a/b"},
		{PodDir: pod, Volume: "v", Container: container.Name, Index: 2, VolumePath: "/vol/v", SubPath: "logs/" + c.pod.Name + "/$(POD)"},
		{PodDir: pod, Volume: "s", Container: container.Name, Index: 3, VolumePath: "/vol/s", SubPath: "key"},
	}, bound.parts); diff != "" {
		t.Errorf("bound (-want +got):\n%s", diff)
	}

	bound.err = errors.New("a link leads out of the volume")
	_, err = b.Container(t.Context(), input(c, container, podspec.Regular))
	if e := asUserError(t, err); e.Reason != "CreateContainerConfigError" || !strings.Contains(e.Message, `volume mount "v": a link leads out of the volume`) {
		t.Errorf("error %v", e)
	}
}

// Image volumes are the runtime's to mount, read-only, by the image's own id.
func TestImageVolumes(t *testing.T) {
	content, err := os.ReadFile("testdata/minimal.yaml")
	must(t, err)
	c := load(t, content)
	c.pod.Annotations = map[string]string{"a": "b"}
	c.pod.Spec.Volumes = []v1.Volume{{Name: "models", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "registry.example.com/models:1"}}}}
	spec := &c.pod.Spec.Containers[0]
	spec.Env = []v1.EnvVar{{Name: "SIZE", Value: "small"}}
	spec.VolumeMounts = []v1.VolumeMount{{Name: "models", MountPath: "/m", SubPathExpr: "v1/$(SIZE)"}}
	in := input(c, spec, podspec.Regular)
	in.Mounts["models"] = volume.Mount{ReadOnly: true}
	b := node(t, c)
	config, err := b.Container(t.Context(), in)
	must(t, err)
	want := &runtimeapi.Mount{ContainerPath: "/m", Readonly: true, ImageSubPath: "v1/small", Image: &runtimeapi.ImageSpec{
		Image: "sha256:models", UserSpecifiedImage: "registry.example.com/models:1", Annotations: map[string]string{"a": "b"}}}
	if diff := cmp.Diff(want, config.Mounts[0], protocmp.Transform()); diff != "" {
		t.Errorf("mount (-want +got):\n%s", diff)
	}
	b.ImageVolumes = func(context.Context) error { return errors.New("containerd 1.6 cannot mount images") }
	_, err = b.Container(t.Context(), in)
	if e := asUserError(t, err); !strings.Contains(e.Message, `volume "models": image volumes: containerd 1.6 cannot`) {
		t.Errorf("error %v", e)
	}
	b.ImageVolumes = nil
	c.pod.Spec.Volumes[0].Image.Reference = "registry.example.com/gone:1"
	_, err = b.Container(t.Context(), in)
	if e := asUserError(t, err); !strings.Contains(e.Message, `image "registry.example.com/gone:1" is gone`) {
		t.Errorf("error %v", e)
	}
}
