package manifestdiff

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
)

func copyJSON(from, to any) {
	data, _ := json.Marshal(from)
	json.Unmarshal(data, to)
}

func collect(v any, values *[]any) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range keys(v) {
			collect(v[k], values)
		}
	case []any:
		for _, e := range v {
			collect(e, values)
		}
	}
	*values = append(*values, v)
}

func keys(m map[string]any) []string {
	k := make([]string, 0, len(m))
	for key := range m {
		k = append(k, key)
	}
	slices.Sort(k)
	return k
}

var odd = []any{"", "x", "X-", "a.b/c", "..", "../x", "/abs", " ", "1", 0, 1, -1, 65536, 1 << 40, 1.5, true, false, nil, []any{}, map[string]any{}, "100m", "1.0000001", "latest", "UPPER:latest", "a:latest@sha256:x"}

// mutate changes one place below m.
func mutate(r *rand.Rand, v any, values []any, depth int) {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 {
			return
		}
		ks := keys(v)
		if depth == 0 {
			ks = slices.DeleteFunc(ks, func(k string) bool { return k == "apiVersion" || k == "kind" })
		}
		k := ks[r.IntN(len(ks))]
		// Most changes should be deep, where the rules are.
		if inner := v[k]; r.IntN(8) > 0 || depth < 2 {
			switch inner.(type) {
			case map[string]any, []any:
				mutate(r, inner, values, depth+1)
				return
			}
		}
		switch r.IntN(5) {
		case 0:
			delete(v, k)
		case 1:
			v[k] = odd[r.IntN(len(odd))]
		case 2:
			var other any
			copyJSON(values[r.IntN(len(values))], &other)
			v[k] = other
		case 3:
			if s, ok := v[k].(string); ok {
				v[k] = warp(r, s)
			} else if n, ok := v[k].(float64); ok {
				v[k] = n + float64(r.IntN(5)-2)
			}
		case 4:
			// Same kind of value from elsewhere.
			for range 50 {
				c := values[r.IntN(len(values))]
				if _, isString := c.(string); isString == isStringValue(v[k]) {
					var other any
					copyJSON(c, &other)
					v[k] = other
					return
				}
			}
		}
	case []any:
		if len(v) == 0 {
			return
		}
		i := r.IntN(len(v))
		switch r.IntN(6) {
		case 0:
			j := r.IntN(len(v))
			var other any
			copyJSON(v[j], &other)
			v[i] = other
		default:
			switch v[i].(type) {
			case map[string]any, []any:
				mutate(r, v[i], values, depth+1)
			default:
				v[i] = odd[r.IntN(len(odd))]
			}
		}
	}
}

// join gives the pod what another one's spec has beyond it, or some of it.
func join(r *rand.Rand, pod, other map[string]any) {
	spec, _ := pod["spec"].(map[string]any)
	more, _ := other["spec"].(map[string]any)
	for _, k := range keys(more) {
		if _, ok := spec[k]; !ok && spec != nil && r.IntN(3) > 0 {
			var v any
			copyJSON(more[k], &v)
			spec[k] = v
		}
	}
}

func isStringValue(v any) bool { _, ok := v.(string); return ok }

func warp(r *rand.Rand, s string) string {
	switch r.IntN(5) {
	case 0:
		return strings.ToUpper(s)
	case 1:
		return s + s
	case 2:
		return s + "-"
	case 3:
		if len(s) > 0 {
			i := r.IntN(len(s))
			return s[:i] + s[i+1:]
		}
	}
	return s + strings.Repeat("a", r.IntN(80))
}
