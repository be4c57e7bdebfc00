package server

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"time"
)

const (
	maxServices    = 4
	maxServiceName = 256
	maxTail        = 100000
	maxPattern     = 1024
	// queryTimeout bounds how long a query may run.
	queryTimeout = 30 * time.Second
)

// logQuery is a query for logs of the node (KEP-2258).
type logQuery struct {
	services, files []string
	since, until    time.Time
	tail, boot      *int
	pattern         string
}

// options says whether there is more in it than what to show.
func (q *logQuery) options() bool {
	return !q.since.IsZero() || !q.until.IsZero() || q.tail != nil || q.boot != nil || q.pattern != ""
}

// parseLogQuery reads a query; without any of its parameters it is nil.
func parseLogQuery(values url.Values) (*logQuery, error) {
	q := &logQuery{pattern: values.Get("pattern")}
	var errs []error
	for _, text := range values["query"] {
		// A slash means a file, also for one in the directory itself.
		if strings.ContainsAny(text, `/\`) {
			q.files = append(q.files, text)
		} else if strings.TrimSpace(text) != "" {
			q.services = append(q.services, text)
		}
	}
	if values.Has("query") && len(q.files)+len(q.services) == 0 {
		errs = append(errs, errors.New("query: may not be empty"))
	}
	for name, into := range map[string]*time.Time{"sinceTime": &q.since, "untilTime": &q.until} {
		if text := values.Get(name); text != "" {
			at, err := time.Parse(time.RFC3339, text)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: invalid time format %q, want 2006-01-02T15:04:05Z", name, text))
			}
			*into = at
		}
	}
	for name, into := range map[string]**int{"tailLines": &q.tail, "boot": &q.boot} {
		if text := values.Get(name); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %q is not a number", name, text))
			}
			*into = &n
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(q.files)+len(q.services) == 0 && !q.options() {
		return nil, nil
	}
	return q, nil
}

// serviceName is what may be handed to journalctl as the name of a unit.
var serviceName = regexp.MustCompile(`^[a-zA-Z0-9_.:@-]+$`)

// check refuses what cannot be answered or must not be run.
func (q *logQuery) check(dir *logDir) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, name := range q.services {
		if len(name) > maxServiceName || !serviceName.MatchString(name) || strings.HasPrefix(name, "-") || strings.Trim(name, ".") == "" {
			bad("query: %q is not the name of a service", name)
		}
	}
	switch {
	case len(q.services) > maxServices:
		bad("query: at most %d services", maxServices)
	case len(q.files)+len(q.services) == 0:
		bad("query: cannot be empty with options")
	case len(q.files) > 0 && len(q.services) > 0:
		bad("query: cannot specify a file and service")
	case len(q.files) > 1:
		bad("query: cannot specify more than one file")
	case len(q.files) == 1 && q.options():
		bad("query: cannot specify file with options")
	case len(q.files) == 1:
		f, err := dir.Open(strings.Trim(strings.ReplaceAll(q.files[0], `\`, "/"), "/"))
		if err != nil {
			bad("query: %v", err)
		} else {
			_ = f.Close()
		}
	}
	if !q.since.IsZero() && !q.until.IsZero() && q.since.After(q.until) {
		bad("untilTime: must be after `sinceTime`")
	}
	if q.boot != nil && *q.boot > 0 {
		bad("boot: must be less than 1")
	}
	if q.tail != nil && (*q.tail < 0 || *q.tail > maxTail) {
		bad("tailLines: must be between 0 and %d, inclusive", maxTail)
	}
	if len(q.pattern) > maxPattern {
		bad("pattern: longer than %d", maxPattern)
	} else if _, err := syntax.Parse(q.pattern, syntax.Perl); err != nil {
		bad("pattern: %v", err)
	}
	return errors.Join(errs...)
}

// arguments of journalctl. Each value is joined to its option, so that none
// can be taken for another option.
func (q *logQuery) arguments(services []string) []string {
	args := []string{"--utc", "--no-pager", "--output=short-precise"}
	const layout = "2006-01-02 15:04:05 UTC"
	if !q.since.IsZero() {
		args = append(args, "--since="+q.since.UTC().Format(layout))
	}
	if !q.until.IsZero() {
		args = append(args, "--until="+q.until.UTC().Format(layout))
	}
	if q.tail != nil {
		args = append(args, "--pager-end", "--lines="+strconv.Itoa(*q.tail))
	}
	for _, name := range services {
		args = append(args, "--unit="+name)
	}
	if q.pattern != "" {
		args = append(args, "--grep="+q.pattern)
	}
	if q.boot != nil {
		args = append(args, "--boot="+strconv.Itoa(*q.boot))
	}
	return args
}

// runner runs journalctl; it ends with ctx.
type runner func(ctx context.Context, out io.Writer, args ...string) error

func journalctl(ctx context.Context, out io.Writer, args ...string) error {
	cmd := exec.CommandContext(ctx, "journalctl", args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, out, time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return cmd.Run()
}

// serveServices shows the logs of services: from the journal, and of those
// that it does not know from files named after them.
func (l *systemLogs) serveServices(w http.ResponseWriter, r *http.Request, q *logQuery) {
	ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
	defer cancel()
	w.Header().Set("Content-Type", "text/plain;charset=UTF-8")
	var out io.Writer = w
	if r.Header.Get("Accept-Encoding") == "gzip" {
		w.Header().Set("Content-Encoding", "gzip")
		zip, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // a level that exists
		defer zip.Close()
		out = zip
	}
	var units strings.Builder
	known := l.run(ctx, &units, "--field", "_SYSTEMD_UNIT") == nil
	var inJournal, inFiles []string
	for _, name := range q.services {
		if known && strings.Contains("\n"+units.String(), "\n"+name+".service\n") {
			inJournal = append(inJournal, name)
		} else {
			inFiles = append(inFiles, name)
		}
	}
	if len(inJournal) > 0 {
		var exit *exec.ExitError
		if err := l.run(ctx, out, q.arguments(inJournal)...); err != nil && !errors.As(err, &exit) {
			fmt.Fprintf(out, "\nerror: journal output not available\n")
		}
	}
	if len(inFiles) > 0 && q.options() {
		fmt.Fprintf(out, "\noptions present and query resolved to log files for %v\ntry without specifying options\n", inFiles)
		return
	}
	for _, name := range inFiles {
		if err := l.copyFile(ctx, out, name); errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(out, "\nlog not found for %s\n", name)
		} else if err != nil {
			fmt.Fprintf(out, "\nerror getting log for %s: %v\n", name, err)
		}
	}
}

// copyFile shows the file of a service: NAME, NAME.log or NAME/NAME.log.
func (l *systemLogs) copyFile(ctx context.Context, out io.Writer, service string) error {
	for _, name := range []string{service, service + ".log", service + "/" + service + ".log"} {
		f, err := l.dir.Open(name)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		defer f.Close()
		if info, err := f.Stat(); err != nil || info.IsDir() {
			continue
		}
		_, err = io.Copy(out, untilDone{ctx, f})
		return err
	}
	return fs.ErrNotExist
}

// untilDone reads until ctx ends.
type untilDone struct {
	ctx context.Context
	io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}
