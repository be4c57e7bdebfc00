package apiclient

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The clientset and the informers link every API group; see the package doc.
func TestNoClientsetIsLinkedIn(t *testing.T) {
	packages := []string{"kubelet/internal/apiclient", "kubelet/internal/node", "kubelet/internal/server"}
	if _, err := os.Stat("../../cmd/kubelet/main.go"); err == nil {
		packages = append(packages, "kubelet/cmd/kubelet")
	}
	out, err := exec.Command("go", append([]string{"list", "-e", "-deps"}, packages...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for _, dep := range strings.Fields(string(out)) {
		for _, forbidden := range []string{"k8s.io/client-go/kubernetes", "k8s.io/client-go/informers", "k8s.io/client-go/listers", "k8s.io/kubernetes"} {
			if dep == forbidden || strings.HasPrefix(dep, forbidden+"/") {
				t.Errorf("%s is linked in", dep)
			}
		}
	}
}
