// Command conformance judges a kubelet by the upstream end-to-end suite. It
// starts a node in namespaces of its own (package test/harness) with control
// plane, kube-proxy, CoreDNS, a registry with the images of the suite and
// containerd, runs the suite's [NodeConformance] tests against the kubelet and
// says what passed, what failed, and what no kubelet can pass on this machine
// (impossible.txt), beside what the upstream kubelet did here.
//
// It owns how a run is set up (cluster.go), how ginkgo is called and followed
// (suite.go), what results are and where they are kept (results.go), and what
// is printed and written into docs/compatibility.md (report.go).
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"kubelet/test/harness"
)

// upstream is the name of the upstream kubelet as --kubelet and in results.
const (
	upstream = "upstream"
	own      = "kubelet"
)

// options of a run.
type options struct {
	focus   string
	skip    string
	slow    bool
	any     bool
	kubelet string
	runtime string
	procs   int
	out     string
	docs    string
	keep    bool
}

func main() {
	harness.RunIfInit()
	var o options
	flag.StringVar(&o.focus, "focus", "", "run only the tests whose full name this regular expression matches")
	flag.StringVar(&o.skip, "skip", "", "leave out the tests whose full name this regular expression matches")
	flag.BoolVar(&o.slow, "slow", false, "run the tests labelled Slow and Serial as well")
	flag.BoolVar(&o.any, "any", false, "run tests that are not labelled NodeConformance as well; goes with -focus")
	flag.StringVar(&o.kubelet, "kubelet", "", "the kubelet to judge in place of this project's own: a path, or \"upstream\"")
	flag.StringVar(&o.runtime, "runtime", "", "the OCI runtime, runc or crun (runc if empty)")
	flag.IntVar(&o.procs, "procs", 10, "tests at the same time")
	flag.StringVar(&o.out, "out", "test/conformance/results", "folder of the JUnit file, the log and the results")
	flag.StringVar(&o.docs, "docs", "", "write the recorded results into this document")
	flag.BoolVar(&o.keep, "keep", false, "keep the logs of all programs")
	flag.Parse()
	klog.SetLogger(klog.Background().V(10)) // the client library has nothing to say here
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.docs != "" {
		err = writeDocs(o.docs)
	} else {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "FAILED:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.any && o.focus == "" {
		return errors.New("-any needs a -focus: much of the suite is for other machines")
	}
	if os.Getuid() != 0 {
		return errors.New("this runs real containers in namespaces and needs root")
	}
	impossible, err := readImpossible()
	if err != nil {
		return err
	}
	harness.RemoveStale()
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("make results folder: %w", err)
	}
	c, err := startCluster(ctx, o)
	defer func() {
		if c != nil {
			c.node.Close()
		}
		if err != nil || o.keep {
			say("logs of all programs are in %s", harness.Artifacts())
		} else {
			os.RemoveAll(harness.Artifacts())
		}
	}()
	if err != nil {
		return err
	}
	results, err := newRecord(ctx, o.kubelet, c.node)
	if err != nil {
		return err
	}
	s := &suite{options: o, node: c.node, ended: map[string]test{}}
	if err := s.list(ctx); err != nil {
		return err
	}
	say("%d tests, %d at a time", len(s.listed), o.procs)
	began := time.Now()
	tests, interrupted := s.run(ctx)
	if len(tests) == 0 {
		return cmp.Or(interrupted, errors.New("the suite ran no test"))
	}
	if err := c.kubelet.Alive(); err != nil {
		return errors.Join(interrupted, err)
	}
	if err := results.merge(tests); err != nil {
		return errors.Join(interrupted, err)
	}
	if interrupted != nil {
		return fmt.Errorf("end after %d of %d tests, whose results are kept: %w", len(tests), len(s.listed), interrupted)
	}
	peer, err := readRecord(recordName(upstream, c.node.Containerd, c.node.OCIRuntime))
	if err != nil {
		return err
	}
	verdict := judge(tests, peer, impossible)
	fmt.Print(verdict.text(cmp.Or(o.kubelet, own)))
	say("done in %s; JUnit, log and results are in %s", time.Since(began).Round(time.Second), o.out)
	if n := len(verdict.failed); n > 0 {
		return fmt.Errorf("%d of %d tests failed", n, len(tests))
	}
	return nil
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// part is a file that test/setup/conformance.sh makes.
func part(name string) string {
	return filepath.Join(harness.CacheDir(), "conformance-v1.37.2", name)
}
