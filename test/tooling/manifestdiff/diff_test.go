package manifestdiff

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"kubelet/internal/source"
	"kubelet/internal/source/sourcetest"
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
	if d := cmp.Diff(want, got, quantities); d != "" {
		return nil, "pods differ (-upstream +ours):\n" + d
	}
	return nil, ""
}

var quantities = cmp.Comparer(func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 && a.Format == b.Format })

// TestListsOfURLs puts all good manifests into one list.
func TestListsOfURLs(t *testing.T) {
	var items []any
	for _, m := range corpus(t) {
		var pod any
		if err, _ := compare([]byte(m.Text)); err != nil || yaml.Unmarshal([]byte(m.Text), &pod) != nil || m.Name == "capitals.yaml" {
			continue
		}
		items = append(items, pod)
	}
	data, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "PodList", "items": items})
	if err != nil {
		t.Fatal(err)
	}
	const url = "https://user@example.com/pods?x=y"
	want, err := UpstreamURL(data, url, node)
	if err != nil {
		t.Fatal(err)
	}
	got, err := source.DecodeURL(data, url, node, source.DefaultFeatures())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || len(got) < 80 {
		t.Fatalf("%d pods, upstream has %d", len(got), len(want))
	}
	for i := range want {
		want[i].TypeMeta = got[i].TypeMeta // upstream leaves it as it was written
		if d := cmp.Diff(want[i], *got[i], quantities); d != "" {
			t.Errorf("pods differ (-upstream +ours):\n%s", d)
		}
	}
}

func corpus(t testing.TB) []sourcetest.Manifest {
	all, err := sourcetest.Corpus("../../../internal/source/testdata")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestVerdictsAndPodsEqualUpstreams(t *testing.T) {
	good, bad := 0, 0
	for _, m := range corpus(t) {
		t.Run(m.Name, func(t *testing.T) {
			upstream, difference := compare([]byte(m.Text))
			if difference != "" {
				t.Errorf("%s\n%s", difference, m.Text)
			}
			switch m.Want {
			case sourcetest.OK:
				good++
				if upstream != nil {
					t.Errorf("upstream refuses it: %v", upstream)
				}
			case sourcetest.Refused:
				bad++
				if upstream == nil {
					t.Error("upstream accepts it")
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
	for _, m := range corpus(t) {
		var pod map[string]any
		if yaml.Unmarshal([]byte(m.Text), &pod) != nil || pod == nil {
			continue
		}
		pods = append(pods, pod)
		if err, _ := compare([]byte(m.Text)); err == nil {
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
