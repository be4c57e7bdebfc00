package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"kubelet/test/harness"
)

// suite is one run of the upstream suite.
type suite struct {
	options
	node   *harness.Node
	listed map[string]test // what will be run, by name
	ended  map[string]test // what ginkgo has told of so far
}

// The folder of a run's files on the node; it is inside of /var/log there.
const suiteDir = "/var/log/e2e"

// choice are ginkgo's flags for what is to be run.
func (s *suite) choice() []string {
	never := []string{`\[Disruptive\]`, `\[Flaky\]`, `\[Feature:OffByDefault\]`}
	if !s.slow {
		never = append(never, `\[Slow\]`, `\[Serial\]`)
	}
	if s.skip != "" {
		never = append(never, s.skip)
	}
	focus := `\[NodeConformance\]`
	switch {
	case s.any:
		focus = s.focus
	case s.focus != "":
		// Both have to match, in any order.
		focus = `(?:` + s.focus + `).*\[NodeConformance\]|\[NodeConformance\].*(?:` + s.focus + `)`
	}
	return []string{"--focus=" + focus, "--skip=" + strings.Join(never, "|")}
}

// list finds the tests that will run.
func (s *suite) list(ctx context.Context) error {
	if _, err := os.Stat(part("e2e.test")); err != nil {
		return fmt.Errorf("the suite is not built, run test/setup/conformance.sh: %w", err)
	}
	if err := os.MkdirAll(s.node.Path(suiteDir), 0o755); err != nil {
		return fmt.Errorf("make folder of the suite: %w", err)
	}
	args := append([]string{"--dry-run", "--json-report=list.json", "--output-dir=" + suiteDir, "--silence-skips", "--no-color"}, s.choice()...)
	out, err := s.node.Run(ctx, part("ginkgo"), append(args, part("e2e.test"), "--", "--provider=skeleton")...)
	if err != nil {
		return fmt.Errorf("list tests: %w: %s", err, lastLines(out, 5))
	}
	tests, err := readReport(s.node.Path(suiteDir + "/list.json"))
	if err != nil {
		return err
	}
	if len(tests) == 0 {
		return fmt.Errorf("no test of the suite that may be chosen matches %q", s.focus)
	}
	s.listed = tests
	return nil
}

// run runs the suite, tells how far it is, and returns what became of each
// test; of a run that was interrupted those that had ended. Failed tests are no
// error.
func (s *suite) run(ctx context.Context) (map[string]test, error) {
	args := append([]string{
		"--procs=" + strconv.Itoa(min(s.procs, len(s.listed))), "--timeout=3h", "--silence-skips", "--no-color", "-v",
		"--output-dir=" + suiteDir, "--json-report=report.json", "--junit-report=junit.xml", "--poll-progress-after=0",
	}, s.choice()...)
	args = append(args, part("e2e.test"), "--", "--provider=skeleton", "--kubeconfig="+harness.AdminKubeconfig,
		"--kubectl-path=kubectl", "--report-complete-ginkgo=false", "--dump-logs-on-failure=true")
	p, err := s.node.Start(harness.Command{Name: "ginkgo", Path: part("ginkgo"), Args: args})
	if err != nil {
		return nil, err
	}
	s.follow(ctx, p)
	if ctx.Err() != nil {
		p.Kill() // what it would clean up goes with the node
	}
	<-p.Done()
	if err := copyFile(p.Log, filepath.Join(s.out, "e2e.log")); err != nil {
		return nil, errors.Join(err, ctx.Err())
	}
	if ctx.Err() != nil {
		return s.ended, ctx.Err()
	}
	if err := copyFile(s.node.Path(suiteDir+"/junit.xml"), filepath.Join(s.out, "junit.xml")); err != nil {
		return nil, err
	}
	return readReport(s.node.Path(suiteDir + "/report.json"))
}

// ended is the line with which ginkgo begins its report of a test, with its
// state if it did not pass; the next line is its name.
var ended = regexp.MustCompile(`^• (?:\[([A-Z !]+)\] )?\[([0-9.]+) seconds\]`)

// outcome is what such a line says of a test, or false if it is another line.
func outcome(line string) (test, bool) {
	m := ended.FindStringSubmatch(line)
	if m == nil {
		return test{}, false
	}
	seconds, _ := strconv.ParseFloat(m[2], 64) // a number, as the pattern says
	return test{State: cmp.Or(strings.ToLower(strings.Trim(m[1], " !")), "passed"), Seconds: seconds}, true
}

// name finds a test by the line that names it: its texts, with a mark before
// the last one, and then its labels, of which the first names its group of
// interest.
func (s *suite) name(line string) (string, bool) {
	text := strings.Replace(line, "[It] ", "", 1)
	if i := strings.LastIndex(text, " [sig-"); i >= 0 {
		text = text[:i]
	}
	_, ok := s.listed[text]
	return text, ok
}

// follow reads what ginkgo writes until it has ended.
func (s *suite) follow(ctx context.Context, p *harness.Process) {
	f, err := os.Open(p.Log)
	if err != nil {
		say("follow the suite: %v", err)
		return
	}
	defer f.Close()
	var (
		lines   = bufio.NewReader(f)
		partial string
		result  *test // of the test whose name is in the next line
		done    int
		failed  int
		began   = time.Now()
		told    = time.Now()
	)
	for last := false; ; {
		text, err := lines.ReadString('\n')
		partial += text
		if errors.Is(err, io.EOF) {
			if last {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-p.Done():
				last = true // what was written meanwhile is still read
			case <-time.After(200 * time.Millisecond):
			}
			if time.Since(told) > 15*time.Second {
				told = time.Now()
				say("%d of %d tests, %d failed, %s", done, len(s.listed), failed, time.Since(began).Round(time.Second))
			}
			continue
		}
		line := strings.TrimRight(partial, "\n")
		partial = ""
		switch {
		case result != nil:
			if done++; !result.passed() {
				failed++
				say("%s: %s", result.State, line)
			}
			if name, ok := s.name(line); ok {
				result.Group = s.listed[name].Group
				s.ended[name] = *result
			}
			result = nil
		default:
			if t, ok := outcome(line); ok {
				result = &t
			}
		}
	}
}

// readReport reads a report of ginkgo: the tests that were run, by their full
// name.
func readReport(path string) (map[string]test, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read report of ginkgo: %w", err)
	}
	var reports []struct {
		SpecReports []struct {
			ContainerHierarchyTexts []string
			LeafNodeType            string
			LeafNodeText            string
			State                   string
			RunTime                 time.Duration
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(text, &reports); err != nil {
		return nil, fmt.Errorf("decode report of ginkgo: %w", err)
	}
	tests := map[string]test{}
	for _, report := range reports {
		for _, spec := range report.SpecReports {
			// A test that skips itself has run for a while; one that was not
			// chosen has not.
			if spec.LeafNodeType != "It" || spec.State == "skipped" && spec.RunTime == 0 || spec.State == "pending" {
				continue
			}
			name := strings.Join(slices.Concat(spec.ContainerHierarchyTexts, []string{spec.LeafNodeText}), " ")
			tests[name] = test{
				State: spec.State, Seconds: spec.RunTime.Seconds(), Group: group(spec.ContainerHierarchyTexts),
				Message: spec.Failure.Message,
			}
		}
	}
	return tests, nil
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read what the suite wrote: %w", err)
	}
	if err := os.WriteFile(to, text, 0o644); err != nil {
		return fmt.Errorf("keep what the suite wrote: %w", err)
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
