package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"k8s.io/apimachinery/pkg/util/sets"
)

// required are the controllers without which a pod's requests and limits
// would mean nothing.
func required() []string {
	if Version() == 2 {
		return []string{"cpu", "cpuset", "memory"}
	}
	return []string{"cpu", "cpuacct", "cpuset", "memory"}
}

// availableControllers returns the controllers that limits can be written to.
func availableControllers(base map[string]string) (map[string]bool, error) {
	have := map[string]bool{}
	if Version() == 2 {
		list, err := cgroups.ReadFile(base[""], "cgroup.controllers")
		if err != nil {
			return nil, fmt.Errorf("read the controllers of %s: %w", base[""], err)
		}
		for c := range strings.FieldsSeq(list) {
			have[c] = true
		}
	} else {
		for c := range base {
			have[c] = true
		}
	}
	var missing []string
	for _, c := range required() {
		if !have[c] {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("cgroup controllers %s are not available: enable them in the kernel command line (cgroup_enable=…) or in the parent's cgroup.subtree_control", strings.Join(missing, ", "))
	}
	return have, nil
}

// manager returns the library's handle of a cgroup. r must not be nil.
func (t *Tree) manager(n name, r *cgroups.Resources) (cgroups.Manager, error) {
	cg := &cgroups.Cgroup{Systemd: t.config.Driver == Systemd, Resources: r}
	p := n.path(t.config.Driver)
	if cg.Systemd {
		cg.Name = path.Base(p)
		cg.Parent = path.Base(path.Dir(p))
		if cg.Parent == "/" {
			cg.Parent = "-.slice"
		}
	} else {
		cg.Path = p
	}
	return manager.NewWithPaths(cg, t.paths(n))
}

// paths are the directories of a cgroup by v1 controller ("" for v2), nil
// while those of kubepods are not known.
func (t *Tree) paths(n name) map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.base == nil {
		return nil
	}
	relative := strings.TrimPrefix(n.path(t.config.Driver), t.root.path(t.config.Driver))
	paths := make(map[string]string, len(t.base))
	for controller, dir := range t.base {
		paths[controller] = filepath.Join(dir, relative)
	}
	return paths
}

// dirs are the distinct directories of a cgroup, in a stable order.
func (t *Tree) dirs(n name) []string {
	return slices.Sorted(func(yield func(string) bool) {
		seen := sets.New[string]()
		for _, dir := range t.paths(n) {
			if !seen.Has(dir) && !yield(dir) {
				return
			}
			seen.Insert(dir)
		}
	})
}

// complete says whether the cgroup exists in every hierarchy.
func (t *Tree) complete(n name) bool {
	for _, dir := range t.dirs(n) {
		if _, err := os.Stat(dir); err != nil {
			return false
		}
	}
	return true
}

// create makes the cgroup in every hierarchy, parents included; on v1 a new
// cpuset takes its CPUs and memory nodes from its parent. Succeeds if it
// exists.
func (t *Tree) create(n name) (paths map[string]string, err error) {
	defer t.timed("create", time.Now())
	m, err := t.manager(n, &cgroups.Resources{SkipDevices: true, SkipFreezeOnSet: true})
	if err != nil {
		return nil, err
	}
	// A process id of -1 makes the cgroup without moving anybody there.
	if err := m.Apply(-1); err != nil {
		return nil, err
	}
	return m.GetPaths(), nil
}

// refused is the error about limits that could not be written.
type refused struct {
	parts []string
	errs  []error
}

func (r *refused) Error() string {
	return fmt.Sprintf("set %s: %v", strings.Join(r.parts, ", "), errors.Join(r.errs...))
}

func (r *refused) Unwrap() []error { return r.errs }

// essential says whether a limit is among them that protects other pods.
func (r *refused) essential() bool {
	return slices.Contains(r.parts, "memory") || slices.Contains(r.parts, "pids")
}

// set writes limits, all at once. If that fails each kind is written alone,
// so that one refused value takes no other with it; the error is then a
// *refused that names those that failed.
func (t *Tree) set(n name, l Limits) error {
	defer t.timed("update", time.Now())
	parts := t.resources(l)
	if len(parts) == 0 {
		return nil
	}
	whole := newResources()
	for _, p := range parts {
		p.put(whole)
	}
	if err := t.write(n, whole); err == nil {
		return nil
	}
	failed := &refused{}
	for _, p := range parts {
		r := newResources()
		p.put(r)
		if err := t.write(n, r); err != nil {
			failed.parts = append(failed.parts, p.name)
			failed.errs = append(failed.errs, err)
		}
	}
	if len(failed.errs) == 0 {
		return nil
	}
	return failed
}

func (t *Tree) write(n name, r *cgroups.Resources) error {
	m, err := t.manager(n, r)
	if err != nil {
		return err
	}
	return m.Set(r)
}

func newResources() *cgroups.Resources {
	return &cgroups.Resources{SkipDevices: true, SkipFreezeOnSet: true}
}

type part struct {
	name string
	put  func(*cgroups.Resources)
}

// resources turns limits into the library's terms, one part per controller,
// leaving out what the kernel has no controller for.
func (t *Tree) resources(l Limits) []part {
	t.mu.Lock()
	have := t.controllers
	t.mu.Unlock()
	v2 := Version() == 2
	var parts []part
	add := func(controller string, wanted bool, put func(*cgroups.Resources)) {
		if wanted && have[controller] {
			parts = append(parts, part{controller, put})
		}
	}
	add("cpuset", l.CPUs != "", func(r *cgroups.Resources) { r.CpusetCpus = l.CPUs })
	add("memory", l.Memory != 0, func(r *cgroups.Resources) { r.Memory = l.Memory })
	add("cpu", l.CPUShares != 0 || l.CPUQuota != 0, func(r *cgroups.Resources) {
		if v2 && l.CPUShares != 0 {
			r.CpuWeight = weightOf(l.CPUShares)
		} else {
			r.CpuShares = l.CPUShares
		}
		r.CpuQuota, r.CpuPeriod = l.CPUQuota, l.CPUPeriod
	})
	add("pids", l.Pids != 0, func(r *cgroups.Resources) { r.PidsLimit = &l.Pids })
	add("hugetlb", l.Hugepages != nil, func(r *cgroups.Resources) {
		for _, size := range cgroups.HugePageSizes() {
			limit, ok := l.Hugepages[size]
			if !ok {
				limit = l.OtherHugepages
			}
			r.HugetlbLimit = append(r.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: size, Limit: uint64(limit)})
		}
	})
	add("memory", v2 && l.Unified != nil, func(r *cgroups.Resources) { r.Unified = l.Unified })
	return parts
}
