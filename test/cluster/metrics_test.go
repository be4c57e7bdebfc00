package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kubelet/test/harness"
)

// The real metrics-server reads this node: kubectl top shows node and pods,
// and an autoscaler scales by their CPU usage.
func TestMetricsServer(t *testing.T) {
	t.Parallel()
	p, err := node.Cluster.StartMetricsServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	ns := namespace(t)
	create(t, ns, "busy.yaml")

	// Two readings of the pod, 10 s apart, have to be taken before there is a
	// rate. On a busy machine the container gets less than its limit.
	wait := func(what string, check func(ctx context.Context) error) {
		t.Helper()
		err := harness.Until(t.Context(), 5*time.Minute, what, func(ctx context.Context) error {
			select {
			case <-p.Done():
				said, _ := os.ReadFile(p.Log)
				return harness.Permanent(fmt.Errorf("metrics-server has ended: %s", said[max(0, len(said)-2000):]))
			case <-time.After(time.Second): // kubectl is as hard to start as what it asks for
				return check(ctx)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wait("kubectl top pod", func(context.Context) error {
		out, err := kubectl(t, "top", "pod", "-n", ns, "--containers", "--no-headers")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		fields := strings.Fields(lines(out)[0])
		if len(fields) != 4 || fields[1] != "main" {
			return fmt.Errorf("output: %q", out)
		}
		milli, err := strconv.Atoi(strings.TrimSuffix(fields[2], "m"))
		if err != nil || milli < 1 || milli > 90 {
			return fmt.Errorf("CPU of a container that is held at 60m: %s", out)
		}
		return nil
	})
	wait("kubectl top node", func(context.Context) error {
		out, err := kubectl(t, "top", "node", "--no-headers")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		row := regexp.MustCompile(`^` + node.Name + `\s+[1-9]\d*m\s+\d+%\s+[1-9]\d*Mi\s+\d+%`)
		if !row.MatchString(out) {
			return fmt.Errorf("output: %q", out)
		}
		return nil
	})
	wait("the autoscaler to scale", func(ctx context.Context) error {
		d, err := node.Cluster.Client.AppsV1().Deployments(ns).Get(ctx, "busy", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Status.ReadyReplicas != 2 {
			hpa, err := node.Cluster.Client.AutoscalingV2().HorizontalPodAutoscalers(ns).Get(ctx, "busy", metav1.GetOptions{})
			return fmt.Errorf("%d ready; autoscaler: %v (%v)", d.Status.ReadyReplicas, hpa.Status.Conditions, err)
		}
		return nil
	})
	// Before its pods go, what would make new ones.
	deployments := node.Cluster.Client.AppsV1().Deployments(ns)
	if err := deployments.Delete(t.Context(), "busy", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}); err != nil {
		t.Error(err)
	}
	until(t, "the deployment to go with its replica set", func(ctx context.Context) error {
		_, err := deployments.Get(ctx, "busy", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, errors.New("still there"))
	})
}

// series is a line of mixin-series.txt.
type series struct {
	later      bool
	path, name string
	labels     map[string]string // value, "" for any, "!" for any but none
}

func mixinSeries(t *testing.T) (list []series) {
	t.Helper()
	text, err := os.ReadFile("testdata/mixin-series.txt")
	if err != nil {
		t.Fatal(err)
	}
	form := regexp.MustCompile(`^(later\s+)?(/\S+)\s+(\w+)\{(.*)\}\s+\S`)
	label := regexp.MustCompile(`^(\w+)(?:(!?=)"([^"]*)")?$`)
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := form.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("mixin-series.txt: cannot read %q", line)
		}
		s := series{later: m[1] != "", path: m[2], name: m[3], labels: map[string]string{}}
		for part := range strings.SplitSeq(m[4], ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			l := label.FindStringSubmatch(part)
			if l == nil {
				t.Fatalf("mixin-series.txt: label %q of %q", part, line)
			}
			s.labels[l[1]] = l[3]
			if l[2] == "!=" {
				s.labels[l[1]] = "!"
			}
		}
		list = append(list, s)
	}
	return list
}

// Each query of the usual dashboards and alerts finds its series, at the
// kubelet's authenticated port behind the API server, as Prometheus parses
// them.
func TestDashboards(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pod := createText(t, ns, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: seen
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: localhost/test/agent:1
    args: [serve, ":8080", /]
    resources: {limits: {cpu: 100m, memory: 64Mi}}
    volumeMounts: [{name: cache, mountPath: /cache}]
  volumes:
  - name: cache
    emptyDir: {}
`))
	waitReady(t, ns, pod.Name)
	all := mixinSeries(t)
	missing := func(ctx context.Context) (err error) {
		endpoints := map[string]map[string]*dto.MetricFamily{}
		for _, s := range all {
			if endpoints[s.path] == nil {
				if endpoints[s.path], err = families(ctx, s.path); err != nil {
					return err
				}
			}
		}
		for _, s := range all {
			found, any := s.in(endpoints[s.path])
			switch {
			case found:
			case s.later && !any:
			default:
				err = errors.Join(err, fmt.Errorf("%s has no %s%v", s.path, s.name, s.labels))
			}
		}
		return err
	}
	until(t, "the series of the dashboards", missing)
}

// in says whether the families have the series, and any of its name.
func (s series) in(families map[string]*dto.MetricFamily) (found, any bool) {
	name, le := s.name, false
	f := families[name]
	if f == nil {
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && families[base].GetType() == dto.MetricType_HISTOGRAM {
				f, le = families[base], suffix == "_bucket"
			}
		}
	}
	for _, m := range f.GetMetric() {
		if s.matches(m, le) {
			return true, true
		}
	}
	return false, len(f.GetMetric()) > 0
}

func (s series) matches(m *dto.Metric, le bool) bool {
	for name, want := range s.labels {
		got, have := "", name == "le" && le && len(m.GetHistogram().GetBucket()) > 0
		if have {
			got = "1"
		}
		for _, l := range m.Label {
			if l.GetName() == name {
				got, have = l.GetValue(), true
			}
		}
		if !have || want == "!" && got == "" || want != "" && want != "!" && got != want {
			return false
		}
	}
	return true
}

// families scrapes the kubelet through the API server.
func families(ctx context.Context, path string) (map[string]*dto.MetricFamily, error) {
	text, err := node.Cluster.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(node.Name).SubResource("proxy").Suffix(path).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", path, err)
	}
	out := map[string]*dto.MetricFamily{}
	decoder := expfmt.NewDecoder(bytes.NewReader(text), expfmt.NewFormat(expfmt.TypeTextPlain))
	for {
		var f dto.MetricFamily
		if err := decoder.Decode(&f); errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("parse %s: %w", path, err)
		}
		out[f.GetName()] = &f
	}
}
