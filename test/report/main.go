// Command report makes `go test -json` readable: one line per package, or per
// test where tests take long, failures in full, and in the end what passed,
// what failed, and what was skipped and why.
//
//	go test -json ./... | go run ./test/report [-tests] [-again FILE]
//
// -again is for machines that are busy with other things: FILE gets a line for
// each package with failures that may be chance, "PACKAGE<tab>PATTERN" for
// go test -run. It stays empty if something failed that never is (a data race, a
// crash, code that does not build), or too much.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

// event is one line of `go test -json` (go doc cmd/test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

type result struct {
	output  []string
	failed  bool
	passed  int
	skipped int

	running map[string]bool // tests that began and have not ended
	tops    []string        // top-level tests that failed
	broken  bool            // what failed is no matter of chance
	crashed bool
	late    bool // the time limit ended it
}

// most is how many failed tests may be chance.
const most = 8

func main() {
	tests := flag.Bool("tests", false, "a line for each top-level test as it ends")
	file := flag.String("again", "", "`FILE` for what failed and may be chance")
	flag.Parse()
	ok, again := run(os.Stdin, os.Stdout, *tests)
	if *file != "" {
		if err := os.WriteFile(*file, []byte(strings.Join(again, "")), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if !ok {
		os.Exit(1)
	}
}

// run prints the report and says whether everything passed, and what may be
// run again if not.
func run(in io.Reader, out io.Writer, eachTest bool) (ok bool, again []string) {
	packages := map[string]*result{}
	texts := map[string][]string{} // output of tests that have not ended, by package and test
	var failed, skipped []string
	passed, okPackages := 0, 0

	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var e event
		if !bytes.HasPrefix(scanner.Bytes(), []byte("{")) || json.Unmarshal(scanner.Bytes(), &e) != nil {
			fmt.Fprintln(out, scanner.Text()) // a message of the go command itself
			continue
		}
		name := first(e.Package, e.ImportPath)
		r := packages[name]
		if r == nil {
			r = &result{running: map[string]bool{}}
			packages[name] = r
		}
		key := e.Package + "\x00" + e.Test
		short := strings.TrimPrefix(e.Package, "kubelet/")
		top := !strings.Contains(e.Test, "/")
		switch e.Action {
		case "run":
			r.running[e.Test] = true
		case "output", "build-output":
			r.broken = r.broken || strings.Contains(e.Output, "WARNING: DATA RACE")
			r.crashed = r.crashed || strings.HasPrefix(e.Output, "panic: ") || strings.HasPrefix(e.Output, "fatal error: ")
			r.late = r.late || strings.HasPrefix(e.Output, "panic: test timed out")
			if e.Test != "" {
				texts[key] = append(texts[key], e.Output)
			} else if r.output = append(r.output, e.Output); eachTest && strings.HasPrefix(e.Output, "    ") {
				fmt.Fprint(out, e.Output) // progress of a long set-up
			}
		case "pass", "skip", "fail":
			text := texts[key]
			delete(texts, key)
			delete(r.running, e.Test)
			switch {
			case e.Test != "" && e.Action == "fail":
				r.failed = true
				text = slices.DeleteFunc(text, func(s string) bool { return strings.HasPrefix(s, "=== ") })
				failed = append(failed, short+" "+e.Test)
				if top {
					r.tops = append(r.tops, e.Test)
				}
				fmt.Fprintf(out, "--- FAIL: %s %s (%.1fs)\n%s", short, e.Test, e.Elapsed, strings.Join(text, ""))
			case e.Test != "" && e.Action == "skip":
				r.skipped++
				skipped = append(skipped, fmt.Sprintf("%s %s: %s", short, e.Test, reason(text)))
			case e.Test != "":
				r.passed++
				passed++
				if eachTest && top {
					fmt.Fprintf(out, "    ok %-40s %6.1fs\n", e.Test, e.Elapsed)
				}
			case e.Action == "fail":
				for test := range r.running {
					r.failed = true
					failed = append(failed, short+" "+test+" (not ended)")
					fmt.Fprintf(out, "--- NOT ENDED: %s %s\n%s", short, test, strings.Join(texts[e.Package+"\x00"+test], ""))
				}
				fmt.Fprintf(out, "FAIL %s (%.1fs)\n%s", short, e.Elapsed, strings.Join(r.output, ""))
				if !r.failed { // no test of it did: set-up, a crash, or the time limit
					r.failed = true
					failed = append(failed, short)
				}
			case e.Action == "pass":
				okPackages++
				note := strings.TrimSpace(strings.Join(slices.DeleteFunc(r.output, func(s string) bool { return !strings.HasPrefix(s, "SKIP") }), " "))
				if note != "" {
					skipped = append(skipped, short+": "+note)
				}
				fmt.Fprintf(out, "ok   %-44s %4d tests %6.1fs\n", short, r.passed, e.Elapsed)
			}
		case "build-fail":
			if !r.failed {
				r.failed, r.broken = true, true
				failed = append(failed, name+" (does not build)")
				fmt.Fprint(out, strings.Join(r.output, ""))
			}
		}
	}
	if err := scanner.Err(); err != nil {
		failed = append(failed, "report: "+err.Error())
	}
	if len(skipped) > 0 {
		fmt.Fprintf(out, "skipped %d:\n", len(skipped))
		for _, s := range skipped {
			fmt.Fprintf(out, "    %s\n", s)
		}
	}
	if len(failed) > 0 {
		fmt.Fprintf(out, "FAILED %d (ok: %d tests in %d packages):\n    %s\n", len(failed), passed, okPackages, strings.Join(failed, "\n    "))
		return false, chances(packages)
	}
	if okPackages == 0 {
		fmt.Fprintln(out, "FAILED: nothing was tested")
		return false, nil
	}
	fmt.Fprintf(out, "ok: %d tests in %d packages, %d skipped\n", passed, okPackages, len(skipped))
	return true, nil
}

// chances is a line for each package with what failed there and may be chance,
// or nothing.
func chances(packages map[string]*result) (lines []string) {
	failures := 0
	for name, r := range packages {
		pattern := "."
		switch {
		case r.broken:
			return nil
		case !r.failed:
			continue
		case r.late: // not all of its tests were run
		case r.crashed:
			return nil
		case len(r.running) > 0: // it was killed, or ended itself
		case len(r.tops) > 0:
			for i, test := range r.tops {
				r.tops[i] = regexp.QuoteMeta(test)
			}
			pattern = "^(" + strings.Join(r.tops, "|") + ")$"
		}
		failures += max(1, len(r.tops))
		lines = append(lines, name+"\t"+pattern+"\n")
	}
	if failures > most {
		return nil
	}
	slices.Sort(lines)
	return lines
}

// reason is the message by which a test was skipped.
func reason(output []string) string {
	for _, line := range slices.Backward(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			if _, message, ok := strings.Cut(line, ".go:"); ok {
				_, line, _ = strings.Cut(message, ": ")
			}
			return line
		}
	}
	return "no reason given"
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
