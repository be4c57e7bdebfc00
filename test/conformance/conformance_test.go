package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"kubelet/test/images/oci"
)

// What a test is worth depends on upstream's result and on what is possible.
func TestJudge(t *testing.T) {
	tests := map[string]test{
		"a passes":              {Group: "g", State: "passed"},
		"b fails":               {Group: "g", State: "failed", Message: "no\nstack"},
		"c fails everywhere":    {Group: "g", State: "failed"},
		"d wants oom_score_adj": {Group: "h", State: "timedout"},
		"e skips itself":        {Group: "h", State: "skipped", Message: "no dummy device"},
		"f unknown to upstream": {Group: "h", State: "panicked"},
		"g oom_score_adj works": {Group: "h", State: "passed"},
	}
	peer := &record{Tests: map[string]test{}}
	for name := range tests {
		peer.Tests[name] = test{State: "passed"}
	}
	peer.Tests["c fails everywhere"] = test{State: "failed"}
	delete(peer.Tests, "f unknown to upstream")
	v := judge(tests, peer, []cause{{text: "no CAP_SYS_RESOURCE", patterns: []*regexp.Regexp{regexp.MustCompile("oom_score")}}})
	names := func(findings []finding) string {
		var out []string
		for _, f := range findings {
			out = append(out, f.name+": "+f.why)
		}
		return strings.Join(out, "; ")
	}
	for what, c := range map[string][2]string{
		"failed":     {names(v.failed), "b fails: no; f unknown to upstream: "},
		"shared":     {names(v.shared), "c fails everywhere: "},
		"impossible": {names(v.impossible), "d wants oom_score_adj: no CAP_SYS_RESOURCE"},
		"skipped":    {names(v.skipped), "e skips itself: no dummy device"},
		"surprises":  {strings.Join(v.surprises, "; "), "g oom_score_adj works"},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %q, want %q", what, c[0], c[1])
		}
	}
	if sum := v.total(); sum.tests != 7 || sum.passed != 2 || sum.failed != 3 || sum.impossible != 2 || sum.upstream != 5 || sum.known != 6 {
		t.Errorf("the sum is %+v", sum)
	}
	if text := v.text("kubelet"); !strings.Contains(text, "FAILED:\n  b fails\n      no (upstream: passed)\n") {
		t.Errorf("the verdict does not name a test that failed:\n%s", text)
	}
}

// The document has totals for each runtime and part, a pair of columns for
// each runtime, and what does not pass, with the cause.
func TestDocument(t *testing.T) {
	results := func(date string, states map[string]string) *record {
		r := &record{Containerd: "2.4", Runtime: "runc", Tests: map[string]test{}}
		for name, state := range states {
			r.Tests[name] = test{Group: strings.Fields(name)[0], State: state, Date: date, Message: state + " it"}
		}
		return r
	}
	peer := results("2026-11-26", map[string]string{"a 1 [NodeConformance]": "passed", "a 2 [NodeConformance]": "failed"})
	first := results("2026-11-27", map[string]string{
		"a 1 [NodeConformance]": "passed", "a 2 [NodeConformance]": "passed",
		"a 3 [NodeConformance] [Slow]": "skipped", "b 1": "failed",
	})
	first.Versions = "containerd 2.4.2, runc 1.4.3"
	late := first.Tests["a 2 [NodeConformance]"]
	late.Date = "2026-11-28"
	first.Tests["a 2 [NodeConformance]"] = late
	second := results("2026-11-28", map[string]string{"a 1 [NodeConformance]": "passed"})
	second.Runtime = "crun"
	// Many tests of a group that do not pass for one cause are counted.
	for _, n := range []string{"1", "2", "3", "4"} {
		second.Tests["c "+n] = test{Group: "c", State: "skipped", Message: "cgroup v1", Date: "2026-11-28"}
	}
	none := &record{}
	document := markdown([]*judgement{{first, peer, judge(first.Tests, peer, nil)}, {second, none, judge(second.Tests, none, nil)}})
	const want = `
| Runtime | Tests | run | not possible | failing | this kubelet | upstream 1.37.2 | last runs |
|---|---|---|---|---|---|---|---|
| containerd 2.4.2, runc 1.4.3 | ` + quick + ` | 2 | - | - | 2 | 1 | 2026-11-27 to 2026-11-28 |
|  | ` + slow + ` | 1 | 1 | - | 0 | not run | 2026-11-27 |
|  | ` + others + ` | 1 | - | 1 | 0 | not run | 2026-11-27 |
| containerd 2.4, crun | ` + quick + ` | 1 | - | - | 1 | not run | 2026-11-28 |
|  | ` + others + ` | 4 | 4 | - | 0 | not run | 2026-11-28 |

| Group | containerd 2.4, runc | upstream | containerd 2.4, crun | upstream |
|---|---|---|---|---|
| a | 2 of 3 | 1 of 2 | 1 | not run |
| b | 0 of 1 | not run |  |  |
| c |  |  | 0 of 4 | not run |

### containerd 2.4, runc

Not possible on the machine of the tests:

- skipped it:
  - a 3 [NodeConformance] [Slow]

Failing:

- failed it:
  - b 1

### containerd 2.4, crun

Not possible on the machine of the tests:

- cgroup v1:
  - c: 4 tests
`
	if document != want {
		t.Errorf("the document is:\n%s\nwant:\n%s", document, want)
	}
}

