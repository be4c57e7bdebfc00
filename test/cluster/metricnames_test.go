package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"kubelet/test/harness"
)

// The endpoints whose metrics are compared with the upstream kubelet's.
var metricEndpoints = []string{"/metrics", "/metrics/cadvisor", "/metrics/resource", "/metrics/probes"}

// What the upstream kubelet shows after a pod with a probe, a volume and a
// limit has started is shown here, too, as the same type with the same labels,
// but for what testdata/upstream-metrics.txt says of each.
func TestMetricNames(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pod := createText(t, ns, `apiVersion: v1
kind: Pod
metadata:
  name: counted
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: localhost/test/agent:1
    args: [serve, ":8080", /]
    resources: {limits: {cpu: 100m, memory: 64Mi}}
    readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
    volumeMounts: [{name: cache, mountPath: /cache}]
  volumes:
  - name: cache
    emptyDir: {}
`)
	waitReady(t, ns, pod.Name)
	shown := map[string]map[string]*dto.MetricFamily{}
	scrape := func(ctx context.Context) (err error) {
		for _, path := range metricEndpoints {
			if shown[path], err = families(ctx, path); err != nil {
				return err
			}
		}
		return nil
	}
	if out := os.Getenv("METRIC_NAMES"); out != "" {
		if err := scrape(t.Context()); err != nil {
			t.Fatal(err)
		}
		writeMetricNames(t, out, shown)
	}
	lines := upstreamMetrics(t)
	until(t, "upstream's metrics", func(ctx context.Context) error {
		if err := scrape(ctx); err != nil {
			return err
		}
		var errs []error
		for _, m := range lines {
			errs = append(errs, m.check(shown[m.path][m.name]))
		}
		return errors.Join(errs...)
	})
}

// upstreamMetric is a line of upstream-metrics.txt.
type upstreamMetric struct {
	state, path, name, kind string
	labels                  []string
}

func upstreamMetrics(t *testing.T) (list []upstreamMetric) {
	t.Helper()
	text, err := os.ReadFile("testdata/upstream-metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		var m upstreamMetric
		if !strings.HasPrefix(fields[0], "/") {
			m.state, fields = fields[0], fields[1:]
		}
		if len(fields) < 4 || !slices.Contains([]string{"", "later", "no"}, m.state) || (m.state != "") != (len(fields) > 4) {
			t.Fatalf("upstream-metrics.txt: cannot read %q", line)
		}
		m.path, m.name, m.kind = fields[0], fields[1], fields[2]
		if fields[3] != "-" {
			m.labels = strings.Split(fields[3], ",")
		}
		list = append(list, m)
	}
	return list
}

// check holds what is shown against the line.
func (m upstreamMetric) check(f *dto.MetricFamily) error {
	switch {
	case harness.Upstream() && f == nil:
		return fmt.Errorf("%s has no %s, the file is wrong", m.path, m.name)
	case m.state == "" && f == nil:
		return fmt.Errorf("%s has no %s", m.path, m.name)
	case f == nil || m.state == "no":
		return nil
	case kindOf(f) != m.kind:
		return fmt.Errorf("%s of %s is a %s, upstream's a %s", m.name, m.path, kindOf(f), m.kind)
	}
	have := labelsOf(f)
	for _, label := range m.labels {
		if !slices.Contains(have, label) {
			return fmt.Errorf("%s of %s has the labels %v, upstream's also %q", m.name, m.path, have, label)
		}
	}
	return nil
}

func writeMetricNames(t *testing.T, file string, shown map[string]map[string]*dto.MetricFamily) {
	t.Helper()
	var text strings.Builder
	for _, path := range metricEndpoints {
		for _, name := range slices.Sorted(maps.Keys(shown[path])) {
			f := shown[path][name]
			fmt.Fprintf(&text, "%s %s %s %s\n", path, name, kindOf(f), cmp.Or(strings.Join(labelsOf(f), ","), "-"))
		}
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func kindOf(f *dto.MetricFamily) string { return strings.ToLower(f.GetType().String()) }

// labelsOf are the names of the labels of a family's samples.
func labelsOf(f *dto.MetricFamily) []string {
	names := map[string]bool{}
	for _, m := range f.Metric {
		for _, l := range m.Label {
			names[l.GetName()] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
