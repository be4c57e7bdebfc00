package stats

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kubelet/internal/observed"
)

// pod is one pod of the node with the cgroups that it has.
type pod struct {
	Pod
	uid        string
	group      *group // nil if the runtime owns all cgroups
	sandbox    *container
	containers []container
	// netPid is a process in the pod's network namespace; 0 if it is the
	// node's or not known.
	netPid int
}

// container is one that runs, or a sandbox's own.
type container struct {
	*observed.Container // nil for a sandbox
	id                  string
	image               string
	pid                 int
	created, started    time.Time
	group               *group // nil if its cgroup was not found
}

// topology is what there is to be read now: the pods that have something in
// the runtime, by namespace and name. Groups of what is gone are closed.
func (r *Reader) topology() []pod {
	pods := r.config.Pods()
	runtime := r.config.Observed()
	out := make([]pod, 0, len(pods))

	r.mu.Lock()
	defer r.mu.Unlock()
	r.round++
	for i := range pods {
		seen, ok := runtime[pods[i].UID]
		if !ok || pods[i].StartTime.IsZero() {
			continue
		}
		p := pod{Pod: pods[i], uid: string(pods[i].UID)}
		within := r.config.Cgroups.PodPath(p.Pod.Pod)
		if within != "" {
			p.group = r.groupLocked(within)
		}
		if s := seen.ReadySandbox(); s != nil {
			p.sandbox = &container{id: s.ID, image: s.Image, pid: s.Pid, created: s.CreatedAt, started: s.CreatedAt}
			p.sandbox.group = r.containerGroupLocked(within, s.ID, s.Pid)
			if !s.HostNetwork {
				p.netPid = s.Pid
			}
		}
		for i := range seen.Containers {
			c := &seen.Containers[i]
			if c.State != observed.Running || slices.ContainsFunc(p.containers, func(o container) bool { return o.Name == c.Name }) {
				continue
			}
			started := c.StartedAt
			if started.IsZero() {
				started = c.CreatedAt
			}
			p.containers = append(p.containers, container{
				Container: c, id: c.ID, image: c.Image, pid: c.Pid, created: c.CreatedAt, started: started,
				group: r.containerGroupLocked(within, c.ID, c.Pid),
			})
		}
		if p.sandbox == nil && len(p.containers) == 0 {
			continue
		}
		slices.SortFunc(p.containers, func(a, b container) int { return cmp.Compare(a.Name, b.Name) })
		out = append(out, p)
	}
	for _, level := range r.levels() {
		r.groupLocked(level)
	}
	for path, g := range r.groups {
		if g.round != r.round {
			g.group.close()
			delete(r.groups, path)
		}
	}
	for id, found := range r.found {
		if found.round != r.round {
			delete(r.found, id)
		}
	}
	slices.SortFunc(out, func(a, b pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.uid, b.uid))
	})
	return out
}

// known is a group or a path that the last topologies named.
type known struct {
	round uint64
	group *group
}

type foundPath struct {
	round uint64
	path  string
}

// groupLocked returns the group of a path.
func (r *Reader) groupLocked(path string) *group {
	k := r.groups[path]
	if k == nil {
		k = &known{group: newGroup(r.hierarchy, path, r.hierarchy.birth(path))}
		r.groups[path] = k
	}
	k.round = r.round
	return k.group
}

// containerGroupLocked finds the cgroup of a container: below its pod's, where
// runtimes name it after the container's id, or by its process.
func (r *Reader) containerGroupLocked(within, id string, pid int) *group {
	f := r.found[id]
	if f.path == "" {
		f.path = r.hierarchy.findBelow(within, id)
		if f.path == "" && pid > 0 {
			f.path = r.hierarchy.findByProcess(r.machine.proc, pid, id)
		}
		if f.path == "" {
			return nil
		}
	}
	f.round = r.round
	r.found[id] = f
	return r.groupLocked(f.path)
}

// controller is the one whose mount is looked at for cgroups.
func (h *hierarchy) controller() string {
	if h.unified {
		return ""
	}
	if h.mounts["memory"] != "" {
		return "memory"
	}
	return "cpu"
}

