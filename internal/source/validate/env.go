package validate

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The pod's fields that a container may read
// (https://kubernetes.io/docs/concepts/workloads/pods/downward-api/), as
// environment variables and in files.
var (
	envFields = []string{
		"metadata.name", "metadata.namespace", "metadata.uid",
		"spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
		"spec.host", // old name of spec.nodeName
	}
	fileFields = []string{"metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"}

	resourceFields = []string{
		"limits.cpu", "limits.memory", "limits.ephemeral-storage",
		"requests.cpu", "requests.memory", "requests.ephemeral-storage",
	}
	byteDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
)

func (c *check) env(list []v1.EnvVar, p *field.Path) {
	for i, env := range list {
		at := p.Index(i)
		if c.nonEmpty(at.Child("name"), env.Name) {
			c.all(at.Child("name"), env.Name, validation.IsRelaxedEnvVarName(env.Name))
		}
		from := env.ValueFrom
		if from == nil {
			continue
		}
		at = at.Child("valueFrom")
		sources := 0
		if from.FieldRef != nil {
			sources++
			c.fieldRef(from.FieldRef, envFields, at.Child("fieldRef"))
		}
		if from.ResourceFieldRef != nil {
			sources++
			c.resourceFieldRef(from.ResourceFieldRef, at.Child("resourceFieldRef"))
		}
		if from.FileKeyRef != nil {
			sources++
			c.fileKeyRef(from.FileKeyRef, at.Child("fileKeyRef"))
		}
		// References to secrets and config maps are refused where all
		// references are.
		if from.SecretKeyRef != nil {
			sources++
		}
		if from.ConfigMapKeyRef != nil {
			sources++
		}
		switch {
		case sources == 0:
			c.required(at, "must name a source")
		case sources > 1:
			c.invalid(at, "", "must name only one source")
		case env.Value != "":
			c.invalid(at, "", "must not be set where value is")
		}
	}
}

// subscripted splits metadata.labels['key'] into path and key.
func subscripted(path string) (base, key string, ok bool) {
	rest, ok := strings.CutSuffix(path, "']")
	if !ok {
		return path, "", false
	}
	base, key, ok = strings.Cut(rest, "['")
	if !ok || base == "" {
		return path, "", false
	}
	return base, key, true
}

func (c *check) fieldRef(ref *v1.ObjectFieldSelector, known []string, p *field.Path) {
	if ref.APIVersion != "v1" {
		c.invalid(p.Child("apiVersion"), ref.APIVersion, "must be v1")
		return
	}
	at := p.Child("fieldPath")
	if !c.nonEmpty(at, ref.FieldPath) {
		return
	}
	base, key, ok := subscripted(ref.FieldPath)
	switch {
	case ok && base == "metadata.annotations":
		c.all(at, ref.FieldPath, validation.IsQualifiedName(strings.ToLower(key)))
	case ok && base == "metadata.labels":
		c.all(at, ref.FieldPath, validation.IsQualifiedName(key))
	case ok:
		c.invalid(at, ref.FieldPath, "only metadata.labels and metadata.annotations take a key")
	case !slices.Contains(known, ref.FieldPath):
		c.errs = append(c.errs, field.NotSupported(at, ref.FieldPath, known))
	}
}

func (c *check) resourceFieldRef(ref *v1.ResourceFieldSelector, p *field.Path) {
	at := p.Child("resource")
	hugePages := strings.HasPrefix(ref.Resource, "limits."+v1.ResourceHugePagesPrefix) || strings.HasPrefix(ref.Resource, "requests."+v1.ResourceHugePagesPrefix)
	if c.nonEmpty(at, ref.Resource) && !hugePages && !slices.Contains(resourceFields, ref.Resource) {
		c.errs = append(c.errs, field.NotSupported(at, ref.Resource, resourceFields))
	}
	if ref.Divisor.Cmp(resource.Quantity{}) == 0 {
		return
	}
	divisors := byteDivisors
	switch {
	case strings.HasSuffix(ref.Resource, ".cpu"):
		divisors = []string{"1m", "1"}
	case !hugePages && !slices.Contains(resourceFields, ref.Resource):
		return
	}
	if d := ref.Divisor.String(); !slices.Contains(divisors, d) {
		c.errs = append(c.errs, field.NotSupported(p.Child("divisor"), d, divisors))
	}
}

// fileKeyRef checks a variable read from a file in an emptyDir (KEP-3721).
func (c *check) fileKeyRef(ref *v1.FileKeySelector, p *field.Path) {
	if c.nonEmpty(p.Child("key"), ref.Key) {
		c.all(p.Child("key"), ref.Key, validation.IsRelaxedEnvVarName(ref.Key))
	}
	if c.nonEmpty(p.Child("path"), ref.Path) {
		c.noBacksteps(p.Child("path"), ref.Path)
	}
	at := p.Child("volumeName")
	if !c.nonEmpty(at, ref.VolumeName) {
		return
	}
	c.all(at, ref.VolumeName, validation.IsDNS1123Label(ref.VolumeName))
	// The last of several volumes of one name counts, but those are an error
	// anyway.
	i := slices.IndexFunc(c.spec.Volumes, func(v v1.Volume) bool { return v.Name == ref.VolumeName })
	if i < 0 {
		c.errs = append(c.errs, field.NotFound(at, ref.VolumeName))
	} else if c.spec.Volumes[i].EmptyDir == nil {
		c.invalid(at, ref.VolumeName, "must be an emptyDir volume")
	}
}
