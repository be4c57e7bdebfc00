package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// scenario measures one thing in all columns.
type scenario struct {
	number, name, what string
	run                func(*bench, context.Context) error
}

func scenarios() []scenario {
	return []scenario{
		{"1", "start", "pods one at a time: created → Ready seen on a watch, deleted → gone", (*bench).start},
		{"2", "batch", "50 and 110 pods at once: pods per second, latency, CPU; all deleted at once", (*bench).batch},
		{"3", "kill", "container killed → seen in the API → running again", (*bench).kill},
		{"4", "delete", "pods deleted one at a time, without the other shapes of scenario 1", (*bench).remove},
		{"5", "idle", "CPU and memory of a kubelet with 0, 50, 110, 250 and 500 pods", (*bench).idleAll},
		{"6", "restart", "kubelet killed with 110 pods and started again", (*bench).restart},
		{"7", "probe", "50 pods with probes each second, 10 by a command: CPU; a failing probe → seen in the API", (*bench).probe},
		{"8", "exec", "a short command in a container", (*bench).exec},
		{"8", "logs", "a long log, read directly and through the API server", (*bench).logs},
		{"8", "metrics", "/stats/summary, /metrics/cadvisor and /metrics/resource with 50 and 250 pods", (*bench).metrics},
		{"8", "update", "ConfigMap changed → file changed in the pod", (*bench).update},
		{"8", "churn", "pods one after another: what each leaves in the kubelet's memory", (*bench).churn},
	}
}

func scenarioHelp() string {
	var b strings.Builder
	for _, s := range scenarios() {
		fmt.Fprintf(&b, "  %s %-8s %s\n", s.number, s.name, s.what)
	}
	return b.String()
}

// choose returns the scenarios of those names or numbers; all but the ones
// that others contain if there are none.
func choose(names []string) ([]scenario, error) {
	var chosen []scenario
	for _, s := range scenarios() {
		if len(names) == 0 && s.name != "delete" || slices.Contains(names, s.name) || slices.Contains(names, s.number) {
			chosen = append(chosen, s)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(scenarios(), func(s scenario) bool { return s.name == name || s.number == name }) {
			return nil, fmt.Errorf("no scenario %q; there are:\n%s", name, scenarioHelp())
		}
	}
	return chosen, nil
}
