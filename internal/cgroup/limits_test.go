package cgroup

import (
	_ "embed"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

// Embedded, because the test binary also runs alone in a guest with cgroup v2.
//
//go:embed testdata/limits.yaml
var limitsYAML []byte

type wanted struct {
	Shares    uint64           `json:"shares"`
	Quota     int64            `json:"quota"`
	Period    uint64           `json:"period"`
	Memory    int64            `json:"memory"`
	Pids      int64            `json:"pids"`
	Hugepages map[string]int64 `json:"hugepages"`
}

func TestPodLimits(t *testing.T) {
	var cases []struct {
		Name   string `json:"name"`
		Config struct {
			QuotaOff           bool  `json:"quotaOff"`
			PeriodMilliseconds int64 `json:"periodMilliseconds"`
			PodPidsLimit       int64 `json:"podPidsLimit"`
		} `json:"config"`
		Spec v1.PodSpec `json:"spec"`
		Want wanted     `json:"want"`
	}
	if err := yaml.UnmarshalStrict(limitsYAML, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			period := 100 * time.Millisecond
			if c.Config.PeriodMilliseconds != 0 {
				period = time.Duration(c.Config.PeriodMilliseconds) * time.Millisecond
			}
			l := podLimits(&v1.Pod{Spec: c.Spec}, Config{
				CPUCFSQuota:       !c.Config.QuotaOff,
				CPUCFSQuotaPeriod: period,
				PodPidsLimit:      c.Config.PodPidsLimit,
			})
			got := wanted{l.CPUShares, l.CPUQuota, l.CPUPeriod, l.Memory, l.Pids, l.Hugepages}
			if len(got.Hugepages) == 0 {
				got.Hugepages = nil
			}
			if diff := cmp.Diff(c.Want, got); diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
		})
	}
}

// The values that the kubelet writes for KEP-2254, so that a node shows the
// same weights under either.
func TestWeightOfShares(t *testing.T) {
	for shares, want := range map[uint64]uint64{2: 1, 102: 4, 512: 20, 1024: 39, 2048: 79, 262144: 10000, 1 << 40: 10000} {
		if got := weightOf(shares); got != want {
			t.Errorf("weight of %d shares = %d, want %d", shares, got, want)
		}
	}
}

func TestNodeLimits(t *testing.T) {
	allocatable := v1.ResourceList{
		v1.ResourceCPU:    resource.MustParse("1900m"),
		v1.ResourceMemory: resource.MustParse("1Gi"),
		"pid":             resource.MustParse("1000"),
		"hugepages-2Mi":   resource.MustParse("8Mi"),
	}
	on := nodeLimits(allocatable, true)
	if on.CPUShares != 1945 || on.Memory != 1<<30 || on.Pids != 1000 || on.Hugepages["2MB"] != 8<<20 || on.OtherHugepages != 0 {
		t.Errorf("enforced: %+v", on)
	}
	off := nodeLimits(allocatable, false)
	if off.CPUShares != 1945 || off.Memory != -1 || off.Pids != -1 || off.OtherHugepages != unlimitedPages {
		t.Errorf("not enforced: %+v", off)
	}
	if empty := nodeLimits(nil, true); empty.Memory != -1 || empty.CPUShares != 0 {
		t.Errorf("nothing known: %+v", empty)
	}
}
