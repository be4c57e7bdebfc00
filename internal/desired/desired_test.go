package desired

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/podspec"
)

func pod(uid, name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Name: name, Namespace: "ns"}}
	for _, f := range change {
		f(p)
	}
	return p
}

func version(rv string) func(*v1.Pod) { return func(p *v1.Pod) { p.ResourceVersion = rv } }

func mirrorOf(hash string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Annotations = map[string]string{podspec.MirrorAnnotation: hash} }
}

type recorder struct {
	mu   sync.Mutex
	uids []types.UID
}

func (r *recorder) changed(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uids = append(r.uids, uid)
}

// take returns what changed since the last call.
func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var s []string
	for _, u := range r.uids {
		s = append(s, string(u))
	}
	r.uids = nil
	return strings.Join(s, " ")
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func state(table *Table, name string) string {
	var s []string
	for _, p := range table.ByName(podspec.Name(name + "_ns")) {
		e := string(p.Pod.UID) + "/" + p.Source
		if p.Removed {
			e += "/removed"
		}
		s = append(s, e)
	}
	return strings.Join(s, " ")
}

func TestNothingIsUnknownBeforeEverySourceReported(t *testing.T) {
	table := NewTable(nil, podspec.SourceFile, podspec.SourceAPI)
	expect(t, "at first", fmt.Sprint(table.Synced(), table.Unsynced()), "false [api file]")
	table.Replace(podspec.SourceFile, nil)
	expect(t, "after file", fmt.Sprint(table.Synced(), table.Unsynced()), "false [api]")
	// Single events do not count: only a full set tells what is not there.
	table.Upsert(podspec.SourceAPI, pod("a", "a"))
	expect(t, "after an event", fmt.Sprint(table.Synced()), "false")
	table.Replace(podspec.SourceAPI, nil)
	expect(t, "after both", fmt.Sprint(table.Synced(), table.Unsynced()), "true []")
	<-table.SyncedC()
	table.Replace(podspec.SourceAPI, nil) // and again does no harm
	if !NewTable(nil).Synced() {
		t.Error("a table without sources has nothing to wait for")
	}
}

func TestFullSetMakesTombstonesAndForgetDropsThem(t *testing.T) {
	var r recorder
	table := NewTable(r.changed, podspec.SourceFile)
	a, b := pod("a", "a"), pod("b", "b")
	table.Replace(podspec.SourceFile, []*v1.Pod{a, b})
	expect(t, "first", r.take(), "a b")
	table.Replace(podspec.SourceFile, []*v1.Pod{a, b})
	expect(t, "the same again", r.take(), "")
	table.Replace(podspec.SourceFile, []*v1.Pod{a})
	expect(t, "b gone", r.take(), "b")
	expect(t, "tombstone", state(table, "b"), "b/file/removed")
	table.Forget("a")
	expect(t, "a wanted pod is not forgotten", state(table, "a"), "a/file")
	table.Forget("b")
	expect(t, "forgotten", state(table, "b"), "")
	if _, ok := table.Get("b"); ok || len(table.List()) != 1 {
		t.Error("b is still there")
	}
}

func TestRemovedPodThatComesBackStartsAnew(t *testing.T) {
	var r recorder
	table := NewTable(r.changed, podspec.SourceFile)
	a := pod("a", "a")
	table.Replace(podspec.SourceFile, []*v1.Pod{a})
	table.Replace(podspec.SourceFile, nil)
	r.take()
	table.Replace(podspec.SourceFile, []*v1.Pod{a})
	expect(t, "still ending", state(table, "a"), "a/file/removed")
	expect(t, "no news yet", r.take(), "")
	table.Forget("a")
	expect(t, "wanted anew", state(table, "a"), "a/file")
	expect(t, "told", r.take(), "a")

	// Gone, back and gone again leaves only the tombstone.
	table.Replace(podspec.SourceFile, nil)
	table.Replace(podspec.SourceFile, []*v1.Pod{pod("a", "a")})
	table.Replace(podspec.SourceFile, nil)
	table.Forget("a")
	expect(t, "gone for good", state(table, "a"), "")
}

