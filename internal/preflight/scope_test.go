package preflight

import "testing"

func TestInService(t *testing.T) {
	for text, want := range map[string]bool{
		"0::/system.slice/kubelet.service\n":            true,
		"0::/user.slice/user-0.slice/session-1.scope\n": false,
		"0::/\n": false,
		"":       false,
		"garbage\n0::/system.slice/my.service/child\n":                           true,
		"5:cpu,cpuacct:/x.service\n1:name=systemd:/user.slice\n":                 false,
		"5:cpu,cpuacct:/\n1:name=systemd:/system.slice/kubelet.service\n0::/x\n": true,
		"0::/system.slice/kubelet.services\n":                                    false,
	} {
		if got := inService(text); got != want {
			t.Errorf("%q: got %t, want %t", text, got, want)
		}
	}
}
