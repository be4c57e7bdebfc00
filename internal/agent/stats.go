package agent

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/version"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"kubelet/internal/cgroup"
	"kubelet/internal/config"
	"kubelet/internal/stats"
)

func (a *Agent) statsConfig(started time.Time) stats.Config {
	k := &a.cfg.Kubelet
	return stats.Config{
		NodeName: a.nodeName, Root: a.cfg.Flags.RootDir, PodLogsDir: k.PodLogsDir, Started: started,
		Node: a.node.Node, Pods: a.statsPods, Observed: a.observed.List, Cgroups: a.cgroups, Runtime: a.runtime,
		Volumes:        a.statsVolumes,
		KubeletCgroups: k.KubeletCgroups, RuntimeCgroups: a.cfg.Flags.RuntimeCgroups, SystemCgroups: k.SystemCgroups,
		VolumeStatsPeriod: k.VolumeStatsAggPeriod.Duration,
	}
}

// statsPods are the pods whose usage is shown.
func (a *Agent) statsPods() []stats.Pod {
	list := a.desired.List()
	pods := make([]stats.Pod, 0, len(list))
	for _, d := range list {
		p := stats.Pod{Pod: d.Pod}
		if s, ok := a.writer.Get(d.Pod.UID); ok && s.StartTime != nil {
			p.StartTime = s.StartTime.Time
		}
		pods = append(pods, p)
	}
	return pods
}

// statsVolumes are the volumes whose usage is shown: not the node's own
// directories (hostPath), which belong to nobody.
func (a *Agent) statsVolumes(pod *v1.Pod) (out []stats.Volume) {
	for _, l := range a.volumes.Locations(pod) {
		s := &l.Volume.VolumeSource
		if s.HostPath != nil || s.Image != nil {
			continue
		}
		v := stats.Volume{
			Name: l.Volume.Name, Dir: l.Dir,
			Walk: s.EmptyDir != nil || s.ConfigMap != nil || s.Secret != nil || s.DownwardAPI != nil || s.Projected != nil || s.GitRepo != nil,
			// What upstream counts; the others of the kubelet's own are in
			// memory.
			Ephemeral: s.GitRepo != nil || s.ConfigMap != nil || s.EmptyDir != nil && s.EmptyDir.Medium == v1.StorageMediumDefault,
		}
		switch {
		case s.PersistentVolumeClaim != nil:
			v.Claim = &statsapi.PVCReference{Namespace: pod.Namespace, Name: s.PersistentVolumeClaim.ClaimName}
		case s.Ephemeral != nil:
			v.Claim = &statsapi.PVCReference{Namespace: pod.Namespace, Name: pod.Name + "-" + l.Volume.Name}
		}
		out = append(out, v)
	}
	return out
}

// statsHandlers serve usage, by path.
func (a *Agent) statsHandlers() map[string]http.Handler {
	return map[string]http.Handler{
		"/stats/summary":    a.stats.SummaryHandler(),
		"/metrics":          stats.MetricsHandler(a.registry),
		"/metrics/resource": a.stats.ResourceHandler(),
		"/metrics/cadvisor": a.stats.CadvisorHandler(),
		"/metrics/probes":   stats.MetricsHandler(a.probed),
	}
}

// aboutMetrics say what this kubelet is, under the names that every component
// has.
func (a *Agent) aboutMetrics() []prometheus.Collector {
	v := version.Get()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kubernetes_build_info", Help: "Version that was built. The value is always 1.",
	}, []string{"major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version", "compiler", "platform"})
	build.WithLabelValues(v.Major, v.Minor, v.GitVersion, v.GitCommit, v.GitTreeState, v.BuildDate, v.GoVersion, v.Compiler, v.Platform).Set(1)

	gates := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kubernetes_feature_enabled", Help: "1 for feature gates that are on, 0 for those that are off; stage is empty for GA.",
	}, []string{"name", "stage"})
	for _, g := range config.KnownGates() {
		stage := strings.ToUpper(string(g.Stage))
		if g.Stage == config.GA {
			stage = ""
		}
		enabled := 0.0
		if a.cfg.Gates.Enabled(g.Name) {
			enabled = 1
		}
		gates.WithLabelValues(string(g.Name), stage).Set(enabled)
	}

	hierarchy := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubelet_cgroup_version", Help: "Version of the cgroup hierarchy, 1 or 2."})
	hierarchy.Set(float64(cgroup.Version()))
	return []prometheus.Collector{build, gates, hierarchy}
}
