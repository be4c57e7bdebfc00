// Package projected is the volume type projected: several sources in one
// directory (https://kubernetes.io/docs/concepts/storage/projected-volumes/),
// in memory. It owns the content and the tmpfs of the volume's directory.
package projected

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
	"kubelet/internal/volume"
	"kubelet/internal/volume/atomicfiles"
	"kubelet/internal/volume/backing"
	"kubelet/internal/volume/configmap"
	"kubelet/internal/volume/downwardapi"
	"kubelet/internal/volume/publish"
	"kubelet/internal/volume/secret"
)

// Plugin mounts projected volumes.
type Plugin struct {
	maker   *backing.Maker
	objects volume.Objects
	tokens  volume.Tokens
}

// New returns the plugin.
func New(maker *backing.Maker, objects volume.Objects, tokens volume.Tokens) *Plugin {
	return &Plugin{maker, objects, tokens}
}

// Name is upstream's.
func (*Plugin) Name() string { return "kubernetes.io/projected" }

// Supports says whether v is a projected volume.
func (*Plugin) Supports(v *v1.Volume) bool { return v.Projected != nil }

// Immediate is true unless a source is not built yet: a pod that can never
// start takes no IP.
func (*Plugin) Immediate(v *v1.Volume) bool {
	for i := range v.Projected.Sources {
		if unsupported(&v.Projected.Sources[i]) != "" {
			return false
		}
	}
	return true
}

func unsupported(source *v1.VolumeProjection) string {
	switch {
	case source.ClusterTrustBundle != nil:
		return "clusterTrustBundle"
	case source.PodCertificate != nil:
		return "podCertificate"
	}
	return ""
}

// Mount writes the files, if they are not what they should be.
func (p *Plugin) Mount(ctx context.Context, spec volume.Spec) (volume.Mount, error) {
	return publish.Files(ctx, p.maker, spec, backing.Wanted{Medium: backing.Memory},
		func(ctx context.Context) (atomicfiles.Payload, time.Time, error) {
			c := collection{plugin: p, spec: spec, files: atomicfiles.Payload{}}
			var errs []error
			for i := range spec.Volume.Projected.Sources {
				if err := c.add(ctx, &spec.Volume.Projected.Sources[i]); err != nil {
					errs = append(errs, err)
				}
			}
			return c.files, c.refresh, join(errs)
		})
}

// collection gathers the files of one volume. Where paths are the same, a
// later source goes before an earlier one.
type collection struct {
	plugin  *Plugin
	spec    volume.Spec
	files   atomicfiles.Payload
	refresh time.Time
}

func (c *collection) add(ctx context.Context, source *v1.VolumeProjection) error {
	p, mode := c.plugin, c.spec.Volume.Projected.DefaultMode
	switch {
	case source.Secret != nil:
		s := source.Secret
		return secret.Collect(ctx, p.objects, c.spec, publish.Keys{Object: s.Name, Items: s.Items, Optional: s.Optional, DefaultMode: mode}, c.files)
	case source.ConfigMap != nil:
		s := source.ConfigMap
		return configmap.Collect(ctx, p.objects, c.spec, publish.Keys{Object: s.Name, Items: s.Items, Optional: s.Optional, DefaultMode: mode}, c.files)
	case source.DownwardAPI != nil:
		return downwardapi.Collect(c.spec.Pod, source.DownwardAPI.Items, mode, p.maker.Allocatable(), c.files)
	case source.ServiceAccountToken != nil:
		return c.addToken(ctx, source.ServiceAccountToken)
	}
	if kind := unsupported(source); kind != "" {
		return &volume.Error{Permanent: true, Err: fmt.Errorf("projected sources of type %s are not supported yet", kind)}
	}
	return nil
}

// defaultExpiration of a token in seconds, from the API reference.
const defaultExpiration = 3600

func (c *collection) addToken(ctx context.Context, s *v1.ServiceAccountTokenProjection) error {
	pod := c.spec.Pod
	expiration := int64(defaultExpiration)
	if s.ExpirationSeconds != nil {
		expiration = *s.ExpirationSeconds
	}
	if err := c.spec.Step("wait for", "token of service account "+pod.Namespace+"/"+pod.Spec.ServiceAccountName); err != nil {
		return err
	}
	token, refresh, err := c.plugin.tokens.Token(ctx, pod, s.Audience, expiration)
	if err != nil {
		return fmt.Errorf("get token of service account %q: %w", pod.Spec.ServiceAccountName, err)
	}
	file := atomicfiles.File{
		Data: []byte(token),
		Mode: publish.Mode(c.spec.Volume.Projected.DefaultMode),
		User: soleUser(pod),
	}
	// A token that has an owner other than root is for nobody else; the
	// pod's group gets to read it when the volume changes hands (KEP-1205).
	if file.User != nil || publish.FSGroup(pod) != nil {
		file.Mode = 0o600
	}
	c.files[s.Path] = file
	if !refresh.IsZero() && (c.refresh.IsZero() || refresh.Before(c.refresh)) {
		c.refresh = refresh
	}
	return nil
}

// soleUser returns the user that all containers of the pod run as, or nil if
// they differ or one does not say.
func soleUser(pod *v1.Pod) *int64 {
	var sole *int64
	same := true
	podspec.EachContainer(pod, func(c *v1.Container, _ podspec.Kind) bool {
		var user *int64
		if pod.Spec.SecurityContext != nil {
			user = pod.Spec.SecurityContext.RunAsUser
		}
		if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
			user = c.SecurityContext.RunAsUser
		}
		same = user != nil && (sole == nil || *sole == *user)
		sole = user
		return same
	})
	if !same {
		return nil
	}
	return sole
}

// join makes one error of those of several sources. It waits for the first
// missing object, and is permanent if any of them is.
func join(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	out := &volume.Error{}
	texts := make([]string, 0, len(errs))
	for _, err := range errs {
		if own, ok := errors.AsType[*volume.Error](err); ok {
			out.Permanent = out.Permanent || own.Permanent
			if out.Missing == "" {
				out.Missing = own.Missing
			}
			err = own.Err
		}
		texts = append(texts, err.Error())
	}
	out.Err = errors.New(strings.Join(texts, "; "))
	return out
}

// Unmount unmounts the tmpfs, and the tokens are gone.
func (*Plugin) Unmount(_ context.Context, target volume.Target) error {
	return backing.Unmount(target)
}
