package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// update changes ConfigMaps and looks into the containers for the new text.
// All kubelets are measured at once: it is a wait, not work.
func (b *bench) update(ctx context.Context) error {
	if err := b.active(ctx, b.columns...); err != nil {
		return err
	}
	took := b.report.row("8", "ConfigMap changed → file changed in the pod", milliseconds)
	errs := make([]error, len(b.columns))
	times := make([][]float64, len(b.columns))
	var group sync.WaitGroup
	for i, c := range b.columns {
		if c.floor == nil {
			group.Go(func() { times[i], errs[i] = b.updateAll(ctx, c, b.pods) })
		}
	}
	group.Wait()
	for i, c := range b.columns {
		if errs[i] != nil {
			return errs[i]
		}
		took.add(c.name, times[i]...)
	}
	b.progress(0, took)
	return b.deleteEverything(ctx)
}

// updateAll changes the ConfigMaps of n pods, one by one, half a second apart.
func (b *bench) updateAll(ctx context.Context, c *column, n int) ([]float64, error) {
	took, errs := make([]float64, n), make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		name := b.name("changing")
		o := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"text": "before"}}
		if _, err := b.client.CoreV1().ConfigMaps(namespace).Create(ctx, o, metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("make ConfigMap: %w", err)
		}
		pod, _, err := b.create(ctx, c, shape{"config", "pod with a ConfigMap of its own", func(p *v1.Pod) {
			p.Spec.Volumes = []v1.Volume{{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: name}}}}}
			p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "config", MountPath: "/config"}}
		}})
		if err != nil {
			return nil, err
		}
		file, err := c.inContainer(ctx, pod.Name, "/config/text")
		if err != nil {
			return nil, err
		}
		group.Go(func() {
			time.Sleep(time.Second) // the pod's start is over
			o.Data["text"] = "after"
			begin := time.Now()
			if _, errs[i] = b.client.CoreV1().ConfigMaps(namespace).Update(ctx, o, metav1.UpdateOptions{}); errs[i] == nil {
				errs[i] = waitContent(ctx, file, "after")
			}
			took[i] = inMilliseconds(time.Since(begin))
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("a changed ConfigMap on %s: %w", c.name, err)
		}
	}
	return took, nil
}

// waitContent looks each 2 ms.
func waitContent(ctx context.Context, file, want string) error {
	for end := time.Now().Add(patience); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(2 * time.Millisecond) {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if bytes.Equal(text, []byte(want)) {
			return nil
		}
	}
	return fmt.Errorf("waited %s for %s to say %q", patience, file, want)
}
