package pleg

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
)

func TestTerminationMessage(t *testing.T) {
	lines := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "2026-01-02T03:04:05.678901234Z stdout F "+format+"\n", i)
		}
		return b.String()
	}
	cases := []struct {
		name   string
		file   func(path string) error // nil: there is none
		log    string
		policy string
		code   int32
		reason string
		said   string // by the runtime
		names  int
		want   string
		has    string
		size   int
	}{
		{name: "file", file: text("all is well"), want: "all is well"},
		{name: "no file", want: ""},
		{name: "runtime and file", file: text("it broke"), said: "oom", want: "oom: it broke"},
		{name: "runtime alone", said: "cannot run", want: "cannot run"},
		{name: "log is not asked for", log: lines(1, "line %d"), code: 1, policy: "File", want: ""},
		{name: "log after a failure", log: lines(3, "line %d"), code: 1, want: "line 0\nline 1\nline 2\n"},
		{name: "no log after success", log: lines(3, "line %d"), code: 0, want: ""},
		{name: "no log if it never ran", log: lines(3, "line %d"), code: 128, reason: "StartError", want: ""},
		{name: "file before log", file: text("mine"), log: lines(3, "line %d"), code: 1, want: "mine"},
		{name: "empty file, then log", file: text(""), log: lines(1, "line %d"), code: 1, want: "line 0\n"},
		{name: "80 lines of the log", log: lines(100, "%d"), code: 1, want: func() string {
			var b strings.Builder
			for i := 20; i < 100; i++ {
				fmt.Fprintf(&b, "%d\n", i)
			}
			return b.String()
		}()},
		{name: "2 KiB of the log", log: lines(50, strings.Repeat("x", 100)+"%02d"), code: 1, size: 2048, has: "49\n"},
		{name: "partial lines are joined", code: 1, log: "2026-01-02T03:04:05Z stderr P abc\n2026-01-02T03:04:05Z stderr F def\n", want: "abcdef\n"},
		{name: "end of a huge line", code: 1, size: 2048, has: "end\n",
			log: lines(3, "before %d") + "2026-01-02T03:04:05.678901234Z stdout F " + strings.Repeat("y", 16000) + "end\n"},
		{name: "log without its last end of line", code: 1, log: strings.TrimSuffix(lines(2, "%d"), "\n"), want: "0\n1\n"},
		{name: "log is garbage", code: 1, log: "\x00\x01\n\n\nrubbish", want: ""},
		{name: "end of a large file", file: text(strings.Repeat("a", 10000) + "end"), size: 4096, has: "end"},
		{name: "12 KiB for the pod", file: text(strings.Repeat("a", 10000)), names: 6, size: 2048},
		{name: "not text", file: text("a\xff\xfeb\x00"), want: "a\uFFFDb\x00"},
		{name: "characters stay whole", file: text(strings.Repeat("é", 3000)), said: "x", size: 4095},
		{name: "symbolic link", file: func(p string) error { return os.Symlink("/etc/hostname", p) }, has: "Error on reading termination log"},
		{name: "FIFO", file: func(p string) error { return syscall.Mkfifo(p, 0o600) }, has: "not a regular file"},
		{name: "directory", file: func(p string) error { return os.Mkdir(p, 0o700) }, has: "not a regular file"},
		{name: "link to nowhere", file: func(p string) error { return os.Symlink("/nonexistent", p) }, has: "Error on reading termination log"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			file, log := filepath.Join(dir, "message"), filepath.Join(dir, "0.log")
			if tc.file != nil {
				if err := tc.file(file); err != nil {
					t.Fatal(err)
				}
			}
			if tc.log != "" {
				if err := os.WriteFile(log, []byte(tc.log), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if tc.policy == "" {
				tc.policy = "FallbackToLogsOnError"
			}
			s := &runtimeapi.ContainerStatus{
				ExitCode: tc.code, Reason: tc.reason, Message: tc.said,
				Annotations: map[string]string{
					cri.AnnotationTerminationMessagePath: "/dev/termination-log", cri.AnnotationTerminationMessagePolicy: tc.policy,
				},
				Mounts: []*runtimeapi.Mount{
					{ContainerPath: "/data", HostPath: "/nowhere"}, {ContainerPath: "/dev/termination-log", HostPath: file},
				},
			}
			if tc.log != "" {
				s.LogPath = log
			}
			done := make(chan string, 1)
			go func() { done <- terminationMessage(s, max(tc.names, 1)) }()
			var got string
			select {
			case got = <-done:
			case <-time.After(5 * time.Second):
				t.Fatal("reading the message hangs")
			}
			if !utf8.ValidString(got) {
				t.Errorf("not UTF-8: %q", got)
			}
			switch {
			case tc.size > 0:
				if len(got) != tc.size || !strings.HasSuffix(got, tc.has) {
					t.Errorf("%d bytes ending in %q; want %d ending in %q", len(got), got[max(0, len(got)-10):], tc.size, tc.has)
				}
			case tc.has != "":
				if !strings.Contains(got, tc.has) {
					t.Errorf("got %q, want %q in it", got, tc.has)
				}
			case got != tc.want:
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func text(s string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(s), 0o600) }
}

func FuzzLogTail(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05Z stdout F hi\n"))
	f.Add([]byte("2026-01-02T03:04:05Z stdout P"))
	f.Add([]byte("2026-01-02T03:04:05Z stderr F:x \n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out := logTail(b)
		if len(out) > maxLogMessage || bytes.Count(out, []byte("\n")) > maxLogLines {
			t.Errorf("%d bytes, %d lines", len(out), bytes.Count(out, []byte("\n")))
		}
	})
}
