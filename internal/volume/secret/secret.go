// Package secret is the volume type secret: the keys of a Secret as files
// (https://kubernetes.io/docs/concepts/storage/volumes/#secret), in memory and
// never on disk. It owns the content and the tmpfs of the volume's directory.
package secret

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

// Plugin mounts secret volumes.
type Plugin struct {
	maker   *backing.Maker
	objects volume.Objects
}

// New returns the plugin.
func New(maker *backing.Maker, objects volume.Objects) *Plugin { return &Plugin{maker, objects} }

// Name is upstream's.
func (*Plugin) Name() string { return "kubernetes.io/secret" }

// Supports says whether v is a secret.
func (*Plugin) Supports(v *v1.Volume) bool { return v.Secret != nil }

// Immediate is true: it waits for the object at most.
func (*Plugin) Immediate(*v1.Volume) bool { return true }

// Mount writes the files, if they are not what they should be.
func (p *Plugin) Mount(ctx context.Context, spec volume.Spec) (volume.Mount, error) {
	source := spec.Volume.Secret
	return publish.Files(ctx, p.maker, spec, backing.Wanted{Medium: backing.Memory},
		func(ctx context.Context) (atomicfiles.Payload, time.Time, error) {
			files := atomicfiles.Payload{}
			err := Collect(ctx, p.objects, spec, publish.Keys{
				Object:      source.SecretName,
				Items:       source.Items,
				Optional:    source.Optional,
				DefaultMode: source.DefaultMode,
			}, files)
			return files, time.Time{}, err
		})
}

// Collect adds the files of a Secret. Projected volumes use it, too.
func Collect(ctx context.Context, objects volume.Objects, spec volume.Spec, keys publish.Keys, files atomicfiles.Payload) error {
	namespace := spec.Pod.Namespace
	if err := spec.Step("wait for", "secret "+namespace+"/"+keys.Object); err != nil {
		return err
	}
	secret, err := objects.Secret(ctx, namespace, keys.Object)
	switch {
	case apierrors.IsNotFound(err):
		if keys.IsOptional() {
			return nil
		}
		return &volume.Error{
			Missing: "secret " + namespace + "/" + keys.Object,
			Err:     fmt.Errorf("secret %q not found", keys.Object),
		}
	case err != nil:
		return fmt.Errorf("get secret %q: %w", keys.Object, err)
	}
	if missing := keys.Add(secret.Data, files); missing != "" {
		return fmt.Errorf("secret %q: references non-existent secret key: %s", keys.Object, missing)
	}
	return nil
}

// Unmount unmounts the tmpfs, and the secrets are gone.
func (*Plugin) Unmount(_ context.Context, target volume.Target) error {
	return backing.Unmount(target)
}
