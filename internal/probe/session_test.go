package probe

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	const rest = " 1 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1000 100 18446744073709551615"
	p, err := parseStat(42, []byte("42 (a b) S) S"+rest))
	if want := (process{pid: 42, parent: 1, session: 40, start: 12345}); err != nil || p != want {
		t.Errorf("got %+v, %v, want %+v", p, err, want)
	}
	if _, err := parseStat(42, []byte("42 (gone) Z"+rest)); !errors.Is(err, unix.ESRCH) {
		t.Errorf("a zombie: %v", err)
	}
	if _, err := parseStat(42, []byte("42 (cut) S 1 42")); err == nil {
		t.Error("a line that ends early is taken")
	}
	self, err := readProcess(os.Getpid())
	if err != nil || self.parent != os.Getppid() || self.start == 0 {
		t.Errorf("this process: %+v, %v", self, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a b) S) S 1 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345"))
	f.Add([]byte(") "))
	f.Fuzz(func(t *testing.T, text []byte) { _, _ = parseStat(1, text) })
}

func TestIsCommand(t *testing.T) {
	for _, c := range []struct {
		cmdline, command string
		want             bool
	}{
		{"sh|-c|sleep 20; true", "sh|-c|sleep 20; true", true},
		{"/bin/sh|/usr/bin/check|-a", "check|-a", true},
		{"/usr/bin/env|bash|/check|-a", "/check|-a", true},
		{"sh|-c|other", "sh|-c|sleep 20; true", false},
		{"check", "check|-a", false},
		{"a|b|c|check", "check", false},
		{"", "check", false},
		{"check", "", false},
	} {
		cmdline := strings.ReplaceAll(c.cmdline, "|", "\x00") + "\x00"
		if got := isCommand([]byte(cmdline), strings.Split(c.command, "|")); got != c.want {
			t.Errorf("%q of %q: %v", c.command, c.cmdline, got)
		}
	}
	if isCommand([]byte("x\x00"), nil) {
		t.Error("no command is one")
	}
}
