package status

import (
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/podspec"
)

func newTestMirrors(t *testing.T, a *api, node func() *v1.Node) *Mirrors {
	t.Helper()
	if node == nil {
		node = func() *v1.Node { return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid"}} }
	}
	m, err := NewMirrors(MirrorsConfig{Client: a, NodeName: "n1", Node: node})
	if err != nil {
		t.Fatal(err)
	}
	a.changed = func(p *v1.Pod, deleted bool) {
		if deleted {
			m.ObserveDeleted(p)
		} else {
			m.Observe(p)
		}
	}
	run(t, m.Run)
	return m
}

func manifest(name, hash string) *v1.Pod {
	p := staticPod(name, hash)
	p.Spec.NodeName = "n1"
	return p
}

func TestMirrorShowsTheStaticPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		m := newTestMirrors(t, a, nil)
		m.Ensure(manifest("etcd", "h1"))
		synctest.Wait()
		wantCalls(t, a, "create etcd")
		got := a.get("default", "etcd")
		if got.Annotations[podspec.MirrorAnnotation] != "h1" || got.UID == "h1" {
			t.Errorf("annotations %v, UID %s", got.Annotations, got.UID)
		}
		owner := got.OwnerReferences
		if len(owner) != 1 || owner[0].Kind != "Node" || owner[0].UID != "node-uid" || !*owner[0].Controller {
			t.Errorf("owners %v", owner)
		}
		m.Ensure(manifest("etcd", "h1"))
		synctest.Wait()
		wantCalls(t, a)

		// The manifest changes.
		m.Ensure(manifest("etcd", "h2"))
		synctest.Wait()
		wantCalls(t, a, "delete etcd grace=0", "create etcd")
		if got := a.get("default", "etcd").Annotations[podspec.MirrorAnnotation]; got != "h2" {
			t.Errorf("the mirror shows %s", got)
		}
		// The old static pod ends after the new one came.
		m.Remove("etcd_default", "h1")
		synctest.Wait()
		wantCalls(t, a)
		m.Remove("etcd_default", "h2")
		m.Complete()
		synctest.Wait()
		wantCalls(t, a, "delete etcd grace=0")
	})
}

// A user deletes the mirror: it waits for a kubelet to finish that, which
// finishes it and makes a new one.
func TestDeletedMirrorIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		m := newTestMirrors(t, a, nil)
		m.Ensure(manifest("etcd", "h1"))
		synctest.Wait()
		a.took()
		first := a.get("default", "etcd").UID
		m.Observe(a.edit("default", "etcd", func(p *v1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} }))
		synctest.Wait()
		wantCalls(t, a, "delete etcd grace=0", "create etcd")
		if got := a.get("default", "etcd"); got.UID == first || m.Get("etcd_default").UID != got.UID {
			t.Errorf("UID %s, known %s", got.UID, m.Get("etcd_default").UID)
		}
		// Or deletes it with grace 0.
		gone := a.get("default", "etcd")
		a.set(func() { delete(a.pods, "default/etcd") })
		m.ObserveDeleted(gone)
		synctest.Wait()
		wantCalls(t, a, "create etcd")
	})
}

// A mirror was made while no watch was open, and deleted before the next list:
// only the list can tell.
func TestMirrorMissingFromList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		m := newTestMirrors(t, a, nil)
		a.changed = nil
		m.Ensure(manifest("etcd", "h1"))
		m.Ensure(manifest("dns", "h2"))
		synctest.Wait()
		a.took()
		a.set(func() { delete(a.pods, "default/etcd") })
		m.ObserveList([]*v1.Pod{a.get("default", "dns")})
		synctest.Wait()
		wantCalls(t, a, "create etcd")
	})
}

func TestMirrorsAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		mirror := func(name, hash string) *v1.Pod {
			p := manifest(name, hash)
			p.UID = types.UID("m-" + name)
			p.Annotations[podspec.MirrorAnnotation] = hash
			return a.put(p)
		}
		kept, old, orphan := mirror("kept", "h1"), mirror("old", "h1"), mirror("orphan", "h1")
		m := newTestMirrors(t, a, nil)
		for _, p := range []*v1.Pod{kept, old, orphan} {
			m.Observe(p)
		}
		synctest.Wait()
		wantCalls(t, a) // nothing is an orphan until all manifests were read
		m.Ensure(manifest("kept", "h1"))
		synctest.Wait()
		wantCalls(t, a)
		m.Ensure(manifest("old", "h2"))
		synctest.Wait()
		wantCalls(t, a, "delete old", "create old")
		m.Complete()
		synctest.Wait()
		wantCalls(t, a, "delete orphan")
	})
}

// The API server knows a mirror that the watch has not told of yet.
func TestMirrorExistsAlready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		existing := manifest("etcd", "h1")
		existing.UID = "m1"
		existing.Annotations[podspec.MirrorAnnotation] = "h0"
		a.put(existing)
		m := newTestMirrors(t, a, nil)
		var told []types.UID
		m.config.Changed = func(p *v1.Pod) { told = append(told, p.UID) }
		m.Ensure(manifest("etcd", "h1"))
		synctest.Wait()
		wantCalls(t, a, "create etcd", "get etcd", "delete etcd", "create etcd")
		if len(told) != 2 || told[1] != a.get("default", "etcd").UID {
			t.Errorf("told of %v", told)
		}
	})
}

// A pod of the API server that only has the name is never touched.
func TestForeignPodIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		foreign := apiPod("etcd", "u1")
		a := newAPI(foreign)
		m := newTestMirrors(t, a, nil)
		m.Ensure(manifest("etcd", "h1"))
		time.Sleep(time.Hour)
		if a.get("default", "etcd").UID != "u1" {
			t.Error("it was replaced")
		}
	})
}

func TestMirrorWaitsForTheNodeAndTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		var node *v1.Node
		m := newTestMirrors(t, a, func() *v1.Node {
			a.mu.Lock()
			defer a.mu.Unlock()
			return node
		})
		m.Ensure(manifest("etcd", "h1"))
		time.Sleep(time.Hour)
		wantCalls(t, a)
		a.set(func() {
			node = &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid"}}
			a.fail = func(string) error { return errAway }
		})
		m.NodeChanged()
		time.Sleep(time.Hour)
		if n := len(a.took()); n < 50 || n > 500 {
			t.Errorf("%d attempts in an hour", n)
		}
		a.set(func() { a.fail = nil })
		m.Retry()
		synctest.Wait()
		if a.get("default", "etcd") == nil {
			t.Error("not made when the server is back")
		}
	})
}

func TestStandaloneHasNoMirrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMirrors(MirrorsConfig{})
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, m.Run)
		m.Ensure(manifest("web", "h1"))
		m.Complete()
		synctest.Wait()
		if m.Get("web_default") != nil {
			t.Error("there is one")
		}
		stop()
	})
}