func TestGroup(t *testing.T) {
	for _, c := range []struct {
		texts []string
		want  string
	}{
		{[]string{"[sig-node] Pods Extended", "when"}, "[sig-node] Pods Extended"},
		{[]string{"[sig-node]", "Pods [Feature:X] [Beta]", "when"}, "[sig-node] Pods"},
		{[]string{"[sig-storage]"}, "[sig-storage]"},
		{nil, ""},
	} {
		if got := group(c.texts); got != c.want {
			t.Errorf("group of %q is %q, want %q", c.texts, got, c.want)
		}
	}
}

// The lines by which ginkgo reports a test, as it writes them without color.
func TestOutcome(t *testing.T) {
	for line, want := range map[string]test{
		"• [4.123 seconds]":              {State: "passed", Seconds: 4.123},
		"• [FAILED] [240.001 seconds]":   {State: "failed", Seconds: 240.001},
		"• [PANICKED!] [0.001 seconds]":  {State: "panicked", Seconds: 0.001},
		"[sig-node] Pods [4 seconds]":    {},
		"S [SKIPPED] [0.001 seconds]":    {},
		"  • [FAILED] [240.001 seconds]": {},
	} {
		if got, ok := outcome(line); got != want || ok != (want != test{}) {
			t.Errorf("%q means %+v, want %+v", line, got, want)
		}
	}
	s := &suite{listed: map[string]test{"[sig-node] Pods should be updated [Conformance]": {}}}
	for line, want := range map[string]bool{
		"[sig-node] Pods [It] should be updated [Conformance] [sig-node, Conformance]":                     true,
		"[sig-node] Pods [It] should be updated [Conformance] [sig-node, Conformance] [kubelet: [>=1.36]]": true,
		"[sig-node] Pods [It] should be deleted [Conformance] [sig-node, Conformance]":                     false,
		"Pods": false,
	} {
		if _, got := s.name(line); got != want {
			t.Errorf("%q names a test: %v, want %v", line, got, want)
		}
	}
}

func TestImpossibleIsReadable(t *testing.T) {
	t.Chdir("../..")
	causes, err := readImpossible()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range causes {
		if len(c.patterns) == 0 {
			t.Errorf("no test is named below the cause %q", c.text)
		}
	}
	// Of the tests that resize Guaranteed pods only those that start a
	// container again are named.
	const resize = "[sig-node] Pod InPlace Resize Container guaranteed qos - 1 container with resize policy [Feature:InPlacePodVerticalScaling] "
	for test, want := range map[string]bool{
		"no restart resizing cpu & mem in opposite directions":                  false,
		"cpu restart resizing mem":                                              false,
		"cpu restart resizing pod-level cpu & mem in opposite directions":       false,
		"cpu restart resizing cpu & mem in opposite directions":                 true,
		"mem restart resizing cpu":                                              false,
		"mem restart resizing only pod-level mem":                               true,
		"cpu & mem restart + resize initContainers resizing cpu":                true,
		"cpu & mem restart resizing pod-level cpu & mem in opposite directions": false,
	} {
		if got := causeOf(causes, resize+test) != ""; got != want {
			t.Errorf("%q is named: %v, want %v", test, got, want)
		}
	}
}

// A client finds an image of the archive by tag and by digest, and nothing
// that is not there.
func TestRegistryServesAnArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "images.tar")
	layer := oci.Files(oci.File{Path: "hello", Mode: 0o644, Body: []byte("hello")})
	if err := oci.Write(file, oci.Image{Names: []string{"registry.k8s.io/some/hello:1", "registry.k8s.io/hello:2"}, Layers: []*oci.Layer{layer}}); err != nil {
		t.Fatal(err)
	}
	registry, err := openImages(file)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry)
	defer server.Close()
	get := func(path string) (string, *http.Response) {
		t.Helper()
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body), resp
	}
	byTag, resp := get("/v2/some/hello/manifests/1?ns=registry.k8s.io")
	digest := resp.Header.Get("Docker-Content-Digest")
	if resp.StatusCode != http.StatusOK || digest == "" {
		t.Fatalf("by tag: %s %s", resp.Status, byTag)
	}
	if other, _ := get("/v2/hello/manifests/" + digest); other != byTag {
		t.Errorf("by digest: %q, want %q", other, byTag)
	}
	digests := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindAllString(byTag, -1)
	layerBody, resp := get("/v2/hello/blobs/" + digests[len(digests)-1])
	if resp.StatusCode != http.StatusOK || !strings.Contains(layerBody, "hello") {
		t.Errorf("layer: %s, %d bytes", resp.Status, len(layerBody))
	}
	for _, path := range []string{"/", "/v2/hello/manifests/3", "/v2/hello/blobs/sha256:0", "/v2/hello/tags/list"} {
		if _, resp := get(path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s, want 404", path, resp.Status)
		}
	}
}
