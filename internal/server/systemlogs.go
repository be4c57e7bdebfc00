package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// systemLogRoutes are /logs/: the files of the node's log directory, and with
// a query the logs of its services (journal.go).
func (s *Server) systemLogRoutes() ([]route, error) {
	if !s.cfg.SystemLogs {
		return disabled("logs endpoint is disabled.", "logs", logAccess, "/logs/"), nil
	}
	dir, err := openLogDir(s.cfg.SystemLogDir)
	if err != nil {
		return nil, err
	}
	logs := &systemLogs{dir: dir, files: http.FileServerFS(dir), query: s.cfg.SystemLogQuery, run: journalctl}
	methods := onlyGET
	if s.cfg.SystemLogQuery {
		methods = getAndPOST
	}
	return at([]string{"/logs", "/logs/{path...}"}, route{bucket: "logs", access: logAccess, methods: methods, long: true, serve: logs.serve}), nil
}

// systemLogs serves the node's own logs.
type systemLogs struct {
	dir   *logDir
	files http.Handler
	query bool
	run   runner
}

func (l *systemLogs) serve(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("path")
	if l.query {
		q, err := parseLogQuery(r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if q != nil {
			if name != "" {
				http.Error(w, "path not allowed in query mode", http.StatusNotAcceptable)
				return
			}
			if err := q.check(l.dir); err != nil {
				http.Error(w, err.Error(), http.StatusNotAcceptable)
				return
			}
			if len(q.files) == 0 {
				l.serveServices(w, r, q)
				return
			}
			name = strings.ReplaceAll(q.files[0], `\`, "/")
		}
	}
	if r.Method != http.MethodGet {
		route{methods: onlyGET}.method(w, r)
		return
	}
	// The file server redirects by the path that it is shown.
	to := r.Clone(r.Context())
	to.URL.Path, to.URL.RawPath = "/"+strings.TrimPrefix(name, "/"), ""
	l.files.ServeHTTP(w, to)
}

// logDir is a directory whose files are all that can be reached through it,
// whatever a path or a link in it holds (openat2 with RESOLVE_BENEATH, or as
// os.Root does it). Absolute links back into the directory are followed, too:
// /var/log/containers is full of them.
type logDir struct {
	path string
	root *os.Root
}

func openLogDir(dir string) (*logDir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open log directory: %w", err)
	}
	return &logDir{path: filepath.Clean(dir), root: root}, nil
}

// maxLinks is how many absolute links a path may lead through.
const maxLinks = 8

// Open opens a file or directory below the directory for reading. Of other
// kinds of files (a pipe, whose opening would hang, or a device) it opens none.
func (d *logDir) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	for range maxLinks {
		info, err := d.root.Stat(name)
		if err == nil {
			if !info.IsDir() && !info.Mode().IsRegular() {
				return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
			}
			return d.openRegular(name)
		}
		if errors.Is(err, syscall.ENOTDIR) {
			err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		next, ok := d.followAbsolute(name)
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
		}
		name = next
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission} // links in a circle
}

// openRegular opens what was a regular file or a directory a moment ago,
// without waiting if it is a pipe by now.
func (d *logDir) openRegular(name string) (fs.File, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.IsDir() && !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return f, nil
}

// followAbsolute replaces the first absolute link of a path by where it leads,
// if that is below the directory.
func (d *logDir) followAbsolute(name string) (string, bool) {
	elements := strings.Split(name, "/")
	for i := range elements {
		at := strings.Join(elements[:i+1], "/")
		target, err := d.root.Readlink(at)
		if err != nil || !filepath.IsAbs(target) {
			continue
		}
		inside, err := filepath.Rel(d.path, filepath.Clean(target))
		if err != nil || !filepath.IsLocal(inside) {
			return "", false
		}
		return path.Join(append([]string{inside}, elements[i+1:]...)...), true
	}
	return "", false
}
