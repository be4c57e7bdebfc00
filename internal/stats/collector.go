package stats

import (
	"context"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// collected are the metrics that the Reader has on /metrics: usage of volumes
// that belong to a claim, and of container logs.
type collected struct {
	volume [6]*prometheus.Desc
	logs   *prometheus.Desc
}

func newCollected() collected {
	volume := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("kubelet_volume_stats_"+name, help, []string{"namespace", "persistentvolumeclaim"}, nil)
	}
	return collected{
		volume: [6]*prometheus.Desc{
			volume("capacity_bytes", "Size of the claim's volume, in bytes."),
			volume("available_bytes", "Free part of the claim's volume, in bytes."),
			volume("used_bytes", "Used part of the claim's volume, in bytes."),
			volume("inodes", "Inodes of the claim's volume."),
			volume("inodes_free", "Free inodes of the claim's volume."),
			volume("inodes_used", "Used inodes of the claim's volume."),
		},
		logs: prometheus.NewDesc("kubelet_container_log_filesystem_used_bytes", "What the container's logs take on disk, in bytes.",
			[]string{"uid", "namespace", "pod", "container"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (r *Reader) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range r.collected.volume {
		ch <- d
	}
	ch <- r.collected.logs
}

// Collect implements prometheus.Collector.
func (r *Reader) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	type claimed struct {
		claim statsapi.PVCReference
		dir   string
	}
	var claims []claimed
	var waits []<-chan struct{}
	pods := r.config.Pods()
	seen := r.config.Observed()
	running := pods[:0:0]
	for i := range pods {
		p := &pods[i]
		if have, ok := seen[p.UID]; !ok || p.StartTime.IsZero() || have.ReadySandbox() == nil {
			continue
		}
		running = append(running, *p)
		waits = append(waits, r.askFiles(p.Pod))
		if r.config.VolumeStatsPeriod <= 0 {
			continue
		}
		for _, v := range r.config.Volumes(p.Pod) {
			if v.Claim != nil {
				waits = append(waits, r.askVolume(&v))
				claims = append(claims, claimed{*v.Claim, v.Dir})
			}
		}
	}
	for _, w := range waits {
		await(ctx, w)
	}

	told := map[statsapi.PVCReference]bool{}
	for _, c := range claims {
		u, _, ok := r.volumes.get(c.dir)
		if !ok || told[c.claim] {
			continue
		}
		told[c.claim] = true // pods of the node may share it
		for i, n := range []uint64{u.fs.capacity, u.fs.available, u.fs.used, u.fs.inodes, u.fs.inodesFree, u.fs.inodeUsed} {
			ch <- prometheus.MustNewConstMetric(r.collected.volume[i], prometheus.GaugeValue, float64(n), c.claim.Namespace, c.claim.Name)
		}
	}
	for i := range running {
		p := &running[i]
		files, _, ok := r.volumes.get(r.logsDir(p.Pod))
		if !ok {
			continue
		}
		for name, used := range files.containers {
			ch <- prometheus.MustNewConstMetric(r.collected.logs, prometheus.GaugeValue, float64(used.bytes), string(p.UID), p.Namespace, p.Name, name)
		}
	}
}

// logsDir is where the logs of a pod are.
func (r *Reader) logsDir(p *v1.Pod) string {
	return filepath.Join(r.config.PodLogsDir, p.Namespace+"_"+p.Name+"_"+string(p.UID))
}
