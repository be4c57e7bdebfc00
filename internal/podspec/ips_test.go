package podspec

import (
	"slices"
	"testing"
)

func TestOrderIPs(t *testing.T) {
	for _, c := range []struct {
		name            string
		ips, node, want []string
	}{
		{"one", []string{"10.0.0.1"}, nil, []string{"10.0.0.1"}},
		{"node is IPv6 first", []string{"10.0.0.1", "fd00::1"}, []string{"fd00::9", "10.1.0.1"}, []string{"fd00::1", "10.0.0.1"}},
		{"more than one of a family", []string{"10.0.0.1", "10.0.0.2", "fd00:0::1"}, []string{"10.1.0.1"}, []string{"10.0.0.1", "fd00::1"}},
		{"only the other family", []string{"fd00::1"}, []string{"10.1.0.1"}, []string{"fd00::1"}},
		{"rubbish", []string{"", "x", "10.0.0.300"}, []string{"y"}, nil},
		{"mapped", []string{"::ffff:10.0.0.1"}, nil, []string{"10.0.0.1"}},
	} {
		if got := OrderIPs(c.ips, c.node); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
