package preflight

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// runner executes a command and returns what it printed.
type runner func(ctx context.Context, name string, args ...string) (string, error)

func execute(ctx context.Context, name string, args ...string) (string, error) {
	output, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return strings.TrimSpace(string(output)), err
}

const (
	// iptablesDeadline bounds one command; iptablesLock, within it, the wait
	// for the lock that all iptables commands share.
	iptablesDeadline = 10 * time.Second
	iptablesLock     = "5"

	// hintChain tells other components which iptables back end, legacy or
	// nft, this node uses (KEP-3178).
	hintChain     = "KUBE-IPTABLES-HINT"
	firewallChain = "KUBE-FIREWALL"
)

// checkIPTables keeps the chains and rules that upstream kubelets keep for
// other components, in both families. The kubelet itself needs none of them,
// so whatever fails is a warning.
func checkIPTables(ctx context.Context, cfg *Config, r *Report) error {
	if !cfg.IPTables {
		return nil
	}
	families := []string{"iptables", "ip6tables"}
	errs := make([]error, len(families))
	var wait sync.WaitGroup
	for i, command := range families {
		wait.Go(func() {
			t := iptables{command: command, run: cfg.run}
			errs[i] = t.ensure(ctx, command == "iptables")
		})
	}
	wait.Wait()
	if errors.Is(errs[0], exec.ErrNotFound) && errors.Is(errs[1], exec.ErrNotFound) {
		r.warn("makeIPTablesUtilChains: neither iptables nor ip6tables is installed, the chain %s is not made", hintChain)
		return nil
	}
	for i, err := range errs {
		// One family alone is a choice, not a fault.
		if err != nil && !errors.Is(err, exec.ErrNotFound) {
			r.warn("makeIPTablesUtilChains: %s: %v", families[i], err)
		}
	}
	return nil
}

// iptablesRecheck is how often upstream looks for a firewall that was flushed.
const iptablesRecheck = time.Minute

// KeepIPTables makes the chains anew when somebody has flushed them, as a
// firewall does that reloads. It looks for one rule a minute: the kernel tells
// of no change that would name it. It returns when ctx ends, or at once where
// there is no iptables.
func KeepIPTables(ctx context.Context) error { return keepIPTables(ctx, execute) }

func keepIPTables(ctx context.Context, run runner) error {
	t := iptables{command: "iptables", run: run}
	broken := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(iptablesRecheck):
		}
		_, err := t.call(ctx, "-t", "filter", "-C", "OUTPUT", "-j", firewallChain)
		if err == nil || ctx.Err() != nil {
			broken = false
			continue
		}
		if errors.Is(err, exec.ErrNotFound) {
			return nil
		}
		var r Report
		_ = checkIPTables(ctx, &Config{IPTables: true, run: run}, &r) // warns only
		switch {
		case len(r.Warnings) == 0:
			klog.FromContext(ctx).Info("Made the iptables chains again, somebody had removed them")
		case !broken:
			klog.FromContext(ctx).Info("The iptables chains are gone and cannot be made again", "warnings", r.Warnings)
		}
		broken = len(r.Warnings) > 0
	}
}

// iptables runs the command of one family.
type iptables struct {
	command string
	run     runner
}

// ensure makes what is missing and leaves what is there. The rule drops
// packets from outside to loopback addresses, which kube-proxy's
// route_localnet would let through (CVE-2020-8558); kube-proxy keeps an
// identical rule, so its text must not change.
func (t iptables) ensure(ctx context.Context, firewall bool) error {
	if err := t.chain(ctx, "mangle", hintChain); err != nil {
		return err
	}
	if !firewall {
		return nil
	}
	if err := t.chain(ctx, "filter", firewallChain); err != nil {
		return err
	}
	for _, from := range []string{"OUTPUT", "INPUT"} {
		if err := t.rule(ctx, "-I", from, "-j", firewallChain); err != nil {
			return err
		}
	}
	return t.rule(ctx, "-A", firewallChain,
		"-m", "comment", "--comment", "block incoming localnet connections",
		"--dst", "127.0.0.0/8", "!", "--src", "127.0.0.0/8",
		"-m", "conntrack", "!", "--ctstate", "RELATED,ESTABLISHED,DNAT",
		"-j", "DROP")
}

// chain makes a chain, unless it is there.
func (t iptables) chain(ctx context.Context, table, name string) error {
	output, err := t.call(ctx, "-t", table, "-N", name)
	if err == nil || strings.Contains(output, "already exists") {
		return nil
	}
	return fmt.Errorf("make chain %s in table %s: %w: %s", name, table, err, output)
}

// rule adds a rule of the filter table in front (-I) or at the end (-A),
// unless it is there.
func (t iptables) rule(ctx context.Context, where, chain string, spec ...string) error {
	at := []string{"-t", "filter", "-C", chain}
	if _, err := t.call(ctx, append(at, spec...)...); err == nil {
		return nil
	}
	at[2] = where
	if output, err := t.call(ctx, append(at, spec...)...); err != nil {
		return fmt.Errorf("add rule to chain %s: %w: %s", chain, err, output)
	}
	return nil
}

func (t iptables) call(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, iptablesDeadline)
	defer cancel()
	return t.run(ctx, t.command, append([]string{"-w", iptablesLock}, args...)...)
}
