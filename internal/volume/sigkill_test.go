package volume_test

import (
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

func sigkillPod() *v1.Pod {
	pod := newPod("uid-1", configMap("settings"), secret("cert"), emptyDir("scratch", v1.StorageMediumMemory), token("api"))
	group := int64(2000)
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: &group}
	return pod
}

func (n *node) setAll(value string) {
	n.api.setConfigMap("settings", map[string]string{"a": value, "b": value})
	n.api.set(func(a *api) {
		a.token = value
		a.secrets["default/cert"] = &v1.Secret{Data: map[string][]byte{"a": []byte(value), "b": []byte(value)}}
	})
}

// TestSIGKILL kills agents that mount, update and unmount at random moments,
// and lets the next one go on from there.
func TestSIGKILL(t *testing.T) {
	needRoot(t)
	if base := os.Getenv("KUBELET_TEST_SIGKILL_BASE"); base != "" {
		busyAgent(t, base)
		return
	}
	n := newNode(t)
	seed := time.Now().UnixNano()
	random := rand.New(rand.NewSource(seed))
	t.Logf("seed %d", seed)
	for range 15 {
		child := exec.Command(os.Args[0], "-test.run=^TestSIGKILL$", "-test.timeout=60s")
		child.Env = append(os.Environ(), "KUBELET_TEST_SIGKILL_BASE="+n.base)
		must(t, child.Start())
		// Wait until it is at work, then for any moment.
		for begun := time.Now(); ; time.Sleep(time.Millisecond) {
			if _, err := os.Stat(filepath.Join(n.base, "busy"+strconv.Itoa(child.Process.Pid))); err == nil {
				break
			}
			if time.Since(begun) > 30*time.Second {
				t.Fatal("the agent does not begin")
			}
		}
		time.Sleep(time.Duration(random.Intn(20000)) * time.Microsecond)
		must(t, child.Process.Kill())
		_ = child.Wait()

		n.setAll("final")
		pod := sigkillPod()
		mounts, err := n.start().Mount(quiet(), pod)
		must(t, err)
		for _, v := range []string{"settings", "cert"} {
			if a, b := read(t, mounts[v].Path, "a"), read(t, mounts[v].Path, "b"); a != "final" || b != "final" {
				t.Errorf("%s holds %q and %q", v, a, b)
			}
		}
		noLeftovers(t, n, pod)
		if got := len(n.mounts()); got != 3 {
			t.Errorf("%d mounts, want 3", got)
		}
		if random.Intn(2) == 0 {
			must(t, n.start().Unmount(quiet(), pod.UID))
			n.clean(pod.UID)
		}
	}
}

// busyAgent mounts, updates and unmounts until it is killed.
func busyAgent(t *testing.T, base string) {
	n := nodeAt(t, base)
	r := n.start()
	must(t, os.WriteFile(filepath.Join(base, "busy"+strconv.Itoa(os.Getpid())), nil, 0o600))
	for i := 0; ; i++ {
		n.setAll(fmt.Sprint(i))
		_, err := r.Mount(quiet(), sigkillPod())
		must(t, err)
		if i%3 == 2 {
			must(t, r.Unmount(quiet(), sigkillPod().UID))
		}
	}
}