func TestDeletedObjectNeverComesBackUnderItsUID(t *testing.T) {
	table := NewTable(nil, podspec.SourceAPI)
	table.Replace(podspec.SourceAPI, []*v1.Pod{pod("a", "web", version("1"))})
	table.Delete(podspec.SourceAPI, "a")
	table.Upsert(podspec.SourceAPI, pod("a", "web", version("2"))) // late
	table.Upsert(podspec.SourceAPI, pod("b", "web", version("3"))) // the next of that name
	expect(t, "both", state(table, "web"), "a/api/removed b/api")
	table.Forget("a")
	expect(t, "successor", state(table, "web"), "b/api")
}

func TestForgettingWakesWhoeverWaitsForTheName(t *testing.T) {
	var r recorder
	table := NewTable(r.changed, podspec.SourceAPI)
	table.Replace(podspec.SourceAPI, []*v1.Pod{pod("a", "web")})
	table.Delete(podspec.SourceAPI, "a")
	table.Upsert(podspec.SourceAPI, pod("b", "web"))
	r.take()
	table.Forget("a")
	expect(t, "woken", r.take(), "b")
}

func TestSameNameOrderDoesNotDependOnArrival(t *testing.T) {
	deleted := metav1.Now()
	api := pod("z-api", "web")
	ending := pod("y-ending", "web", func(p *v1.Pod) { p.DeletionTimestamp = &deleted })
	file, file2, url := pod("c-file", "web"), pod("d-file", "web"), pod("b-url", "web")
	want := "y-ending/api c-file/file d-file/file b-url/http z-api/api"
	for _, apiFirst := range []bool{true, false} {
		table := NewTable(nil)
		if apiFirst {
			table.Replace(podspec.SourceAPI, []*v1.Pod{api.DeepCopy(), ending.DeepCopy()})
		}
		table.Replace(podspec.SourceHTTP, []*v1.Pod{url.DeepCopy()})
		table.Replace(podspec.SourceFile, []*v1.Pod{file2.DeepCopy(), file.DeepCopy()})
		if !apiFirst {
			table.Replace(podspec.SourceAPI, []*v1.Pod{ending.DeepCopy(), api.DeepCopy()})
		}
		expect(t, "order", state(table, "web"), want)
		conflicts := table.Conflicts()
		if len(conflicts) != 4 || conflicts[0].Holder != "y-ending" || !strings.Contains(conflicts[0].Reason, `pod ns/web (uid y-ending) from source "api" has the same name`) {
			t.Errorf("conflicts: %+v", conflicts)
		}
	}
}

func TestUIDOfAnotherSourceIsRefusedAndExplained(t *testing.T) {
	var r recorder
	table := NewTable(r.changed)
	table.Replace(podspec.SourceFile, []*v1.Pod{pod("a", "one")})
	table.Replace(podspec.SourceHTTP, []*v1.Pod{pod("a", "two")})
	expect(t, "kept", state(table, "one"), "a/file")
	expect(t, "refused", state(table, "two"), "")
	if c := table.Conflicts(); len(c) != 1 || !strings.Contains(c[0].Reason, `uid a is in use by source "file"`) {
		t.Errorf("conflicts: %+v", c)
	}
	table.Delete(podspec.SourceHTTP, "a") // not its pod
	expect(t, "still there", state(table, "one"), "a/file")
	table.Replace(podspec.SourceHTTP, []*v1.Pod{pod("a", "two")})
	table.Replace(podspec.SourceFile, nil)
	r.take()
	table.Forget("a")
	expect(t, "its turn", state(table, "two"), "a/http")
	expect(t, "told", r.take(), "a")
	if c := table.Conflicts(); len(c) != 0 {
		t.Errorf("conflicts: %+v", c)
	}
}

