// Command bench measures three things side by side, in one run, on one
// machine: the floor, that is bare CRI calls with the same API writes and
// watches by a trivial client; the upstream kubelet; and a kubelet under test,
// this one or that of --kubelet. Each has a node of its own in namespaces of
// its own (package test/harness) with its own containerd, and all are nodes of
// one cluster. What is measured alternates between them in small steps, so
// that a machine that drifts decides nothing; ratios within one run are what
// is to be read, not times.
//
// It owns the scenarios (scenario_*.go), the trivial client (floor*.go), the
// observer that tells when the API server shows something (observer.go), and
// the report (report.go, picture.go).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"kubelet/test/harness"
)

// options of a run.
type options struct {
	scenarios []string
	rounds    int
	kubelet   string
	out       string
	document  string
	idle      time.Duration
	settle    time.Duration
	pods      int
	churn     int
	log       int
	columns   []string
	batches   []int
	keep      bool
}

func main() {
	harness.RunIfInit()
	if len(os.Args) == 3 && os.Args[1] == "memory-runtime" {
		exitOn(serveMemoryRuntime(os.Args[2]))
		return
	}
	var o options
	var names, columns, batches string
	flag.StringVar(&names, "scenario", "", "scenarios to run, by number or name, separated by commas (all of them if empty):\n"+scenarioHelp())
	flag.IntVar(&o.rounds, "rounds", 2, "rounds of each scenario")
	flag.StringVar(&o.kubelet, "kubelet", "", "the kubelet to measure in place of this project's own")
	flag.StringVar(&o.out, "out", "bench/results", "folder of the results")
	flag.StringVar(&o.document, "document", "", "a Markdown file into which the report is put, with the picture beside it")
	flag.DurationVar(&o.idle, "idle", 20*time.Second, "how long an idle kubelet is measured")
	flag.DurationVar(&o.settle, "settle", 6*time.Second, "how long a kubelet is left alone before its idling is measured")
	flag.IntVar(&o.churn, "churn", 50, "pods that are started and removed one after another, at least 20")
	flag.IntVar(&o.log, "log", 500, "size of the log that is read, in MB")
	flag.IntVar(&o.pods, "pods", 8, "pods, kills and deletions of a round, one at a time")
	flag.StringVar(&batches, "batches", "50,110", "sizes of the batches")
	flag.StringVar(&columns, "columns", strings.Join(allColumns, ","), "columns to measure")
	flag.BoolVar(&o.keep, "keep", false, "keep the logs of all programs")
	flag.Parse()
	for size := range strings.SplitSeq(batches, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 {
			exitOn(fmt.Errorf("--batches: %q is not a number of pods", size))
		}
		o.batches = append(o.batches, n)
	}
	if o.churn < 20 {
		exitOn(fmt.Errorf("--churn: %d pods are too few to tell a slope", o.churn))
	}
	o.columns = strings.Split(columns, ",")
	if names != "" {
		o.scenarios = strings.Split(names, ",")
	}
	klog.SetLogger(klog.Background().V(10)) // the client library has nothing to say here
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exitOn(run(ctx, o))
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	chosen, err := choose(o.scenarios)
	if err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("this runs real containers in namespaces and needs root")
	}
	harness.RemoveStale()
	b := &bench{options: o, began: time.Now(), report: newReport(o)}
	defer func() {
		b.close()
		if err != nil || o.keep {
			say("logs of all programs are in %s", harness.Artifacts())
		} else {
			os.RemoveAll(harness.Artifacts())
		}
	}()
	if err := b.setUp(ctx); err != nil {
		return err
	}
	for _, s := range chosen {
		say("%s: %s", s.name, s.what)
		start := time.Now()
		err := s.run(b, ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			// The other scenarios are still worth their time.
			b.report.failed(s.name, err)
			say("%s FAILED: %v", s.name, err)
			b.cleanUp(ctx)
		}
		say("%s: done in %s", s.name, time.Since(start).Round(time.Second))
		if err := b.report.write(o.out); err != nil {
			return err
		}
	}
	text := b.report.markdown()
	fmt.Println(text)
	say("written: %s", filepath.Join(o.out, "bench.{md,json,svg}"))
	if o.document != "" {
		if err := b.report.writeInto(o.document); err != nil {
			return err
		}
		say("written: %s", o.document)
	}
	if n := len(b.report.Failures); n > 0 {
		return fmt.Errorf("%d of %d scenarios failed", n, len(chosen))
	}
	return nil
}

// cleanUp removes the pods of a scenario that failed, which would otherwise
// disturb what is measured next.
func (b *bench) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err := b.active(ctx, b.columns...)
	if err == nil {
		err = b.deleteEverything(ctx)
	}
	if err != nil {
		say("what the scenario left may disturb the next: %v", err)
	}
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
