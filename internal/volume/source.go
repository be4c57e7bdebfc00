package volume

import (
	"reflect"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// sourceName returns the name of a volume's type as it stands in a manifest:
// the JSON name of the one field of the source that is set.
func sourceName(v *v1.Volume) string {
	source := reflect.ValueOf(v.VolumeSource)
	for i := range source.NumField() {
		if f := source.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "(none)"
}
