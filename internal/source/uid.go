package source

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// staticUID returns the UID of a static pod that names none: a hash over the
// pod with its defaults, before it gets its node, and over where it comes
// from. It equals the upstream kubelet's, so that either recognises the pods
// of the other; the differential test compares the two.
//
// Upstream hashes the text that the spew library makes of its internal types.
// Those have the same fields as the public ones since 1.37, in the same order
// and under the same names, and differ in the name of their package only.
func staticUID(pod *v1.Pod, o origin) types.UID {
	h := fnv.New128a()
	d := dumper{w: h}
	d.value(reflect.ValueOf(pod), true)
	if o.file {
		fmt.Fprintf(h, "host:%sfile:%s", o.node, o.name)
	} else {
		fmt.Fprintf(h, "url:%s", o.name)
	}
	return types.UID(hex.EncodeToString(h.Sum(nil)))
}

// dumper writes values as spew's Sprintf("%#v") does with the settings that
// Kubernetes hashes with: sorted keys, no methods, no addresses.
type dumper struct{ w io.Writer }

func (d dumper) text(s string) { io.WriteString(d.w, s) } // a hash never fails

// typeName names a type as if the API's types stood in upstream's package.
func typeName(t reflect.Type) string {
	switch {
	case t.PkgPath() == "k8s.io/api/core/v1":
		return "core." + t.Name()
	case t.Name() != "":
		return t.String()
	case t.Kind() == reflect.Pointer:
		return "*" + typeName(t.Elem())
	case t.Kind() == reflect.Slice:
		return "[]" + typeName(t.Elem())
	case t.Kind() == reflect.Map:
		return "map[" + typeName(t.Key()) + "]" + typeName(t.Elem())
	default:
		return t.String()
	}
}

// value writes v, with its type in front where typed says so: that of struct
// fields is written, that of elements and behind pointers is known.
func (d dumper) value(v reflect.Value, typed bool) {
	if v.Kind() == reflect.Pointer {
		d.pointer(v, typed)
		return
	}
	if typed {
		d.text("(" + typeName(v.Type()) + ")")
	}
	switch v.Kind() {
	case reflect.Bool:
		d.text(strconv.FormatBool(v.Bool()))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		d.text(strconv.FormatInt(v.Int(), 10))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		d.text(strconv.FormatUint(v.Uint(), 10))
	case reflect.String:
		d.text(v.String())
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.IsNil() {
			d.text("<nil>")
			return
		}
		d.text("[")
		for i := range v.Len() {
			if i > 0 {
				d.text(" ")
			}
			d.value(v.Index(i), false)
		}
		d.text("]")
	case reflect.Map:
		if v.IsNil() {
			d.text("<nil>")
			return
		}
		d.text("map[")
		keys := v.MapKeys() // strings, in all types of a pod
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for i, key := range keys {
			if i > 0 {
				d.text(" ")
			}
			d.value(key, false)
			d.text(":")
			d.value(v.MapIndex(key), false)
		}
		d.text("]")
	case reflect.Struct:
		d.text("{")
		for i := range v.NumField() {
			if i > 0 {
				d.text(" ")
			}
			d.text(v.Type().Field(i).Name + ":")
			d.value(v.Field(i), true)
		}
		d.text("}")
	default:
		panic("source: a pod has no field of type " + v.Type().String())
	}
}

// pointer writes what v points to. A nil pointer shows its type, stars and
// all; another one shows stars for what was followed.
func (d dumper) pointer(v reflect.Value, typed bool) {
	stars := 0
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		stars++
		v = v.Elem()
	}
	isNil := v.Kind() == reflect.Pointer
	switch name := typeName(v.Type()); {
	case typed:
		d.text("(" + strings.Repeat("*", stars) + name + ")")
	case isNil && stars == 0:
		d.text("<nil>")
		return
	case isNil:
		d.text("<" + strings.Repeat("*", stars+strings.Count(name, "*")) + ">")
	default:
		d.text("<" + strings.Repeat("*", stars) + ">")
	}
	if isNil {
		d.text("<nil>")
		return
	}
	d.value(v, false)
}
