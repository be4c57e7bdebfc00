package publish

import (
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/volume/atomicfiles"
)

// defaultMode is that of the API for files of volumes.
const defaultMode int32 = 0o644

// Mode returns the first mode that is set, or the API's default.
func Mode(modes ...*int32) int32 {
	for _, m := range modes {
		if m != nil {
			return *m
		}
	}
	return defaultMode
}

// Keys says which keys of a ConfigMap or Secret become which files.
type Keys struct {
	Object string
	// Items, if there are any, choose keys and name their files; otherwise
	// each key is a file.
	Items       []v1.KeyToPath
	Optional    *bool
	DefaultMode *int32
}

// IsOptional says whether the object, or a key of it, may be missing.
func (k Keys) IsOptional() bool { return k.Optional != nil && *k.Optional }

// Add adds the files. It returns the first key that is missing although it
// must not be.
func (k Keys) Add(data map[string][]byte, files atomicfiles.Payload) (missing string) {
	if len(k.Items) == 0 {
		for key, value := range data {
			files[key] = atomicfiles.File{Data: value, Mode: Mode(k.DefaultMode)}
		}
		return ""
	}
	for _, item := range k.Items {
		value, ok := data[item.Key]
		if !ok {
			if k.IsOptional() {
				continue
			}
			return item.Key
		}
		files[item.Path] = atomicfiles.File{Data: value, Mode: Mode(item.Mode, k.DefaultMode)}
	}
	return ""
}
