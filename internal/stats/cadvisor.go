package stats

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// CadvisorHandler serves /metrics/cadvisor: what each cgroup uses, under the
// names and labels that cAdvisor gave them and that dashboards rely on. A
// sample for which the kernel has no number is absent.
func (r *Reader) CadvisorHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), patience)
		defer cancel()
		r.serveExposition(w, req, func(e *exposition) { r.writeCadvisor(ctx, e) })
	})
}

// row is one cgroup in the exposition.
type row struct {
	labels     []byte
	s          *sample
	created    time.Time
	started    time.Time
	interfaces []netInterface // of those that own a network namespace
	open       *openFiles     // of containers
	disks      []disk         // of the node
}

// disk is a file system of the node with its device.
type disk struct {
	device string
	fs     fileSystem
	at     time.Time
}

// columns makes rows.
type columns struct {
	r    *Reader
	e    *exposition
	buf  []byte
	open map[string]openFiles
	rows []row
}

func (r *Reader) writeCadvisor(ctx context.Context, e *exposition) {
	r.begin()
	r.awaitRuntimePID(ctx)
	waits := append(r.askRuntime(), r.askDisk(r.config.Root))
	for _, dir := range r.imageDirs() {
		waits = append(waits, r.askDisk(dir))
	}
	pods := r.topology()
	waits = append(waits, r.askOpenFiles(pods))
	for _, w := range waits {
		await(ctx, w)
	}
	c := columns{r: r, e: e, buf: make([]byte, 8<<10), rows: make([]row, 0, 8+4*len(pods))}
	c.open, _, _ = r.openFiles.get("")
	scrapeError := 0.0
	if !c.node() {
		scrapeError = 1
	}
	for i := range pods {
		c.pod(&pods[i])
	}
	for i := range r.families {
		f := &r.families[i]
		e.begin(f.name, f.help, f.counter)
		for j := range c.rows {
			f.write(e, &c.rows[j])
		}
	}
	e.begin("container_scrape_error", "1 if the top of the cgroup tree could not be read, else 0.", false)
	e.sample(nil, scrapeError, time.Time{})
	r.writeMachine(e)
}

// row adds a cgroup.
func (c *columns) row(g *group, name, image, namespace, pod, container string) *row {
	if g == nil {
		return nil
	}
	s := g.sample(partUsage|partLimits|partPressure|partIO|partProcs|partDetails, time.Now(), c.buf)
	if s == nil {
		return nil
	}
	l := c.e.label(make([]byte, 0, 128+len(g.path)+len(name)+len(image)+len(pod)), "container", container)
	l = c.e.label(l, "id", g.path)
	l = c.e.label(l, "image", image)
	l = c.e.label(l, "name", name)
	l = c.e.label(l, "namespace", namespace)
	l = c.e.label(l, "pod", pod)
	c.rows = append(c.rows, row{labels: l, s: s, created: g.born, started: g.born})
	return &c.rows[len(c.rows)-1]
}

// node adds the levels above the pods; ok false if even the top cannot be
// read.
func (c *columns) node() (ok bool) {
	r := c.r
	r.mu.Lock()
	levels := r.levels()
	r.mu.Unlock()
	for _, level := range levels {
		w := c.row(r.group(level), "", "", "", "", "")
		if w == nil || level != "/" {
			continue
		}
		ok = true
		w.interfaces, _ = r.machine.interfaces(0)
		seen := map[uint64]bool{}
		for _, dir := range append(r.imageDirs(), r.config.Root) {
			if fs, at, ok := r.disks.get(dir); ok && !seen[fs.device] {
				seen[fs.device] = true
				w.disks = append(w.disks, disk{r.machine.deviceName(uint64(unix.Major(fs.device)), uint64(unix.Minor(fs.device))), fs, at})
			}
		}
	}
	return ok
}

func (c *columns) pod(p *pod) {
	c.row(p.group, "", "", p.Namespace, p.Name, "")
	one := func(n *container, name string) {
		w := c.row(n.group, n.id, n.image, p.Namespace, p.Name, name)
		if w == nil {
			return
		}
		w.created, w.started = n.created, n.started
		if f, ok := c.open[n.id]; ok {
			w.open = &f
		}
		if n == p.sandbox && p.netPid > 0 {
			w.interfaces, _ = c.r.machine.interfaces(p.netPid)
		}
	}
	if p.sandbox != nil {
		one(p.sandbox, "")
	}
	for i := range p.containers {
		one(&p.containers[i], p.containers[i].Name)
	}
}
