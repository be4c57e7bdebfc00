package node

import "testing"

// What a pod's security context, namespaces and mounts ask for is what its
// processes have.
func TestSecurity(t *testing.T) {
	t.Parallel()
	fieldCases(t, "security.yaml")
}
