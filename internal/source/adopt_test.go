package source

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
)

func TestAdopt(t *testing.T) {
	read := func(manifest string) *v1.Pod {
		pod, _, err := Decode([]byte(manifest), "/m/web.yaml", "node", DefaultFeatures())
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}
	pod := read(web)
	started := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	running := func(change ...func(*Running)) Running {
		r := Running{
			UID: "old", Name: "web-node", Namespace: "default",
			Annotations: map[string]string{
				podspec.SourceAnnotation: "file",
				podspec.SeenAnnotation:   started.Format(time.RFC3339Nano),
			},
			Containers: map[string]string{"web": podspec.ContainerHash(&pod.Spec.Containers[0])},
		}
		for _, f := range change {
			f(&r)
		}
		return r
	}
	mirror := func(manifest string, change ...func(*v1.Pod)) func(*Running) {
		return func(r *Running) {
			m := read(manifest)
			m.UID = "object"
			m.Annotations[podspec.HashAnnotation] = "old"
			m.Annotations[podspec.MirrorAnnotation] = "old"
			zero := int32(0)
			never := v1.PreemptLowerPriority
			m.Spec.Priority, m.Spec.PreemptionPolicy = &zero, &never // by the API server
			for _, f := range change {
				f(m)
			}
			r.Mirror = m
		}
	}
	before, after := started.Add(-time.Hour), started.Add(time.Hour)
	for _, c := range []struct {
		name    string
		changed time.Time
		running []Running
		want    string
	}{
		{"nothing runs", before, nil, ""},
		{"the file is older than the pod", before, []Running{running()}, "old"},
		{"the file was changed since", after, []Running{running()}, ""},
		{"when the file was changed is unknown", time.Time{}, []Running{running()}, ""},
		{"no first-seen time", before, []Running{running(func(r *Running) { r.Annotations = map[string]string{podspec.SourceAnnotation: "file"} })}, ""},
		{"from a URL, whose age says nothing", before, []Running{running(func(r *Running) { r.Annotations[podspec.SourceAnnotation] = "http" })}, ""},
		{"it runs under its own UID", before, []Running{running(), running(func(r *Running) { r.UID = pod.UID })}, string(pod.UID)},
		{"another name", before, []Running{running(func(r *Running) { r.Name = "web-other" })}, ""},
		{"another namespace", before, []Running{running(func(r *Running) { r.Namespace = "x" })}, ""},
		{"another image", before, []Running{running(func(r *Running) { r.Containers["web"] = "0" })}, ""},
		{"a container that the manifest lacks", before, []Running{running(func(r *Running) { r.Containers["more"] = "0" })}, ""},
		{"no container", before, []Running{running(func(r *Running) { r.Containers = nil })}, ""},
		{"two that fit", before, []Running{running(), running(func(r *Running) { r.UID = "older" })}, ""},
		{"the mirror says the same", after, []Running{running(mirror(web))}, "old"},
		{"the mirror has other arguments", after, []Running{running(mirror(web + "    args: [x]\n"))}, ""},
		{"the mirror has other labels", after, []Running{running(mirror(web, func(p *v1.Pod) { p.Labels = map[string]string{"a": "b"} }))}, ""},
		{"the mirror has other annotations", after, []Running{running(mirror(web, func(p *v1.Pod) { p.Annotations["a"] = "b" }))}, ""},
		{"the mirror is of another pod", after, []Running{running(mirror(web, func(p *v1.Pod) { p.Annotations[podspec.HashAnnotation] = "older" }))}, ""},
	} {
		want := c.want
		if want == "" {
			want = string(pod.UID)
		}
		if got := Adopt(pod, c.changed, c.running); string(got) != want {
			t.Errorf("%s: uid %s, want %s", c.name, got, want)
		}
	}
}
