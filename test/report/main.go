// Command report makes `go test -json` readable: one line per package, or per
// test where tests take long, failures in full, and in the end what passed,
// what failed, and what was skipped and why.
//
//	go test -json ./... | go run ./test/report [-tests]
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
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
}

func main() {
	tests := flag.Bool("tests", false, "a line for each top-level test as it ends")
	flag.Parse()
	if !run(os.Stdin, os.Stdout, *tests) {
		os.Exit(1)
	}
}

// run prints the report and says whether everything passed.
func run(in io.Reader, out io.Writer, eachTest bool) bool {
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
			r = &result{}
			packages[name] = r
		}
		key := e.Package + "\x00" + e.Test
		short := strings.TrimPrefix(e.Package, "kubelet/")
		top := !strings.Contains(e.Test, "/")
		switch e.Action {
		case "output", "build-output":
			if e.Test != "" {
				texts[key] = append(texts[key], e.Output)
			} else if r.output = append(r.output, e.Output); eachTest && strings.HasPrefix(e.Output, "    ") {
				fmt.Fprint(out, e.Output) // progress of a long set-up
			}
		case "pass", "skip", "fail":
			text := texts[key]
			delete(texts, key)
			switch {
			case e.Test != "" && e.Action == "fail":
				r.failed = true
				text = slices.DeleteFunc(text, func(s string) bool { return strings.HasPrefix(s, "=== ") })
				failed = append(failed, short+" "+e.Test)
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
				fmt.Fprintf(out, "FAIL %s (%.1fs)\n%s", short, e.Elapsed, strings.Join(r.output, ""))
				if !r.failed { // no test of it did: set-up, a crash, or the time limit
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
				r.failed = true
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
		return false
	}
	fmt.Fprintf(out, "ok: %d tests in %d packages, %d skipped\n", passed, okPackages, len(skipped))
	return okPackages > 0
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
