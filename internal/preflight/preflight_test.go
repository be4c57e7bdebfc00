package preflight

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"
)

// machine makes a root directory out of files; unlisted files are as on a
// machine where every check passes. An empty content removes a file.
func machine(t *testing.T, changes map[string]string) string {
	t.Helper()
	files := map[string]string{
		"proc/swaps":                         "Filename\tType\tSize\tUsed\tPriority\n",
		"proc/self/uid_map":                  "         0          0 4294967295\n",
		"proc/self/oom_score_adj":            "0\n",
		"proc/sys/kernel/osrelease":          "6.12.3-amd64\n",
		"proc/sys/vm/overcommit_memory":      "1\n",
		"proc/sys/vm/panic_on_oom":           "0\n",
		"proc/sys/kernel/panic":              "10\n",
		"proc/sys/kernel/panic_on_oops":      "1\n",
		"proc/sys/kernel/keys/root_maxkeys":  "1000000\n",
		"proc/sys/kernel/keys/root_maxbytes": "25000000\n",
		"sys/fs/cgroup/cgroup.controllers":   "cpu memory\n",
	}
	for path, content := range changes {
		files[path] = content
	}
	root := t.TempDir()
	for path, content := range files {
		if content == "" {
			continue
		}
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestCheck(t *testing.T) {
	const swapOn = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2\tpartition\t1000\t0\t-2\n"
	for _, test := range []struct {
		name     string
		machine  map[string]string
		config   func(*Config)
		problems []string
		warnings []string
		wantFile map[string]string
	}{
		{name: "all is well"},
		{
			name:    "everything is wrong at once",
			machine: map[string]string{"proc/swaps": swapOn, "sys/fs/cgroup/cgroup.controllers": "", "proc/sys/vm/overcommit_memory": "0", "proc/sys/kernel/panic": "0"},
			config: func(c *Config) {
				c.UID, c.FailSwapOn, c.FailCgroupV1, c.ProtectKernelDefaults = 1000, true, true, true
				c.LimitedSwap, c.SingleProcessOOMKill = true, ptr.To(false)
			},
			problems: []string{
				"the kubelet must run as root (in a user namespace: as its root)",
				"this machine has cgroup v1: boot it with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false",
				"memorySwap.swapBehavior LimitedSwap needs cgroup v2",
				"singleProcessOOMKill: false needs cgroup v2",
				"swap is on (/dev/sda2): turn it off (swapoff -a, /etc/fstab), or set failSwapOn: false",
				"vm.overcommit_memory is 0, must be 1 (an allocation must not fail because of others' reservations): set it with sysctl, or set protectKernelDefaults: false",
				"kernel.panic is 0, must be 10 (a node that panicked must come back): set it with sysctl, or set protectKernelDefaults: false",
			},
		},
		{
			name:     "kernel settings are set",
			machine:  map[string]string{"proc/sys/vm/overcommit_memory": "0", "proc/sys/kernel/keys/root_maxkeys": "200"},
			wantFile: map[string]string{"proc/sys/vm/overcommit_memory": "1", "proc/sys/kernel/keys/root_maxkeys": "1000000"},
		},
		{
			name:     "cgroup v1 and swap are allowed",
			machine:  map[string]string{"proc/swaps": swapOn, "sys/fs/cgroup/cgroup.controllers": "", "proc/sys/kernel/osrelease": "5.15.0-91-generic"},
			warnings: []string{"this machine has cgroup v1, which Kubernetes will not support for much longer", "swap is on (/dev/sda2) and this kernel cannot keep tmpfs out of it: secrets and memory-backed volumes may reach the disk"},
		},
		{
			name:     "a kernel without swap and keyrings",
			machine:  map[string]string{"proc/swaps": "", "proc/sys/kernel/keys/root_maxkeys": "", "proc/sys/kernel/keys/root_maxbytes": ""},
			config:   func(c *Config) { c.FailSwapOn = true },
			warnings: []string{"this kernel has no kernel.keys.root_maxkeys", "this kernel has no kernel.keys.root_maxbytes"},
		},
		{
			name:     "limits are refused",
			config:   func(c *Config) { c.MaxOpenFiles = 5000; c.setOpenFiles = refuseOpenFiles },
			warnings: []string{"maxOpenFiles 5000 is refused (operation not permitted), the limit is 1024"},
		},
		{
			name:     "the score is set",
			config:   func(c *Config) { c.OOMScoreAdj = -999 },
			wantFile: map[string]string{"proc/self/oom_score_adj": "-999"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := Config{Root: machine(t, test.machine)}
			if test.config != nil {
				test.config(&cfg)
			}
			report, err := Check(t.Context(), cfg)
			var problems []string
			if err != nil {
				problems = strings.Split(err.Error(), "\n")
			}
			if diff := cmp.Diff(test.problems, problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.warnings, report.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			for path, want := range test.wantFile {
				if got, err := readLine(cfg.Root, path); err != nil || got != want {
					t.Errorf("%s is %q (%v), want %q", path, got, err, want)
				}
			}
		})
	}
}

func refuseOpenFiles(uint64) (uint64, error) { return 1024, errors.New("operation not permitted") }

// A setting that cannot be written is a warning only in a user namespace, and
// only if the gate is on.
func TestRefusedKernelSetting(t *testing.T) {
	refused := map[string]string{"proc/sys/vm/overcommit_memory": "0"}
	for _, test := range []struct {
		name             string
		namespace, gate  bool
		problem, warning string
	}{
		{"outside", false, true, "set vm.overcommit_memory from 0 to 1: is a directory", ""},
		{"inside, gate off", true, false, "set vm.overcommit_memory from 0 to 1: is a directory (the feature gate KubeletInUserNamespace makes this a warning)", ""},
		{"inside, gate on", true, true, "", "vm.overcommit_memory is 0, should be 1, and cannot be set in a user namespace: is a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			changes := map[string]string{}
			if test.namespace {
				changes["proc/self/uid_map"] = "0 100000 65536\n"
			}
			root := machine(t, changes)
			report := Report{UserNamespace: inUserNamespace(root)}
			s := kernelSetting{path: "vm/overcommit_memory", value: "1"}
			err := writeRefused(t, root, refused, test.gate, &report, s)
			if got := text(err); got != test.problem {
				t.Errorf("problem %q, want %q", got, test.problem)
			}
			if got := strings.Join(report.Warnings, "\n"); got != test.warning {
				t.Errorf("warning %q, want %q", got, test.warning)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// fakeTables is iptables with chains and rules in memory.
type fakeTables struct {
	missing bool
	fail    string // arguments that contain this fail

	mu      sync.Mutex // both families share one
	state   map[string]bool
	changes []string
}

func (f *fakeTables) run(_ context.Context, name string, args ...string) (string, error) {
	if f.missing {
		return "", os.ErrNotExist
	}
	command := strings.Join(args[2:], " ") // after -w 5
	if f.fail != "" && strings.Contains(command, f.fail) {
		return "Permission denied (you must be root)", errors.New("exit status 4")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := strings.NewReplacer(" -C ", " ", " -I ", " ", " -A ", " ").Replace(command)
	switch {
	case strings.Contains(command, " -C "):
		if !f.state[key] {
			return "iptables: Bad rule", errors.New("exit status 1")
		}
		return "", nil
	case strings.Contains(command, " -N ") && f.state[key]:
		return "iptables: Chain already exists.", errors.New("exit status 1")
	}
	f.state[key] = true
	f.changes = append(f.changes, command)
	return "", nil
}

func TestIPTables(t *testing.T) {
	f := &fakeTables{state: map[string]bool{}}
	want := []string{
		"-t mangle -N KUBE-IPTABLES-HINT",
		"-t filter -N KUBE-FIREWALL",
		"-t filter -I OUTPUT -j KUBE-FIREWALL",
		"-t filter -I INPUT -j KUBE-FIREWALL",
		"-t filter -A KUBE-FIREWALL -m comment --comment block incoming localnet connections --dst 127.0.0.0/8 ! --src 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
	}
	// Twice, because a restarted kubelet finds everything there.
	for range 2 {
		if err := (iptables{"iptables", f.run}).ensure(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, f.changes); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
	}
	v6 := &fakeTables{state: map[string]bool{}}
	if err := (iptables{"ip6tables", v6.run}).ensure(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[:1], v6.changes); diff != "" {
		t.Errorf("IPv6 changes (-want +got):\n%s", diff)
	}
}

// A firewall that reloads flushes the chains; they are back within a minute,
// and a look that finds them changes nothing.
func TestIPTablesAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTables{state: map[string]bool{}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := (iptables{"iptables", f.run}).ensure(ctx, true); err != nil {
			t.Fatal(err)
		}
		made := len(f.changes)
		go func() { _ = keepIPTables(ctx, f.run) }()
		time.Sleep(5*iptablesRecheck + time.Second)
		synctest.Wait()
		f.mu.Lock()
		if len(f.changes) != made {
			t.Errorf("changes without need: %q", f.changes[made:])
		}
		clear(f.state)
		f.mu.Unlock()
		time.Sleep(iptablesRecheck)
		synctest.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.state["-t filter OUTPUT -j KUBE-FIREWALL"] {
			t.Errorf("the firewall chain is not back: %v", f.state)
		}
	})
}

func TestIPTablesTroubleIsAWarning(t *testing.T) {
	broken := &fakeTables{fail: "KUBE-FIREWALL", state: map[string]bool{}}
	for _, test := range []struct {
		name string
		run  runner
		want []string
	}{
		{"not installed", execMissing, []string{"makeIPTablesUtilChains: neither iptables nor ip6tables is installed, the chain KUBE-IPTABLES-HINT is not made"}},
		{"refused", broken.run, []string{"makeIPTablesUtilChains: iptables: make chain KUBE-FIREWALL in table filter: exit status 4: Permission denied (you must be root)"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			report, err := Check(t.Context(), Config{Root: machine(t, nil), IPTables: true, run: test.run})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, report.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// What containers may have of the node's swap depends on how much there is,
// and on whether the kernel accounts it per cgroup.
func TestSwapOfTheMachine(t *testing.T) {
	const heading = "Filename\tType\tSize\tUsed\tPriority\n"
	for _, test := range []struct {
		name       string
		machine    map[string]string
		total      int64
		controller bool
	}{
		{"none", nil, 0, false},
		{"two", map[string]string{"proc/swaps": heading + "/dev/sda2\tpartition\t1000\t0\t-2\n/swap\tfile\t24\t0\t-3\n"}, 1 << 20, false},
		{"odd lines", map[string]string{"proc/swaps": heading + "/dev/sda2\n/swap\tfile\tmany\t0\t-3\n"}, 0, false},
		{"version 2", map[string]string{
			"proc/self/cgroup": "0::/system.slice/kubelet.service\n", "sys/fs/cgroup/system.slice/kubelet.service/memory.swap.max": "max\n",
		}, 0, true},
		{"version 2 without", map[string]string{"proc/self/cgroup": "0::/system.slice/kubelet.service\n"}, 0, false},
		{"version 1", map[string]string{
			"sys/fs/cgroup/cgroup.controllers": "", "sys/fs/cgroup/memory/memory.memsw.limit_in_bytes": "1\n",
		}, 0, true},
		{"version 1 without", map[string]string{"sys/fs/cgroup/cgroup.controllers": ""}, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := Config{Root: machine(t, test.machine)}
			var r Report
			for _, check := range []func(context.Context, *Config, *Report) error{checkCgroupVersion, checkSwap, checkSwapController} {
				if err := check(t.Context(), &cfg, &r); err != nil {
					t.Fatal(err)
				}
			}
			if r.SwapTotal != test.total || r.SwapController != test.controller || r.SwapOn != (test.total > 0 || test.name == "odd lines") {
				t.Errorf("got %d bytes, controller %v, on %v", r.SwapTotal, r.SwapController, r.SwapOn)
			}
		})
	}
}
