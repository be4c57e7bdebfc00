package userns

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
)

// node is a kubelet's directory and the sandboxes that run.
type node struct {
	t    *testing.T
	dir  string
	ids  Range
	each uint32
	pids map[types.UID]int
}

func newNode(t *testing.T) *node {
	return &node{t: t, dir: t.TempDir(), ids: Range{First: 65536, Length: 4 * 65536}, each: 65536, pids: map[types.UID]int{}}
}

// start is a kubelet that begins its life.
func (n *node) start() *Allocator {
	n.t.Helper()
	a, err := New(Config{
		PodsDir: filepath.Join(n.dir, "pods"), IDs: n.ids, PerPod: n.each, ProcDir: filepath.Join(n.dir, "proc"),
		SandboxPid: func(uid types.UID) int { return n.pids[uid] },
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return a
}

func (n *node) file(pod string) string { return filepath.Join(n.dir, "pods", pod, "userns") }

func (n *node) write(file, text string) {
	n.t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// runs makes the pod's sandbox run with a mapping, as procfs shows it.
func (n *node) runs(pod string, pid int, uidMap string) {
	n.pids[types.UID(pod)] = pid
	n.write(filepath.Join(n.dir, "proc", fmt.Sprint(pid), "uid_map"), uidMap)
}

func (n *node) remove(pod string) {
	n.t.Helper()
	if err := os.RemoveAll(filepath.Join(n.dir, "pods", pod)); err != nil {
		n.t.Fatal(err)
	}
}

func give(t *testing.T, a *Allocator, pod string) Range {
	t.Helper()
	m, err := a.Mapping(context.Background(), types.UID(pod))
	if err != nil {
		t.Fatalf("pod %s: %v", pod, err)
	}
	if len(m.Uids) != 1 || len(m.Gids) != 1 || m.Uids[0].ContainerId != 0 || !proto.Equal(m.Uids[0], m.Gids[0]) {
		t.Fatalf("pod %s: mapping %v", pod, m)
	}
	return Range{First: m.Uids[0].HostId, Length: m.Uids[0].Length}
}

func upstreamFile(first, length uint32) string {
	m := fmt.Sprintf(`[{"hostId":%d,"containerId":0,"length":%d}]`, first, length)
	return `{"uidMappings":` + m + `,"gidMappings":` + m + `}`
}

// No two pods share an id, every range is used before there are none left, and
// the end of a pod frees its range.
func TestRangesDoNotOverlap(t *testing.T) {
	n := newNode(t)
	a := n.start()
	given := map[Range]string{}
	for _, pod := range []string{"a", "b", "c", "d"} {
		r := give(t, a, pod)
		if r.Length != 65536 || r.First < n.ids.First || r.end() > n.ids.end() || given[r] != "" {
			t.Errorf("%s got %v, which %q has; given %v", pod, r, given[r], given)
		}
		given[r] = pod
	}
	_, err := a.Mapping(t.Context(), "e")
	if err == nil || !strings.Contains(err.Error(), "all 4 ranges") {
		t.Errorf("a fifth pod: %v", err)
	}
	b := give(t, a, "b")
	n.remove("b")
	if r := give(t, a, "e"); r != b {
		t.Errorf("e got %v, and only b's %v is free", r, b)
	}
}

// A pod keeps its range over restarts of the kubelet, and so does one that
// the upstream kubelet started, with whatever number of ids.
func TestRestart(t *testing.T) {
	n := newNode(t)
	before := n.start()
	want := map[string]Range{"a": give(t, before, "a"), "b": give(t, before, "b")}
	if text, err := os.ReadFile(n.file("a")); err != nil || string(text) != upstreamFile(want["a"].First, 65536) {
		t.Errorf("file %s, %v: not upstream's form", text, err)
	}
	n.write(n.file("upstream"), upstreamFile(5*65536, 2*65536))
	n.ids = Range{First: 2 * 65536, Length: 16 * 65536}
	n.each = 2 * 65536

	after := n.start()
	c := give(t, after, "c")
	for pod, r := range map[string]Range{"a": want["a"], "b": want["b"], "upstream": {5 * 65536, 2 * 65536}} {
		if got := give(t, after, pod); got != r {
			t.Errorf("pod %s has %v after the restart, want %v", pod, got, r)
		}
		if c.overlaps(r) {
			t.Errorf("a new pod got %v, which overlaps %v of %s", c, r, pod)
		}
	}
}

// Files that are lost or damaged are made anew: from the sandbox if it runs,
// or else with any range.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(n *node){
		"missing":       func(n *node) { n.remove("a") },
		"empty":         func(n *node) { n.write(n.file("a"), "") },
		"truncated":     func(n *node) { n.write(n.file("a"), upstreamFile(65536, 65536)[:40]) },
		"the node's id": func(n *node) { n.write(n.file("a"), upstreamFile(0, 65536)) },
		"two mappings": func(n *node) {
			n.write(n.file("a"), `{"uidMappings":[{"hostId":65536,"length":5},{"hostId":165536,"length":5}],"gidMappings":[]}`)
		},
		"a link":      func(n *node) { os.Remove(n.file("a")); os.Symlink("/etc/passwd", n.file("a")) },
		"a directory": func(n *node) { os.Remove(n.file("a")); os.MkdirAll(n.file("a"), 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.runs("a", 7, "         0     131072      65536\n")
			n.write(n.file("a"), upstreamFile(131072, 65536))
			damage(n)
			a := n.start()
			if name != "missing" { // another pod's start must not take the range either
				for _, other := range []string{"b", "c", "d"} {
					if r := give(t, a, other); r.First == 131072 {
						t.Errorf("pod %s got the range of a sandbox that runs", other)
					}
				}
			}
			if r := give(t, a, "a"); r.First != 131072 {
				t.Errorf("got %v, and the sandbox has 131072", r)
			}
			if r := give(t, n.start(), "a"); r.First != 131072 {
				t.Errorf("got %v after another restart, and the sandbox has 131072", r)
			}
		})
		t.Run(name+" and nothing runs", func(t *testing.T) {
			n := newNode(t)
			n.write(n.file("a"), upstreamFile(131072, 65536))
			damage(n)
			r := give(t, n.start(), "a")
			if r.First < 65536 || r.Length != 65536 || give(t, n.start(), "a") != r {
				t.Errorf("got %v", r)
			}
		})
	}
}

// Of two files with the same ids, that of a pod that does not run is replaced.
func TestOverlappingFiles(t *testing.T) {
	n := newNode(t)
	n.runs("a", 7, "0 131072 65536")
	n.write(n.file("a"), upstreamFile(131072, 65536))
	n.write(n.file("b"), upstreamFile(131072, 65536))
	a := n.start()
	if r := give(t, a, "a"); r.First != 131072 {
		t.Errorf("a, which runs, got %v", r)
	}
	if r := give(t, a, "b"); r.First == 131072 {
		t.Errorf("b has %v, which a has", r)
	}
}

// A static pod comes back under its UID after its directory was removed.
func TestDirectoryRemovedUnderneath(t *testing.T) {
	n := newNode(t)
	a := n.start()
	before := give(t, a, "a")
	n.remove("a")
	if r := give(t, a, "a"); r != before {
		t.Errorf("got %v, want %v as before", r, before)
	}
	if _, err := os.Stat(n.file("a")); err != nil {
		t.Error(err)
	}
}

func TestConcurrentPods(t *testing.T) {
	n := newNode(t)
	n.ids.Length = 200 * 65536
	a := n.start()
	var mu sync.Mutex
	given := map[Range]bool{}
	var all sync.WaitGroup
	for i := range 150 {
		all.Go(func() {
			r := give(t, a, fmt.Sprint("pod", i))
			mu.Lock()
			defer mu.Unlock()
			if given[r] {
				t.Errorf("%v was given twice", r)
			}
			given[r] = true
		})
	}
	all.Wait()
}

func TestLastIDIsNobodys(t *testing.T) {
	n := newNode(t)
	n.ids = Range{First: 1<<32 - 3*65536, Length: 3 * 65536}
	a := n.start()
	for _, pod := range []string{"a", "b"} {
		if r := give(t, a, pod); r.end() == 1<<32 {
			t.Errorf("%s got %v with the id %d, which the kernel refuses to map", pod, r, uint32(math.MaxUint32))
		}
	}
}

func TestUIDsThatAreNoNames(t *testing.T) {
	a := newNode(t).start()
	for _, uid := range []types.UID{"", ".", "..", "a/b", "../../etc"} {
		if m, err := a.Mapping(t.Context(), uid); err == nil {
			t.Errorf("UID %q got %v", uid, m)
		}
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		ids    Range
		perPod uint32
		pods   int32
		want   string
	}{
		{Range{65536, 65536 * 110}, 65536, 110, ""},
		{Range{65536, math.MaxUint32 - 65535}, 65536, 110, ""},
		{Range{65536, 65536}, 1000, 1, "multiple of 65536"},
		{Range{65536, 65536}, 0, 1, "multiple of 65536"},
		{Range{0, 65536 * 4}, 65536, 1, "node's own"},
		{Range{100000, 65536 * 4}, 65536, 1, "multiple"},
		{Range{65536, 100000}, 65536, 1, "multiple"},
		{Range{65536, 65536 * 4}, 65536, 110, "enough for 4 pods"},
		{Range{1<<32 - 65536, 65536 * 2}, 65536, 1, "32 bits"},
	} {
		_, err := New(Config{PodsDir: "/p", IDs: c.ids, PerPod: c.perPod, MaxPods: c.pods, SandboxPid: func(types.UID) int { return 0 }})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v by %d for %d pods: %v, want %q", c.ids, c.perPod, c.pods, err, c.want)
		}
	}
}