func TestMirrorsAreKeptApart(t *testing.T) {
	var r recorder
	table := NewTable(r.changed, podspec.SourceFile, podspec.SourceAPI)
	table.Replace(podspec.SourceFile, []*v1.Pod{pod("static", "dns")})
	r.take()
	table.Replace(podspec.SourceAPI, []*v1.Pod{pod("object", "dns", mirrorOf("static"), version("1")), pod("x", "x")})
	expect(t, "the static pod hears of its mirror", r.take(), "static x")
	expect(t, "not run", state(table, "dns"), "static/file")
	if m := table.Mirror("dns_ns"); m == nil || m.UID != "object" {
		t.Errorf("mirror: %v", m)
	}
	if _, ok := table.Get("object"); ok {
		t.Error("the mirror is among the wanted pods")
	}
	table.Upsert(podspec.SourceAPI, pod("object", "dns", mirrorOf("static"), version("1")))
	expect(t, "told twice", r.take(), "")
	table.Upsert(podspec.SourceAPI, pod("object", "dns", mirrorOf("static"), version("2")))
	expect(t, "changed", r.take(), "static")
	table.Delete(podspec.SourceAPI, "object")
	expect(t, "deleted", r.take(), "static")
	if table.Mirror("dns_ns") != nil {
		t.Error("mirror still there")
	}

	// One whose static pod is not wanted any more has to be found too.
	table.Upsert(podspec.SourceAPI, pod("orphan", "old", mirrorOf("was")))
	expect(t, "orphan", r.take(), "was")
	if len(table.Mirrors()) != 1 {
		t.Error("orphan not listed")
	}
	table.Replace(podspec.SourceAPI, nil)
	expect(t, "relist without it", r.take(), "x was")
	if len(table.Mirrors()) != 0 {
		t.Error("orphan still listed")
	}
}

func TestPodsSayWhereTheyComeFromAndSinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable(nil)
		forged := pod("a", "web", version("1"))
		forged.Annotations = map[string]string{podspec.SourceAnnotation: "file", podspec.SeenAnnotation: "yesterday", "own": "kept"}
		table.Replace(podspec.SourceAPI, []*v1.Pod{forged})
		first, _ := table.Get("a")
		seen := first.Pod.Annotations[podspec.SeenAnnotation]
		if _, err := time.Parse(time.RFC3339Nano, seen); err != nil || first.Pod.Annotations[podspec.SourceAnnotation] != "api" || first.Pod.Annotations["own"] != "kept" {
			t.Errorf("annotations: %v", first.Pod.Annotations)
		}
		if podspec.IsStatic(first.Pod) {
			t.Error("an API pod passes for a static one")
		}
		time.Sleep(time.Minute)
		table.Upsert(podspec.SourceAPI, pod("a", "web", version("2")))
		second, _ := table.Get("a")
		expect(t, "seen stays", second.Pod.Annotations[podspec.SeenAnnotation], seen)
		if second.Revision <= first.Revision || second.Pod == first.Pod {
			t.Errorf("revisions %d, %d", first.Revision, second.Revision)
		}
		// A static pod that is adopted brings the time it was first seen.
		adopted := pod("s", "static")
		adopted.Annotations = map[string]string{podspec.SeenAnnotation: "2026-01-01T00:00:00Z"}
		table.Replace(podspec.SourceFile, []*v1.Pod{adopted})
		got, _ := table.Get("s")
		expect(t, "adopted", got.Pod.Annotations[podspec.SeenAnnotation], "2026-01-01T00:00:00Z")
	})
}

func TestReadersAndWritersTogether(t *testing.T) {
	table := NewTable(func(types.UID) {}, podspec.SourceAPI)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 300 {
				uid := fmt.Sprintf("%d-%d", w, i%10)
				table.Upsert(podspec.SourceAPI, pod(uid, "web", version(fmt.Sprint(i))))
				table.ByName("web_ns")
				table.Conflicts()
				table.Delete(podspec.SourceAPI, types.UID(uid))
				table.Forget(types.UID(uid))
			}
		})
	}
	wg.Go(func() {
		for range 300 {
			table.Replace(podspec.SourceAPI, nil)
			table.List()
		}
	})
	wg.Wait()
	for _, p := range table.List() {
		table.Forget(p.Pod.UID)
	}
	if n := len(table.List()); n != 0 {
		t.Errorf("%d pods left", n)
	}
	if len(table.names) != 0 {
		t.Errorf("names left: %v", table.names)
	}
}
