package configdiff

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"kubelet/internal/config"
)

// setting is a field with a value that is right by itself.
type setting struct{ path, value string }

// TestMixtures spreads settings over a file, drop-ins and flags by chance, to
// see that they are merged alike. A seed replays its case.
func TestMixtures(t *testing.T) {
	r := newReader()
	good := goodSettings(t, r)
	// Without --vmodule: upstream reads it twice and keeps both.
	flags := []string{
		"--max-pods=7", "--max-pods=8", "--feature-gates=EventedPLEG=true", "--feature-gates=NodeLogQuery=true,EventedPLEG=false", "--cluster-dns=10.0.0.9",
		"--eviction-hard=memory.available<3Gi", "--kube-reserved=memory=3Gi", "--kube-reserved=cpu=1", "--register-with-taints=k=v:NoExecute", "--reserved-memory=0:memory=5Gi",
		"--node-status-update-frequency=33s", "--read-only-port=0", "--anonymous-auth=false", "--seccomp-default", "-v5", "--node-labels=a=b", "--healthz-port=0",
		"--cpu-cfs-quota=false", "--manifest-url-header=a:b", "--event-qps=0",
	}
	for seed := range uint64(300) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			dir := t.TempDir()
			var args []string
			if rng.IntN(4) > 0 {
				write(t, filepath.Join(dir, "kubelet.yaml"), document(rng, good))
				args = append(args, "--config="+filepath.Join(dir, "kubelet.yaml"))
			}
			if rng.IntN(4) > 0 {
				for _, name := range []string{"10.conf", "20.conf", "sub/30.conf", "40.txt"} {
					write(t, filepath.Join(dir, "conf.d", name), document(rng, good))
				}
				args = append(args, "--config-dir="+filepath.Join(dir, "conf.d"))
			}
			for range rng.IntN(4) {
				args = append(args, flags[rng.IntN(len(flags))])
			}
			compare(t, r, "", args)
		})
	}
}

// document puts a few settings into one file, each field once.
func document(rng *rand.Rand, good []setting) string {
	out := "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
	used := map[string]bool{}
	for range 1 + rng.IntN(6) {
		s := good[rng.IntN(len(good))]
		top, _, _ := strings.Cut(s.path, ".")
		if used[top] {
			continue
		}
		used[top] = true
		_, body, _ := strings.Cut(nested(s.path, s.value), "kind: KubeletConfiguration\n")
		out += body
	}
	return out
}

// goodSettings draws settings that both accept alone.
func goodSettings(t *testing.T, r *reader) []setting {
	rng := rand.New(rand.NewPCG(1, 1))
	fields := config.Fields()
	var good []setting
	for len(good) < 250 {
		path := fields[rng.IntN(len(fields))]
		// runOnce is refused; upstream's flags reset splitStream.
		if path == "kind" || path == "apiVersion" || path == "runOnce" || strings.HasSuffix(path, "splitStream") {
			continue
		}
		choices := values(typeOf(path), path)
		s := setting{path, choices[rng.IntN(len(choices))]}
		file := filepath.Join(t.TempDir(), "kubelet.yaml")
		write(t, file, nested(s.path, s.value))
		args := []string{"--config=" + file}
		if _, err := r.read(t.Context(), args); err != nil {
			continue
		}
		if _, err := config.Parse(args); err == nil {
			good = append(good, s)
		}
	}
	return good
}