// findBelow looks for the cgroup of a container directly below its pod's:
// "ID" (cgroupfs) or "cri-containerd-ID.scope" (systemd), with the runtime's
// own prefix.
func (h *hierarchy) findBelow(within, id string) string {
	if within == "" || id == "" {
		return ""
	}
	entries, err := os.ReadDir(filepath.Join(h.mounts[h.controller()], within))
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if e.IsDir() && names(e.Name(), id) {
			return path.Join(within, e.Name())
		}
	}
	return ""
}

func names(dir, id string) bool {
	s := strings.TrimSuffix(dir, ".scope")
	return s == id || strings.HasSuffix(s, "-"+id)
}

// findByProcess takes the path out of /proc/PID/cgroup. A process may have
// moved further down; the container's is the one that bears its id.
func (h *hierarchy) findByProcess(proc string, pid int, id string) string {
	text, err := os.ReadFile(filepath.Join(proc, fmt.Sprint(pid), "cgroup"))
	if err != nil || id == "" {
		return ""
	}
	at := h.processCgroup(text)
	for p := at; p != "/" && p != "." && p != ""; p = path.Dir(p) {
		if names(path.Base(p), id) {
			return p
		}
	}
	return ""
}

// processCgroup is the path in a /proc/PID/cgroup; "" if there is none, or if
// on v1 the process is in different cgroups for CPU and memory.
func (h *hierarchy) processCgroup(text []byte) string {
	at := map[string]string{}
	lines(text, func(line []byte) {
		_, rest, _ := bytes.Cut(line, []byte{':'})
		controllers, dir, ok := bytes.Cut(rest, []byte{':'})
		if !ok || !bytes.HasPrefix(dir, []byte{'/'}) {
			return
		}
		for c := range strings.SplitSeq(string(controllers), ",") {
			at[c] = path.Clean(string(dir))
		}
	})
	if !h.unified && at["memory"] != at["cpu"] {
		return ""
	}
	return at[h.controller()]
}

// levels are the cgroups that are shown beside the pods' own.
func (r *Reader) levels() []string {
	root := r.config.Cgroups.Root()
	out := append([]string{"/"}, root)
	for _, class := range []string{"burstable", "besteffort"} {
		out = append(out, qosLevel(root, class))
	}
	for _, s := range r.systemLocked() {
		out = append(out, s.path)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// qosLevel is the level below kubepods in either driver's spelling.
func qosLevel(root, class string) string {
	if base, ok := strings.CutSuffix(path.Base(root), ".slice"); ok {
		return path.Join(root, base+"-"+class+".slice")
	}
	return path.Join(root, class)
}

// system is a cgroup that the summary shows as a system container.
type system struct {
	name, path string
	started    time.Time
}

// systemLocked are the system containers: those that are configured, and of
// kubelet and runtime otherwise the cgroup that each has to itself. Processes
// hardly ever move, so that is looked up now and then only.
func (r *Reader) systemLocked() []system {
	pid, _, _ := r.runtimePID.get("")
	if time.Since(r.systemAt) < time.Minute && pid == r.systemPID {
		return r.system
	}
	root := r.config.Cgroups.Root()
	var out []system
	add := func(name, configured string, pid int, started time.Time) {
		at := configured
		if at == "" && pid > 0 {
			text, err := os.ReadFile(filepath.Join(r.machine.proc, fmt.Sprint(pid), "cgroup"))
			if err == nil {
				at = r.hierarchy.processCgroup(text)
			}
		}
		if at = path.Clean("/" + at); at != "/" {
			out = append(out, system{name, at, started})
		}
	}
	add("kubelet", r.config.KubeletCgroups, os.Getpid(), r.config.Started)
	add("runtime", r.config.RuntimeCgroups, pid, time.Time{})
	add("misc", r.config.SystemCgroups, 0, time.Time{})
	if root != "" {
		out = append(out, system{"pods", root, time.Time{}})
	}
	r.system, r.systemAt, r.systemPID = out, time.Now(), pid
	return out
}
