package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestParseEndsHere(t *testing.T) {
	for _, test := range []struct {
		args           string
		code           int
		stdout, stderr string // beginnings
	}{
		{"--version", 0, "Kubernetes v", ""},
		{"--version=raw", 0, "version.Info{", ""},
		{"-h", 0, "The kubelet runs the pods of one node", ""},
		{"--max-podz=1 stray", 2, "", "--max-podz: is not a flag of the kubelet; did you mean --max-pods?\nstray: is not a flag"},
		{"--config=/nonexistent/kubelet.yaml", 2, "", "/nonexistent/kubelet.yaml: cannot be read"},
	} {
		t.Run(test.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := dispatch(t.Context(), strings.Fields(test.args), &stdout, &stderr)
			if code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if !strings.HasPrefix(stdout.String(), test.stdout) || test.stdout == "" && stdout.Len() > 0 {
				t.Errorf("stdout: %s", stdout.String())
			}
			if !strings.HasPrefix(stderr.String(), test.stderr) || test.stderr == "" && stderr.Len() > 0 {
				t.Errorf("stderr: %s", stderr.String())
			}
		})
	}
}

// TestSignals runs this test binary as a process that waits for signals.
func TestSignals(t *testing.T) {
	if os.Getenv("SIGNALS_CHILD") == "1" {
		ctx, _ := signalContext(context.Background())
		os.Stdout.WriteString("ready\n")
		<-ctx.Done()
		os.Stdout.WriteString("ending\n")
		select {} // an end that hangs
	}
	child := exec.Command(os.Args[0], "-test.run=^TestSignals$")
	child.Env = append(os.Environ(), "SIGNALS_CHILD=1")
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if n, err := stdout.Read(got); err != nil || string(got[:n]) != want {
			t.Fatalf("got %q (%v), want %q", got[:n], err, want)
		}
	}
	expect("ready\n")
	for _, signal := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if err := child.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	expect("ending\n")
	if err := child.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err = child.Wait()
	if got := child.ProcessState.ExitCode(); got != 128+int(syscall.SIGTERM) {
		t.Errorf("exit code %d (%v), want %d", got, err, 128+int(syscall.SIGTERM))
	}
}
