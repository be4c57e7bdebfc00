package explain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

const usage = `Usage: kubelet explain [namespace/]pod [flags]
       kubelet explain [flags]

Says where each pod of this node is, what it waits for and since when, the
last error and the next try. Without a pod it lists all.

Flags:
`

// Command is "kubelet explain". It returns the exit code: 0, 1 if the
// question could not be answered, 2 if it was put wrongly.
func Command(args []string, stdout, stderr io.Writer) int {
	flags := pflag.NewFlagSet("explain", pflag.ContinueOnError)
	flags.SetOutput(stderr)
	root := flags.String("root-dir", "/var/lib/kubelet", "root directory of the kubelet to ask")
	output := flags.StringP("output", "o", "", `"json" for all details in a form for programs`)
	watch := flags.BoolP("watch", "w", false, "go on and show changes as they happen")
	flags.Usage = func() { fmt.Fprint(stderr, usage, flags.FlagUsages()) }
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "kubelet explain: %v\n", err)
		return 2
	case flags.NArg() > 1:
		fmt.Fprintln(stderr, "kubelet explain: name one pod, or none for all")
		return 2
	case *output != "" && *output != "json":
		fmt.Fprintf(stderr, "kubelet explain: output %q: there is only json beside the default\n", *output)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	q := question{client: NewClient(filepath.Join(*root, SocketName)), pod: flags.Arg(0), json: *output == "json", stdout: stdout}
	var err error
	if *watch {
		err = q.watch(ctx, isTerminal(stdout))
	} else {
		err = q.once(ctx)
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(stderr, "kubelet explain: %v\n", err)
		return 1
	}
	return 0
}

type question struct {
	client *Client
	pod    string // "", "name" or "namespace/name", or a UID
	json   bool
	stdout io.Writer
}

func (q *question) once(ctx context.Context) error {
	report, err := q.client.Pods(ctx)
	if err != nil {
		return err
	}
	pods, err := q.choose(report)
	if err != nil {
		return err
	}
	return q.print(Report{Time: report.Time, Pods: pods})
}

// watch shows each report as it comes. On a terminal the picture is drawn in
// place, every second as well, because it tells times.
func (q *question) watch(ctx context.Context, terminal bool) error {
	reports := make(chan Report)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		ended <- q.client.Watch(ctx, func(r Report) error {
			select {
			case reports <- r:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	var tick <-chan time.Time
	if terminal && !q.json {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		tick = ticker.C
	}
	var last Report
	for {
		select {
		case err := <-ended:
			return err
		case last = <-reports:
		case <-tick:
			last.Time = time.Now()
		}
		pods, err := q.choose(last)
		if err != nil {
			pods = nil // it may come yet
		}
		if terminal && !q.json {
			fmt.Fprint(q.stdout, "\x1b[H\x1b[2J")
			if err != nil {
				fmt.Fprintln(q.stdout, err)
				continue
			}
		}
		if err := q.print(Report{Time: last.Time, Pods: pods}); err != nil {
			return err
		}
		if !terminal && !q.json {
			fmt.Fprintln(q.stdout)
		}
	}
}

// choose picks the pods that the question is about.
func (q *question) choose(r Report) ([]Pod, error) {
	if q.pod == "" {
		return r.Pods, nil
	}
	var pods []Pod
	for _, p := range r.Pods {
		if q.pod == p.Name || q.pod == p.Namespace+"/"+p.Name || q.pod == string(p.UID) {
			pods = append(pods, p)
		}
	}
	if len(pods) > 0 {
		return pods, nil
	}
	var near []string
	for _, p := range r.Pods {
		if _, name, ok := strings.Cut(q.pod, "/"); strings.Contains(p.Name, q.pod) || ok && name != "" && strings.Contains(p.Name, name) {
			near = append(near, p.Namespace+"/"+p.Name)
		}
	}
	slices.Sort(near)
	if near = slices.Compact(near); len(near) > 0 {
		return nil, fmt.Errorf("this kubelet has no pod %s; did you mean %s?", clean(q.pod), strings.Join(near[:min(len(near), 3)], " or "))
	}
	return nil, fmt.Errorf("this kubelet has no pod %s", clean(q.pod))
}

func (q *question) print(r Report) error {
	switch {
	case q.json && q.pod != "" && len(r.Pods) == 1:
		return json.NewEncoder(q.stdout).Encode(r.Pods[0])
	case q.json:
		return json.NewEncoder(q.stdout).Encode(r)
	case q.pod != "" && len(r.Pods) == 1:
		return writeDetail(q.stdout, r.Pods[0], r.Time)
	default:
		return writeList(q.stdout, r.Pods, r.Time)
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
