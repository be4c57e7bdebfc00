package manifestdiff

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"kubelet/internal/source"
)

const (
	path = "/etc/kubernetes/manifests/pod.yaml"
	node = "node-1"
)

// compare reads a manifest both ways and returns upstream's verdict.
func compare(data []byte) (upstream error, difference string) {
	want, upstream := Upstream(data, path, node)
	got, _, ours := source.Decode(data, path, node, source.DefaultFeatures())
	if (upstream == nil) != (ours == nil) {
		return upstream, fmt.Sprintf("upstream: %v\nours:     %v", upstream, ours)
	}
	if upstream != nil {
		return upstream, ""
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 && a.Format == b.Format })); d != "" {
		return nil, "pods differ (-upstream +ours):\n" + d
	}
	return nil, ""
}

// corpus returns the manifests of testdata: whole ones, and cases, which are
// what a minimal pod is changed by. The first line of a case says what is
// expected of it.
func corpus(t testing.TB) map[string]string {
	all := map[string]string{}
	files, err := filepath.Glob("testdata/manifests/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(f)] = string(data)
	}
	files, err = filepath.Glob("testdata/cases/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for i, doc := range strings.Split(string(data), "\n---\n") {
			title, _, _ := strings.Cut(strings.TrimPrefix(doc, "# "), "\n")
			name := fmt.Sprintf("%s %d: %s", strings.TrimSuffix(filepath.Base(f), ".yaml"), i, title)
			var change map[string]any
			if err := yaml.Unmarshal([]byte(doc), &change); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			pod := complete(change)
			text, err := json.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			all[name] = string(text)
		}
	}
	return all
}

func complete(pod map[string]any) map[string]any {
	fill := func(m map[string]any, key string, value any) {
		if _, ok := m[key]; !ok {
			m[key] = value
		}
	}
	if pod == nil {
		pod = map[string]any{}
	}
	fill(pod, "apiVersion", "v1")
	fill(pod, "kind", "Pod")
	fill(pod, "metadata", map[string]any{})
	fill(pod, "spec", map[string]any{})
	if m, ok := pod["metadata"].(map[string]any); ok {
		fill(m, "name", "web")
	}
	if s, ok := pod["spec"].(map[string]any); ok {
		fill(s, "containers", []any{map[string]any{}})
		for _, list := range []string{"containers", "initContainers"} {
			containers, _ := s[list].([]any)
			for i, c := range containers {
				if c, ok := c.(map[string]any); ok {
					fill(c, "name", fmt.Sprintf("%c%d", list[0], i))
					fill(c, "image", "example.com/app:1")
				}
			}
		}
	}
	return pod
}

func TestVerdictsAndPodsEqualUpstreams(t *testing.T) {
	good, bad := 0, 0
	for name, manifest := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			upstream, difference := compare([]byte(manifest))
			if difference != "" {
				t.Errorf("%s\n%s", difference, manifest)
			}
			switch {
			case strings.Contains(name, ": ok: ") || strings.Contains(name, "-ok."):
				good++
				if upstream != nil {
					t.Errorf("expected to be accepted: %v", upstream)
				}
			case strings.Contains(name, ": refused: ") || strings.Contains(name, "-refused."):
				bad++
				if upstream == nil {
					t.Error("expected to be refused")
				}
			}
		})
	}
	t.Logf("%d good, %d bad manifests", good, bad)
}

// TestMutations changes manifests of the corpus at random. A failure names
// its seed; MANIFESTDIFF_SEED and MANIFESTDIFF_RUNS replay or extend the run.
func TestMutations(t *testing.T) {
	seed, runs := 1, 4000
	if s := os.Getenv("MANIFESTDIFF_SEED"); s != "" {
		seed, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("MANIFESTDIFF_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	var pods, accepted []map[string]any
	var values []any // of everywhere, to be put elsewhere
	names := []string{}
	all := corpus(t)
	for name := range all {
		names = append(names, name)
	}
	sortStrings(names)
	for _, name := range names {
		var pod map[string]any
		if yaml.Unmarshal([]byte(all[name]), &pod) != nil || pod == nil {
			continue
		}
		pods = append(pods, pod)
		if err, _ := compare([]byte(all[name])); err == nil {
			accepted = append(accepted, pod)
		}
		collect(pod, &values)
	}
	good, failed := 0, 0
	for i := seed; i < seed+runs && failed < 10; i++ {
		r := rand.New(rand.NewPCG(uint64(i), 0))
		var pod map[string]any
		if r.IntN(4) == 0 {
			copyJSON(pods[r.IntN(len(pods))], &pod)
		} else {
			copyJSON(accepted[r.IntN(len(accepted))], &pod)
			join(r, pod, accepted[r.IntN(len(accepted))])
		}
		for range r.IntN(4) {
			mutate(r, pod, values, 0)
		}
		data, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		if stricter(pod) {
			continue
		}
		upstream, difference := compare(data)
		if upstream == nil {
			good++
		}
		if difference != "" {
			failed++
			text, _ := yaml.Marshal(pod)
			t.Errorf("seed %d: %s\n%s", i, difference, text)
		}
	}
	t.Logf("%d of %d mutated manifests were good", good, runs)
}

// stricter says whether this kubelet refuses what upstream accepts, as
// validate.Pod documents.
func stricter(pod map[string]any) bool {
	meta, _ := pod["metadata"].(map[string]any)
	annotations, _ := meta["annotations"].(map[string]any)
	_, mirror := annotations["kubernetes.io/config.mirror"]
	_, uid := meta["uid"]
	return mirror || uid
}
