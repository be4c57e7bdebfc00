package allocation

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func pod(uid types.UID, cpu string) *v1.Pod {
	p := &v1.Pod{}
	p.UID = uid
	asks := v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}
	p.Spec.InitContainers = []v1.Container{{Name: "i", Resources: asks}}
	p.Spec.Containers = []v1.Container{{Name: "c", Image: "x", Resources: asks}, {Name: "d"}}
	return p
}

func open(t *testing.T, dir string) *Table {
	t.Helper()
	table, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func cpu(p *v1.Pod) string { return p.Spec.Containers[0].Resources.Requests.Cpu().String() }

func TestPodKeepsWhatIsAllocated(t *testing.T) {
	dir := t.TempDir()
	table := open(t, dir)
	first, more := pod("a", "1"), pod("a", "2")
	if table.Apply(more) != more {
		t.Error("a pod that is not in the table is changed")
	}
	table.Accept(first)
	table.Accept(more) // it is in the table
	if table.Apply(first) != first {
		t.Error("a pod that asks for what it has is copied")
	}
	kept := table.Apply(more)
	if cpu(kept) != "1" || kept.Spec.InitContainers[0].Resources.Requests.Cpu().String() != "1" || cpu(more) != "2" {
		t.Errorf("allocated %s, the spec asks for %s", cpu(kept), cpu(more))
	}
	if table.Apply(more) != kept {
		t.Error("the same version of a pod is copied twice")
	}
	if err := table.Allocate(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	if table.Apply(more) != more || cpu(table.Apply(first)) != "2" {
		t.Error("the pod does not have what was allocated last")
	}
	// Killed right now, the next run knows.
	again := open(t, dir)
	if got := cpu(again.Apply(first)); got != "2" {
		t.Errorf("after a restart: %s", got)
	}
	again.Forget("a")
	if again.Apply(first) != first {
		t.Error("a forgotten pod is known")
	}
}

func TestPodLevelResources(t *testing.T) {
	table := open(t, t.TempDir())
	p := pod("a", "1")
	table.Accept(p)
	q := p.DeepCopy()
	q.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Gi")}}
	if table.Apply(q).Spec.Resources != nil {
		t.Error("the pod has resources of its own before they are allocated")
	}
	if err := table.Allocate(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	if got := table.Apply(p).Spec.Resources; !equality.Semantic.DeepEqual(got, q.Spec.Resources) {
		t.Errorf("resources of the pod: %v", got)
	}
}

func TestFailedWriteAllocatesNothing(t *testing.T) {
	dir := t.TempDir()
	table := open(t, filepath.Join(dir, "gone"))
	table.Accept(pod("a", "1"))
	if err := table.Allocate(t.Context(), pod("a", "2")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if got := cpu(table.Apply(pod("a", "3"))); got != "1" {
		t.Errorf("allocated: %s", got)
	}
}

func TestWhatNobodyWaitsForIsWritten(t *testing.T) {
	dir := t.TempDir()
	synced := make(chan struct{})
	table, err := New(Config{Dir: dir, Synced: synced, Exists: func(uid types.UID) bool { return uid == "a" }})
	if err != nil {
		t.Fatal(err)
	}
	table.Accept(pod("a", "1"))
	table.Accept(pod("gone", "1"))
	ctx, cancel := context.WithCancel(t.Context())
	close(synced)
	done := make(chan error)
	go func() { done <- table.Run(ctx) }()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	entries, err := read(filepath.Join(dir, fileName))
	if _, ok := entries["a"]; err != nil || !ok {
		t.Errorf("entries %v, %v", entries, err)
	}
}

// upstream is what kubelet 1.37.2 writes of a node with one pod.
const upstream = `{"data":"{\"entries\":{\"u1\":{\"ContainerResources\":{\"c\":{\"limits\":{\"cpu\":\"25m\"},\"requests\":{\"cpu\":\"20m\"}}},\"PodLevelResources\":null,\"EmptyDirVolumeLimits\":null}}}","checksum":3108461565}`

func TestUpstreamsFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte(upstream), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := cpu(open(t, dir).Apply(pod("u1", "1"))); got != "20m" {
		t.Errorf("allocated %s", got)
	}
}

// What upstream had given the containers when it handed the node over is known,
// until this kubelet has allocated the pod something else: then upstream's file
// says nothing of it any more, so that it does not make the change once more.
func TestUpstreamsSecondFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, actuatedName)
	if err := os.WriteFile(path, []byte(upstream), 0o600); err != nil {
		t.Fatal(err)
	}
	table := open(t, dir)
	if got := table.Actuated(pod("u1", "1")); got == nil || cpu(got) != "20m" {
		t.Errorf("actuated %v", got)
	}
	if got := table.Actuated(pod("u2", "1")); got != nil {
		t.Errorf("of a pod that it did not know: %v", got)
	}
	if asked := pod("u1", "20m"); table.Apply(asked) != asked || table.Knows("u1") {
		t.Error("what was given counts as what is allocated")
	}
	if err := table.Allocate(t.Context(), pod("u1", "2")); err != nil {
		t.Fatal(err)
	}
	if got := table.Actuated(pod("u1", "2")); got != nil {
		t.Errorf("it is allocated something else, and still %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := table.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if entries, err := read(path); err != nil || len(entries) != 0 {
		t.Errorf("upstream's file: %v, %v", entries, err)
	}
}

func TestBadFile(t *testing.T) {
	for _, text := range []string{"", "{", `{"data":"{}","checksum":1}`, "\x00\xff", `{"data":"[]","checksum":` + "2" + `}`} {
		dir := t.TempDir()
		path := filepath.Join(dir, fileName)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		table, err := New(Config{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: error %v", text, err)
		}
		// It goes on, and mends the file.
		if err := table.Allocate(t.Context(), pod("a", "1")); err != nil {
			t.Fatal(err)
		}
		open(t, dir)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"data":"{}","checksum":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		entries, err := decode(body)
		for uid, r := range entries {
			if err != nil {
				t.Fatal("entries beside an error")
			}
			p := pod(uid, "1")
			r.apply(p)
		}
	})
}