func TestGetSubIDs(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         Range
		wrong        string
	}{
		{"one range", `echo "0: kubelet 65536 7208960"`, Range{65536, 7208960}, ""},
		{"differs for groups", `echo "0: kubelet $#5536 7208960"`, Range{}, "differ"},
		{"several ranges", `printf '0: kubelet 65536 65536\n1: kubelet 165536 65536\n'`, Range{}, "one range"},
		{"none", `true`, Range{}, "one range"},
		{"nonsense", `echo 0: kubelet many 65536`, Range{}, "many"},
		{"too large", `echo 0: kubelet 65536 99999999999`, Range{}, "99999999999"},
		{"fails", `echo the directory is away >&2; exit 1`, Range{}, "the directory is away"},
	} {
		t.Run(c.name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "getsubids")
			if err := os.WriteFile(program, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			r, err := subIDs(t.Context(), program)
			if r != c.want || (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("got %v, %v", r, err)
			}
		})
	}
}

// This machine has no user of that name, as most have not.
func TestNodeIDsByDefault(t *testing.T) {
	r, err := NodeIDs(t.Context(), 131072)
	if err != nil || r != (Range{131072, uint32(1<<32 - 131072)}) {
		t.Skipf("user %s exists here: %v, %v", User, r, err)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add([]byte(upstreamFile(65536, 65536)))
	f.Add([]byte("         0      65536      65536\n"))
	f.Add([]byte("0: kubelet 65536 65536"))
	f.Fuzz(func(t *testing.T, content []byte) {
		if r, err := parse(content); err == nil && (r.First < Unit || r.Length == 0 || r.end() > 1<<32) {
			t.Errorf("file gives %v", r)
		}
		if r, ok := parseIDMap(string(content)); ok && (r.First < Unit || r.Length == 0 || r.end() > 1<<32) {
			t.Errorf("uid_map gives %v", r)
		}
		_, _ = parseSubIDs(string(content))
	})
}
