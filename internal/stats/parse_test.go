package stats

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func TestNumber(t *testing.T) {
	for text, want := range map[string]value{
		"0\n": {0, true}, "42": {42, true}, " 7 \n": {7, true}, "max\n": {math.MaxUint64, true},
		"18446744073709551615": {math.MaxUint64, true}, "18446744073709551616": {}, "99999999999999999999": {},
		"": {}, "-1\n": {}, "1.5": {}, "0x10": {}, "1 2": {}, strings.Repeat("0", 30): {},
	} {
		n, ok := number([]byte(text))
		if ok != want.ok || ok && n != want.n {
			t.Errorf("number(%q) = %d, %t; want %d, %t", text, n, ok, want.n, want.ok)
		}
	}
}

func TestPressure(t *testing.T) {
	full := &statsapi.PSIStats{
		Some: statsapi.PSIData{Avg10: 1.5, Avg60: 2, Avg300: 3, Total: 4},
		Full: statsapi.PSIData{Avg10: 0.5, Total: 5},
	}
	for text, want := range map[string]*statsapi.PSIStats{
		"some avg10=1.50 avg60=2.00 avg300=3.00 total=4\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=5\n": full,
		// Kernels before 5.13 have no line "full" for CPU.
		"some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n": {Some: statsapi.PSIData{Total: 9}},
		"": nil, "some\nfull\n": nil, "some total=x": nil, "other total=5": nil,
	} {
		if diff := cmp.Diff(want, pressure([]byte(text))); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestDisks(t *testing.T) {
	all := cmp.AllowUnexported(diskIO{})
	got := ioStat([]byte("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n253:0 \n8:16 cost.usage=9\nbad\n7:1 rbytes=x wbytes=8\n"))
	want := []diskIO{
		{major: 8, readBytes: 1, writeBytes: 2, reads: 3, writes: 4, discardBytes: 5, discards: 6, hasBytes: true, hasCounts: true},
		{major: 7, minor: 1, writeBytes: 8, hasBytes: true},
	}
	if diff := cmp.Diff(want, got, all); diff != "" {
		t.Errorf("io.stat (-want +got):\n%s", diff)
	}
	got = blkio([]byte("8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Total 3\n9:1 Discard 4\nTotal 3\n"), false, nil)
	got = blkio([]byte("8:0 Read 5\n8:0 Write 6\n"), true, got)
	want = []diskIO{
		{major: 8, readBytes: 1, writeBytes: 2, reads: 5, writes: 6, hasBytes: true, hasCounts: true},
		{major: 9, minor: 1, discardBytes: 4, hasBytes: true},
	}
	if diff := cmp.Diff(want, got, all); diff != "" {
		t.Errorf("blkio (-want +got):\n%s", diff)
	}
}

func TestNetDev(t *testing.T) {
	line := func(name string) string { return name + ": 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n" }
	text := "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n" +
		line("    lo") + line("  eth0") + line("veth1") + line("VETH2") + line("docker0") + "eth1: 1 2 3\n" + "eth2:18446744073709551615 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"
	var names []string
	for _, n := range netDev([]byte(text)) {
		names = append(names, fmt.Sprint(n.name, " ", n.rxBytes, n.rxDropped, n.txBytes, n.txDropped))
	}
	if got, want := strings.Join(names, "\n"), "eth0 1 4 9 12\neth2 18446744073709551615 4 9 12"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestOpenFilesLimit(t *testing.T) {
	for text, want := range map[string]string{
		"Limit  Soft  Hard  Units\nMax cpu time unlimited unlimited seconds\nMax open files            1024                 4096                 files     \n": "1024 true",
		"Max open files            unlimited            unlimited            files\n":                                                                          "-1 true",
		"": "0 false", "Max open files\n": "0 false",
	} {
		n, ok := openFilesLimit([]byte(text))
		if got := fmt.Sprint(n, ok); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestProcessCgroup(t *testing.T) {
	v1, v2 := newSplit(map[string]string{"memory": "/m", "cpu": "/c"}, 0), newUnified("/u", 0)
	for _, c := range []struct {
		h          *hierarchy
		text, want string
	}{
		{v2, "0::/kubepods/x\n", "/kubepods/x"},
		{v2, "1:name=systemd:/a\n0::/b/../c\n", "/c"},
		{v2, "0::relative\n", ""},
		{v1, "5:memory:/a/b\n4:cpu,cpuacct:/a/b\n0::/\n", "/a/b"},
		{v1, "5:memory:/a/b\n4:cpu,cpuacct:/other\n", ""}, // nobody's in particular
		{v1, "", ""},
	} {
		if got := c.h.processCgroup([]byte(c.text)); got != c.want {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
}

// Whatever the bytes are, the parsers end, and what they found can be shown.
func FuzzParsers(f *testing.F) {
	for _, seed := range []string{
		"some avg10=1.50 avg60=2.00 avg300=3.00 total=4\nfull avg10=nan avg60=1e999 total=18446744073709551616",
		"8:0 rbytes=1 wbytes=2\n8:0 Read 1\n99999999999999999999:1 rbytes=1", "eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n\xff: 1 2",
		"0::/a\n5:memory:/b\n", "Max open files -1 1", "MemTotal: 99999999999999999 kB\n", "1\n0\n4294967296\n", "\x00\n\r\n:::",
	} {
		f.Add([]byte(seed))
	}
	h := newSplit(map[string]string{"memory": "/m"}, 0)
	f.Fuzz(func(t *testing.T, text []byte) {
		flatKeyed(text, func(key []byte, _ uint64) {
			if len(key) == 0 {
				t.Error("empty key")
			}
		})
		if p := pressure(text); p != nil {
			for _, avg := range []float64{p.Some.Avg10, p.Some.Avg60, p.Full.Avg300} {
				if math.IsNaN(avg) || math.IsInf(avg, 0) {
					t.Errorf("average %v cannot be written as JSON", avg)
				}
			}
		}
		ioStat(text)
		blkio(text, true, blkio(text, false, nil))
		if n, pids := countProcesses(text, true); int(n.n) != len(pids) {
			t.Errorf("%d processes, %v", n.n, pids)
		}
		openFilesLimit(text)
		if p := h.processCgroup(text); p != "" && (!strings.HasPrefix(p, "/") || strings.Contains(p+"/", "/../")) {
			t.Errorf("cgroup %q", p)
		}
		for _, format := range formats {
			e, _ := newExposition(accept(format), nil)
			e.begin("x", "X.", false)
			for _, n := range netDev(text) {
				e.sample(e.label(nil, "interface", n.name), 1, epoch)
			}
			if out := e.finish(); !utf8.Valid(out) && format != "protobuf" {
				t.Errorf("%s: %q", format, out)
			}
		}
	})
}
