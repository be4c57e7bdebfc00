package stats

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

var formats = []string{"text", "openmetrics", "protobuf"}

var epoch = time.UnixMilli(1_700_000_000_123)

// accept is what Prometheus sends for a format.
func accept(format string) http.Header {
	return http.Header{"Accept": {map[string]string{
		"text":        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
		"openmetrics": "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
		"protobuf":    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,text/plain;version=0.0.4;q=0.2",
	}[format]}}
}

func sampleExposition(format string) (string, expfmt.Format) {
	e, contentType := newExposition(accept(format), nil)
	e.begin("a_total", "A.", true)
	e.sample(e.label(e.label(nil, "x", "1"), "y", `quote " slash \ line`+"\n"), 1.5, epoch)
	e.sample(nil, 1<<60, epoch, "extra", "ü", "more", "\xff")
	e.begin("empty", "Nothing.", false)
	e.begin("b", "B, a counter by another name.", true)
	e.sample(nil, 7, time.Time{})
	e.begin("c", "C.", false)
	e.sample(nil, math.Inf(1), time.Time{})
	e.sample(e.label(nil, "x", ""), -0.25, epoch)
	return string(e.finish()), expfmt.Format(contentType)
}

// flatten makes families comparable across formats.
func flatten(t *testing.T, format expfmt.Format, body string) (out []string) {
	t.Helper()
	decoder := expfmt.NewDecoder(strings.NewReader(body), format)
	for {
		var f dto.MetricFamily
		if err := decoder.Decode(&f); errors.Is(err, io.EOF) {
			slices.Sort(out) // the text decoder has no order
			return out
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, body)
		}
		for _, m := range f.Metric {
			out = append(out, fmt.Sprintln(f.GetName(), f.GetHelp(), f.GetType(), m.Label, m.GetCounter().GetValue(), m.GetGauge().GetValue(), m.GetTimestampMs()))
		}
	}
}

func TestTextAndProtobufSayTheSame(t *testing.T) {
	body, format := sampleExposition("text")
	text := flatten(t, format, body)
	body, format = sampleExposition("protobuf")
	if diff := cmp.Diff(text, flatten(t, format, body)); diff != "" {
		t.Errorf("(-text +protobuf):\n%s", diff)
	}
	if len(text) != 5 {
		t.Errorf("samples: %q", text)
	}
}

// The names are the same as in the other formats, whatever the rules for
// counters.
func TestOpenMetrics(t *testing.T) {
	body, format := sampleExposition("openmetrics")
	if format.FormatType() != expfmt.TypeOpenMetrics {
		t.Errorf("content type %s", format)
	}
	want := `# HELP a A.
# TYPE a counter
a_total{x="1",y="quote \" slash \\ line\n"} 1.5 1700000000.123
a_total{extra="ü",more="` + "\ufffd" + `"} 1.152921504606847e+18 1700000000.123
# HELP b B, a counter by another name.
# TYPE b unknown
b 7
# HELP c C.
# TYPE c gauge
c +Inf
c{x=""} -0.25 1700000000.123
# EOF
`
	if diff := cmp.Diff(want, body); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, name := range []string{"v1-cgroupfs", "v2-systemd"} {
		dir := unpack(t, name+".txt")
		r := newGolden(t, dir, newUnified(dir+"/cgroup", 100), fakeCgroups{"/kubepods.slice", nil})
		for _, h := range []http.Handler{r.CadvisorHandler(), r.ResourceHandler()} {
			body, _ := ask(t, h, "/", "Accept", accept("openmetrics").Get("Accept"))
			checkOpenMetrics(t, body)
		}
	}
}

// checkOpenMetrics holds a body to the rules of the format that a scraper
// enforces. https://prometheus.io/docs/specs/om/open_metrics_spec/
func checkOpenMetrics(t *testing.T, body string) {
	t.Helper()
	sample := regexp.MustCompile(`^([a-z_]\w*)(\{([a-z_]\w*="([^"\\\n]|\\[\\"n])*",?)*\})? \S+( \d+\.\d{3})?$`)
	rest, ended := strings.CutSuffix(body, "# EOF\n")
	if !ended {
		t.Errorf("no end in %.100q", body)
	}
	family, kind, seen, lines := "", "", map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(rest) {
		line = strings.TrimSuffix(line, "\n")
		if words := strings.SplitN(line, " ", 4); words[0] == "#" {
			switch {
			case words[1] == "HELP" && !seen[words[2]]:
				family, kind = words[2], ""
				seen[family] = true
			case words[1] == "TYPE" && words[2] == family && kind == "":
				kind = words[3]
			default:
				t.Errorf("out of order: %s", line)
			}
			continue
		}
		m := sample.FindStringSubmatch(line)
		name := family
		if kind == "counter" {
			name += "_total"
		}
		if m == nil || m[1] != name {
			t.Errorf("sample of %s %s: %s", kind, family, line)
			continue
		}
		if key := m[1] + m[2]; lines[key] {
			t.Errorf("twice: %s", line)
		} else {
			lines[key] = true
		}
	}
}

func TestMetricsHandlerKeepsNames(t *testing.T) {
	registry := prometheus.NewRegistry()
	evictions := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_evictions", Help: "E."}, []string{"eviction_signal"})
	started := prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_started_pods_total", Help: "S."})
	registry.MustRegister(evictions, started)
	evictions.WithLabelValues("memory.available").Add(2)
	started.Inc()
	for _, format := range formats {
		body, contentType := ask(t, MetricsHandler(registry), "/metrics", "Accept", accept(format).Get("Accept"))
		if format == "protobuf" {
			if got := flatten(t, expfmt.Format(contentType), body); len(got) != 2 || !strings.HasPrefix(got[0], "kubelet_evictions E. COUNTER") {
				t.Errorf("protobuf: %q", got)
			}
			continue
		}
		for _, want := range []string{"\n" + `kubelet_evictions{eviction_signal="memory.available"} 2`, "\nkubelet_started_pods_total 1"} {
			if !strings.Contains(body, want) {
				t.Errorf("%s has no %q:\n%s", format, want, body)
			}
		}
	}
}

func TestCompression(t *testing.T) {
	r := newReader(Config{}, newUnified(t.TempDir(), 1), &machine{})
	for header, want := range map[string]bool{"gzip": true, "deflate, gzip;q=1.0": true, "": false, "gzip;q=0": false, "br": false, "identity": false} {
		w := httptest.NewRecorder()
		req := httptest.NewRequest("GET", "/", nil)
		req.Header.Set("Accept-Encoding", header)
		if err := r.writeBody(w, req, []byte("body")); err != nil {
			t.Fatal(err)
		}
		got := w.Body.Bytes()
		if zipped := w.Header().Get("Content-Encoding") == "gzip"; zipped != want {
			t.Errorf("%q: compressed %t, want %t", header, zipped, want)
		} else if zipped {
			z, err := gzip.NewReader(bytes.NewReader(got))
			if err != nil {
				t.Fatal(err)
			}
			if got, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if string(got) != "body" {
			t.Errorf("%q: %q", header, got)
		}
	}
}
