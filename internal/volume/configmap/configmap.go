// Package configmap is the volume type configMap: the keys of a ConfigMap as
// files (https://kubernetes.io/docs/concepts/storage/volumes/#configmap), on
// disk. It owns the content of the volume's directory.
package configmap

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"kubelet/internal/volume"
	"kubelet/internal/volume/atomicfiles"
	"kubelet/internal/volume/backing"
	"kubelet/internal/volume/publish"
)

// Plugin mounts configMap volumes.
type Plugin struct {
	maker   *backing.Maker
	objects volume.Objects
}

// New returns the plugin.
func New(maker *backing.Maker, objects volume.Objects) *Plugin { return &Plugin{maker, objects} }

// Name is upstream's.
func (*Plugin) Name() string { return "kubernetes.io/configmap" }

// Supports says whether v is a configMap.
func (*Plugin) Supports(v *v1.Volume) bool { return v.ConfigMap != nil }

// Immediate is true: it waits for the object at most.
func (*Plugin) Immediate(*v1.Volume) bool { return true }

// Mount writes the files, if they are not what they should be.
func (p *Plugin) Mount(ctx context.Context, spec volume.Spec) (volume.Mount, error) {
	source := spec.Volume.ConfigMap
	return publish.Files(ctx, p.maker, spec, backing.Wanted{Medium: backing.Disk},
		func(ctx context.Context) (atomicfiles.Payload, time.Time, error) {
			files := atomicfiles.Payload{}
			err := Collect(ctx, p.objects, spec, publish.Keys{
				Object:      source.Name,
				Items:       source.Items,
				Optional:    source.Optional,
				DefaultMode: source.DefaultMode,
			}, files)
			return files, time.Time{}, err
		})
}

// Collect adds the files of a ConfigMap. Projected volumes use it, too.
func Collect(ctx context.Context, objects volume.Objects, spec volume.Spec, keys publish.Keys, files atomicfiles.Payload) error {
	namespace := spec.Pod.Namespace
	if err := spec.Step("wait for", "configmap "+namespace+"/"+keys.Object); err != nil {
		return err
	}
	cm, err := objects.ConfigMap(ctx, namespace, keys.Object)
	switch {
	case apierrors.IsNotFound(err):
		if keys.IsOptional() {
			return nil
		}
		return &volume.Error{
			Missing: "configmap " + namespace + "/" + keys.Object,
			Err:     fmt.Errorf("configmap %q not found", keys.Object),
		}
	case err != nil:
		return fmt.Errorf("get configmap %q: %w", keys.Object, err)
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for key, value := range cm.Data {
		data[key] = []byte(value)
	}
	for key, value := range cm.BinaryData {
		if _, text := cm.Data[key]; !text {
			data[key] = value
		}
	}
	if missing := keys.Add(data, files); missing != "" {
		return fmt.Errorf("configmap %q: references non-existent config key: %s", keys.Object, missing)
	}
	return nil
}

// Unmount unmounts a tmpfs, should another kubelet have used one.
func (*Plugin) Unmount(_ context.Context, target volume.Target) error {
	return backing.Unmount(target)
}
