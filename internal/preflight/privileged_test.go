package preflight

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// needRoot skips a test that changes the machine, loudly if it was asked for.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 && os.Getenv("KUBELET_TEST_PRIVILEGED") == "1" {
		return
	}
	if os.Getenv("KUBELET_TEST_PRIVILEGED") == "1" {
		t.Fatal("KUBELET_TEST_PRIVILEGED=1 needs root")
	}
	t.Skip("needs root and KUBELET_TEST_PRIVILEGED=1")
}

// TestRealIPTables runs the real commands in a network namespace of its own.
func TestRealIPTables(t *testing.T) {
	needRoot(t)
	// The thread stays in its namespace and ends with the goroutine.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, command := range []string{"iptables", "ip6tables"} {
			tables := iptables{command, execute}
			if err := tables.ensure(t.Context(), command == "iptables"); err != nil {
				t.Fatal(err)
			}
			hint, err := tables.call(t.Context(), "-t", "mangle", "-S", hintChain)
			if err != nil || !strings.Contains(hint, "-N "+hintChain) {
				t.Errorf("%s: %q, %v", command, hint, err)
			}
		}
	}
	rules, err := execute(t.Context(), "iptables", "-t", "filter", "-S")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(rules, "\n")
	for _, want := range []string{
		"-A INPUT -j KUBE-FIREWALL",
		"-A OUTPUT -j KUBE-FIREWALL",
		`-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP`,
	} {
		found := 0
		for line := range slices.Values(lines) {
			if line == want {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%q is there %d times:\n%s", want, found, rules)
		}
	}
}
