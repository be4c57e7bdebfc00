package volume_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/volume"
)

// late is a volume type whose first tries fail.
type late struct{ failures int }

func (*late) Name() string              { return "kubernetes.io/late" }
func (*late) Supports(*v1.Volume) bool  { return true }
func (*late) Immediate(*v1.Volume) bool { return false }

func (l *late) Mount(_ context.Context, spec volume.Spec) (volume.Mount, error) {
	if l.failures--; l.failures >= 0 {
		return volume.Mount{}, errors.New("not yet")
	}
	spec.Memo.Ready = true
	return volume.Mount{}, nil
}

func (*late) Unmount(context.Context, volume.Target) error { return nil }

// The time to a volume is that from the first try, once, however often it is
// tried and brought up to date.
func TestTimeToVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := volume.New(volume.Config{Root: t.TempDir(), Plugins: []volume.Plugin{&late{failures: 2}}, Objects: volume.Standalone{}})
		must(t, err)
		pod := newPod("uid-1", emptyDir("data", ""))
		for range 2 {
			if _, err := r.Mount(quiet(), pod); err == nil {
				t.Fatal("the volume is there at once")
			}
			time.Sleep(3 * time.Second)
		}
		for range 3 {
			_, err = r.Mount(quiet(), pod)
			must(t, err)
			time.Sleep(time.Minute)
		}
		registry := prometheus.NewRegistry()
		registry.MustRegister(r.Metrics()...)
		families, err := registry.Gather()
		must(t, err)
		found := false
		for _, f := range families {
			if f.GetName() != "volume_operation_total_seconds" {
				continue
			}
			found = true
			h := f.Metric[0].Histogram
			if len(f.Metric) != 1 || h.GetSampleCount() != 1 || h.GetSampleSum() != 6 {
				t.Errorf("%d times, %vs altogether, want once 6s", h.GetSampleCount(), h.GetSampleSum())
			}
			if got := labels(f.Metric[0]); got != "operation_name=overall_volume_mount plugin_name=kubernetes.io/late " {
				t.Error(got)
			}
		}
		if !found {
			t.Error("not counted")
		}
	})
}

func labels(m *dto.Metric) (text string) {
	for _, l := range m.Label {
		text += l.GetName() + "=" + l.GetValue() + " "
	}
	return text
}
