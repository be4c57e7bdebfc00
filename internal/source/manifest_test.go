package source

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
	"kubelet/internal/source/sourcetest"
)

// TestManifestsSayWhatIsWrong reads testdata/manifests. The first lines of
// each say what its author must be told.
func TestManifestsSayWhatIsWrong(t *testing.T) {
	files, err := filepath.Glob("testdata/manifests/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			pod, warnings, err := Decode(data, path, "node", DefaultFeatures())
			failures := 0
			for line := range strings.Lines(string(data)) {
				line = strings.TrimSpace(line)
				if want, ok := strings.CutPrefix(line, "# warns: "); ok {
					if !slices.ContainsFunc(warnings, func(w string) bool { return strings.HasPrefix(w, want) }) {
						t.Errorf("no warning %q in %q", want, warnings)
					}
				}
				if want, ok := strings.CutPrefix(line, "# fails: "); ok {
					failures++
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("error %v lacks %q", err, want)
					}
				}
			}
			if failures == 0 && (err != nil || pod == nil) {
				t.Errorf("not accepted: %v", err)
			}
			if (err == nil) != (pod != nil) {
				t.Errorf("pod %v with error %v", pod != nil, err)
			}
		})
	}
}

// TestVerdicts reads the corpus whose expectations the differential test in
// test/tooling/manifestdiff holds to upstream's verdicts.
func TestVerdicts(t *testing.T) {
	all, err := sourcetest.Corpus("testdata")
	if err != nil || len(all) < 300 {
		t.Fatalf("%d manifests: %v", len(all), err)
	}
	for _, m := range all {
		t.Run(m.Name, func(t *testing.T) {
			_, _, err := Decode([]byte(m.Text), "/m/pod.yaml", "node", DefaultFeatures())
			if (m.Want == sourcetest.OK && err != nil) || (m.Want == sourcetest.Refused && err == nil) {
				t.Errorf("want %s: %v\n%s", m.Want, err, m.Text)
			}
		})
	}
}

const web = `apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: web
    image: registry.k8s.io/pause:3.10
`

func TestStaticPodIsIdentified(t *testing.T) {
	pod, warnings, err := Decode([]byte(web), "/etc/kubernetes/manifests/web.yaml", "node", DefaultFeatures())
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	// The UID is what upstream 1.37.2 gives this pod.
	const uid = "21e23c895a1832a434f0fdeaf77a75b3"
	if pod.UID != uid || pod.Annotations[podspec.HashAnnotation] != uid {
		t.Errorf("uid %s, annotations %v", pod.UID, pod.Annotations)
	}
	if pod.Name != "web-node" || pod.Namespace != "default" || pod.Spec.NodeName != "node" || pod.Status.Phase != v1.PodPending {
		t.Errorf("pod %s/%s on %s, phase %s", pod.Namespace, pod.Name, pod.Spec.NodeName, pod.Status.Phase)
	}
	if len(pod.Spec.Tolerations) != 1 || pod.Spec.Tolerations[0] != (v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute}) {
		t.Errorf("tolerations %v", pod.Spec.Tolerations)
	}

	seen := func(path, node, text string) string {
		p, _, err := Decode([]byte(text), path, node, DefaultFeatures())
		if err != nil {
			t.Fatal(err)
		}
		return string(p.UID)
	}
	uids := map[string]bool{
		seen("/a", "node", web):                                        true,
		seen("/b", "node", web):                                        true,
		seen("/a", "other", web):                                       true,
		seen("/a", "node", strings.ReplaceAll(web, "3.10", "3.9")):     true,
		seen("/a", "node", web+"    args: [x]\n"):                      true,
		seen("/a", "node", strings.Replace(web, "web", "web\n  #", 1)): true, // a comment
	}
	if len(uids) != 5 {
		t.Errorf("%d UIDs for 5 different pods", len(uids))
	}
}

func TestPodsOfURLDoNotTolerateEverything(t *testing.T) {
	pods, err := DecodeURL([]byte(web), "http://x/", "Node", DefaultFeatures())
	if err == nil {
		t.Fatal("a node's name in capitals was accepted")
	}
	pods, err = DecodeURL([]byte(web), "http://x/", "node", DefaultFeatures())
	if err != nil || len(pods) != 1 || len(pods[0].Spec.Tolerations) != 0 {
		t.Fatalf("%v, %v", pods, err)
	}
}

func TestListKeepsGoodPodsApartFromBadOnes(t *testing.T) {
	list := `apiVersion: v1
kind: PodList
items:
- metadata: {name: good}
  spec: {containers: [{name: a, image: b}]}
- metadata: {name: bad}
  spec:
    containers: []
- metadata: {name: worse}
  spec: {containers: [{name: a, image: b, ports: 5}]}
`
	pods, err := DecodeURL([]byte(list), "http://x/", "node", DefaultFeatures())
	if len(pods) != 1 || pods[0].Name != "good-node" {
		t.Errorf("pods %v", pods)
	}
	if err == nil || !strings.Contains(err.Error(), "line 8: spec.containers: Required value") || !strings.Contains(err.Error(), "cannot unmarshal number") {
		t.Errorf("error %v", err)
	}
}

func TestPodLevelDefaultsWithTheirGate(t *testing.T) {
	manifest := `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  resources: {limits: {cpu: 2, memory: 1Gi}}
  containers:
  - {name: a, image: b, resources: {requests: {cpu: 300m}}}
  - {name: c, image: d, resources: {requests: {cpu: 200m}, limits: {hugepages-2Mi: 4Mi}}}
`
	f := DefaultFeatures()
	pod, _, err := Decode([]byte(manifest), "/a", "node", f)
	if err != nil || pod.Spec.Resources.Requests != nil {
		t.Errorf("left to the API server: %v, %v", pod, err)
	}
	f.PodLevelResourcesFixDefaulting = false
	pod, _, err = Decode([]byte(manifest), "/a", "node", f)
	if err != nil {
		t.Fatal(err)
	}
	r := pod.Spec.Resources
	if r.Requests.Cpu().String() != "500m" || r.Requests.Memory().String() != "1Gi" || r.Limits.Name("hugepages-2Mi", "").String() != "4Mi" {
		t.Errorf("resources %v", r)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(web))
	f.Add([]byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"b"}]}}`))
	f.Add([]byte("apiVersion: v1\nkind: PodList\nitems: [{}]"))
	f.Add([]byte("a: &a [*a]\n---\n--- x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, _, err := Decode(data, "/a", "node", DefaultFeatures())
		b, _, err2 := Decode(data, "/a", "node", DefaultFeatures())
		if (a == nil) == (err == nil) || (err == nil) != (err2 == nil) || (a != nil && a.UID != b.UID) {
			t.Errorf("decoded twice: %v, %v and %v, %v", a, err, b, err2)
		}
		DecodeURL(data, "http://x/", "node", DefaultFeatures())
	})
}

func FuzzSegments(f *testing.F) {
	for _, s := range []string{"spec.containers[0].env[a.b/c].name", "[", "]", "..", "a..b", "a[0][1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		segments(s)
		nearest(s)
	})
}
