package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// request is one container's wish for its image.
type request struct {
	p         *Puller
	pod       *v1.Pod
	container *v1.Container
	quiet     bool
	ref       reference
	spec      *runtimeapi.ImageSpec
}

// pulled is the outcome of a pull that went well.
type pulled struct {
	ref  string
	size uint64 // bytes, 0 if unknown
	took time.Duration
}

func (r *request) warn(reason, message string) {
	if !r.quiet {
		r.p.config.Events.Event(r.pod, r.container.Name, v1.EventTypeWarning, reason, message)
	}
}

// fail adds the event that names the reason, as upstream's does.
func (r *request) fail(err *Error) error {
	r.warn("Failed", "Error: "+err.Reason)
	return err
}

func (r *request) pull(ctx context.Context) (string, error) {
	image := r.spec.Image
	auths := r.credentials(ctx)
	key := backoffKey{r.pod.UID, image, fingerprint(auths)}
	if until, last, first := r.p.backoff.inside(key, time.Now()); !until.IsZero() {
		message := fmt.Sprintf("Back-off pulling image %q", image)
		err := &Error{Reason: ImagePullBackOff, Message: message + ": " + last.Error(), RetryAt: until, Err: last}
		if first && !r.quiet { // one event for each span, however often it is asked
			r.p.config.Events.Event(r.pod, r.container.Name, v1.EventTypeNormal, "BackOff", message)
			return "", r.fail(err)
		}
		return "", err
	}
	r.p.config.Events.Event(r.pod, r.container.Name, v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", image))

	start := time.Now()
	// A runtime may judge by namespace whether an image's signature will do,
	// so pulls are joined within one only.
	join := strings.Join([]string{image, r.pod.Namespace, r.spec.Annotations[handlerAnnotation], key.credentials}, "\x00")
	result, err := r.p.pulls.do(ctx, join, func(ctx context.Context) (pulled, error) { return r.run(ctx, auths) })
	if err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("wait for image %q: %w", image, context.Cause(ctx))
		}
		failure := pullError(image, err)
		if r.quiet {
			return "", failure
		}
		r.warn("Failed", fmt.Sprintf("Failed to pull image %q: %v", image, failure.Message))
		failure.RetryAt = r.p.backoff.failed(key, failure, time.Now())
		return "", r.fail(failure)
	}
	r.p.backoff.succeeded(key)
	waited := time.Since(start)
	r.p.metrics.pulled(result.size, waited)
	r.p.config.Events.Event(r.pod, r.container.Name, v1.EventTypeNormal, "Pulled",
		fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
			image, result.took.Truncate(time.Millisecond), waited.Truncate(time.Millisecond), result.size))
	return result.ref, nil
}

// run pulls on behalf of everybody who waits.
func (r *request) run(ctx context.Context, auths []*runtimeapi.AuthConfig) (pulled, error) {
	if err := r.p.slots.take(ctx, podspec.IsCritical(r.pod)); err != nil {
		return pulled{}, err
	}
	defer r.p.slots.give()
	if len(auths) == 0 {
		auths = []*runtimeapi.AuthConfig{nil} // anonymously
	}
	sandbox := &runtimeapi.PodSandboxConfig{
		Metadata:    &runtimeapi.PodSandboxMetadata{Name: r.pod.Name, Namespace: r.pod.Namespace, Uid: string(r.pod.UID)},
		Labels:      r.pod.Labels,
		Annotations: r.pod.Annotations,
	}
	start := time.Now()
	var errs []error
	for _, auth := range auths {
		if r.p.limiter != nil {
			if err := r.p.limiter.Wait(ctx); err != nil {
				return pulled{}, err
			}
		}
		ref, err := r.p.config.Service.PullImage(ctx, r.spec, auth, sandbox)
		if err == nil {
			result := pulled{ref: ref, took: time.Since(start)}
			// The size is for the event only.
			if image, err := r.p.inspect(ctx, r.spec); err == nil {
				result.size = image.GetSize()
			}
			return result, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return pulled{}, errors.Join(errs...)
}

// credentials are those that may open the image's registry, most specific
// first. What cannot be read is told and left out: the image may not need it.
func (r *request) credentials(ctx context.Context) []*runtimeapi.AuthConfig {
	ring := &keyring{}
	if r.p.config.Secrets != nil && len(r.pod.Spec.ImagePullSecrets) > 0 {
		secrets, err := r.p.config.Secrets(ctx, r.pod)
		for i := range secrets {
			if e := ring.addSecret(&secrets[i]); e != nil {
				err = errors.Join(err, e)
			}
		}
		if err != nil {
			r.warn("FailedToRetrieveImagePullSecret",
				fmt.Sprintf("Unable to retrieve some image pull secrets (%v); attempting to pull the image may not succeed.", err))
		}
	}
	auths := ring.lookup(r.ref.repository())
	if len(r.p.config.NodeConfigFiles) > 0 {
		node, err := readConfigFiles(r.p.config.NodeConfigFiles)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Some registry credentials of the node cannot be used")
		}
		auths = append(auths, node.lookup(r.ref.repository())...)
	}
	return auths
}

// fingerprint tells sets of credentials apart without keeping them.
func fingerprint(auths []*runtimeapi.AuthConfig) string {
	if len(auths) == 0 {
		return ""
	}
	h := sha256.New()
	for _, a := range auths {
		for _, s := range []string{a.Username, a.Password, a.Auth, a.IdentityToken, a.RegistryToken} {
			fmt.Fprintf(h, "%d:%s", len(s), s)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
