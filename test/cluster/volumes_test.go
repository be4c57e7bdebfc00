package cluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/test/harness"
)

// What containers see in volumes that are made from objects and fields.
func TestVolumeContents(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	create(t, ns, "volumes.yaml")
	pod := waitReady(t, ns, "volumes")
	for path, want := range map[string]string{
		"/config/color":          "blue",
		"/config/shape":          "round",
		"/items/deep/renamed":    "blue",
		"/secret/word":           "hush",
		"/down/labels":           `kind="demo"`,
		"/down/name":             "volumes",
		"/down/cpu":              "250",
		"/projected/from/config": "blue",
		"/projected/from/secret": "hush",
		"/projected/from/fields": ns,
		"/var/run/secrets/kubernetes.io/serviceaccount/ca.crt": "BEGIN CERTIFICATE",
	} {
		if body := fetch(t, pod, path); !strings.Contains(body, want) {
			t.Errorf("%s: got %q, want %q in it", path, body, want)
		}
	}

	dir := node.Path("/var/lib/kubelet/pods/" + string(pod.UID) + "/volumes/")
	for file, want := range map[string]os.FileMode{
		"kubernetes.io~configmap/config/color":       0o644,
		"kubernetes.io~configmap/items/deep/renamed": 0o440,
		"kubernetes.io~secret/secret/word":           0o400,
	} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil {
			t.Errorf("mode: %v", err)
		} else if info.Mode().Perm() != want {
			t.Errorf("mode of %s: got %o, want %o", file, info.Mode().Perm(), want)
		}
	}
	// Secrets never touch a disk.
	for _, name := range []string{"kubernetes.io~secret/secret", "kubernetes.io~projected/token", "kubernetes.io~empty-dir/memory"} {
		if options := tmpfs(t, pod, name); options == "" {
			t.Errorf("volume %s is not on a tmpfs", name)
		}
	}

	var claims struct {
		Audience []string `json:"aud"`
		Expires  int64    `json:"exp"`
		Issued   int64    `json:"iat"`
	}
	token := strings.TrimSpace(fetch(t, pod, "/token/token"))
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("token: got %q, want a JWT", token)
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(claims.Audience, []string{"vault"}) || claims.Expires-claims.Issued != 1200 {
		t.Errorf("token: audience %v, valid for %d s; want [vault], 1200", claims.Audience, claims.Expires-claims.Issued)
	}
	review, err := node.Cluster.Client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: strings.TrimSpace(fetch(t, pod, "/var/run/secrets/kubernetes.io/serviceaccount/token"))},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:"+ns+":default" {
		t.Errorf("the API server takes the pod's token for %+v", review.Status)
	}
}

// Objects that change are seen by running pods, in whole, without a restart.
func TestVolumeUpdates(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	create(t, ns, "volumes.yaml")
	pod := waitReady(t, ns, "volumes")
	before := fetch(t, pod, "/config/color")

	client := node.Cluster.Client.CoreV1()
	patch := []byte(`{"data":{"color":"green","shape":null,"added":"new"}}`)
	if _, err := client.ConfigMaps(ns).Patch(t.Context(), "colors", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Secrets(ns).Patch(t.Context(), "words", types.MergePatchType, []byte(`{"stringData":{"word":"loud"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	label := []byte(`{"metadata":{"labels":{"kind":"changed"}}}`)
	if _, err := client.Pods(ns).Patch(t.Context(), "volumes", types.MergePatchType, label, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	// Upstream looks at volumes once in its sync period of a minute or so.
	err := harness.Until(t.Context(), 3*time.Minute, "the new contents", func(ctx context.Context) error {
		for path, want := range map[string]string{"/config/color": "green", "/config/added": "new", "/secret/word": "loud", "/down/labels": `kind="changed"`, "/projected/from/config": "green"} {
			body, err := node.Get(ctx, "http://"+pod.Status.PodIP+":8080"+path)
			if err != nil {
				return err
			}
			if !strings.Contains(body, want) {
				return fmt.Errorf("%s: got %q, want %q", path, body, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v (before: %q)", err, before)
	}
	if body, err := node.Get(t.Context(), "http://"+pod.Status.PodIP+":8080/config/shape"); err == nil {
		t.Errorf("a removed key is still there: %q", body)
	}
	after, err := client.Pods(ns).Get(t.Context(), "volumes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := harness.ContainerStatus(after, "main").RestartCount; n != 0 {
		t.Errorf("the container was restarted %d times", n)
	}
}

// A pod waits for what is missing and says what; it starts once it is there.
func TestMissingObjects(t *testing.T) {
	t.Parallel()
	t.Run("volume", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t)
		create(t, ns, "missing-volume.yaml")
		event := waitEvent(t, ns, "missing", "FailedMount")
		if !strings.Contains(event.Message, "late") {
			t.Errorf("event does not name the object: %s", event.Message)
		}
		waitPod(t, ns, "missing", "ContainerCreating", func(p *v1.Pod) bool {
			w := harness.ContainerStatus(p, "main").State.Waiting
			return w != nil && w.Reason == "ContainerCreating"
		})
		create(t, ns, "late.yaml")
		pod := waitPodFor(t, 3*time.Minute, ns, "missing", "Ready", harness.Ready)
		if body := fetch(t, pod, "/config/key"); !strings.Contains(body, "value") {
			t.Errorf("content: %q", body)
		}
	})
	t.Run("environment", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t)
		create(t, ns, "missing-env.yaml")
		waitPod(t, ns, "missing", "CreateContainerConfigError", func(p *v1.Pod) bool {
			w := harness.ContainerStatus(p, "main").State.Waiting
			return w != nil && w.Reason == "CreateContainerConfigError" && strings.Contains(w.Message, "late")
		})
		create(t, ns, "late.yaml")
		pod := waitPodFor(t, 3*time.Minute, ns, "missing", "Ready", harness.Ready)
		if body := fetch(t, pod, "/env"); !strings.Contains(body, "FROM_LATE=value") {
			t.Errorf("environment: %q", body)
		}
	})
	t.Run("optional", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t)
		create(t, ns, "missing-optional.yaml")
		pod := waitReady(t, ns, "optional")
		create(t, ns, "late.yaml")
		err := harness.Until(t.Context(), 3*time.Minute, "the object that came late", func(ctx context.Context) error {
			body, err := node.Get(ctx, "http://"+pod.Status.PodIP+":8080/config/key")
			if err == nil && !strings.Contains(body, "value") {
				err = fmt.Errorf("content: %q", body)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestHostPathTypes(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	base := "/var/lib/test-hostpath/" + ns
	if err := node.WriteFile(base+"/file", "content", 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(node.Path(base+"/dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", node.Path(base+"/socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()

	tests := []struct {
		name, path, kind string
		works            bool
	}{
		{"unset", base + "/dir", "", true},
		{"dir", base + "/dir", "Directory", true},
		{"dir-missing", base + "/none", "Directory", false},
		{"dir-is-file", base + "/file", "Directory", false},
		{"dir-made", base + "/made", "DirectoryOrCreate", true},
		{"file", base + "/file", "File", true},
		{"file-missing", base + "/none", "File", false},
		{"file-made", base + "/made-file", "FileOrCreate", true},
		{"socket", base + "/socket", "Socket", true},
		{"socket-is-file", base + "/file", "Socket", false},
		{"chardev", "/dev/null", "CharDevice", true},
		{"chardev-is-dir", base + "/dir", "CharDevice", false},
		{"blockdev-is-chardev", "/dev/null", "BlockDevice", false},
	}
	for _, tt := range tests {
		createText(t, ns, agentPod(tt.name, []string{"pause"}, "  volumeMounts: [{name: host, mountPath: /host}]",
			fmt.Sprintf("volumes: [{name: host, hostPath: {path: %s, type: %q}}]", tt.path, tt.kind)))
	}
	for _, tt := range tests {
		if tt.works {
			waitReady(t, ns, tt.name)
			continue
		}
		event := waitEvent(t, ns, tt.name, "FailedMount")
		if !strings.Contains(event.Message, "hostPath type check failed") {
			t.Errorf("%s: event says %q", tt.name, event.Message)
		}
	}
	for path, dir := range map[string]bool{"/made": true, "/made-file": false} {
		info, err := os.Stat(node.Path(base + path))
		if err != nil {
			t.Error(err)
		} else if info.IsDir() != dir {
			t.Errorf("%s: is a directory: %t", path, info.IsDir())
		}
	}
	// What the node owns outlives the pods.
	deleteAll(t, ns)
	for _, path := range []string{"/file", "/dir", "/made", "/made-file"} {
		if _, err := os.Stat(node.Path(base + path)); err != nil {
			t.Errorf("after the pods went: %v", err)
		}
	}
}

// Containers of a pod share an emptyDir; one in memory is a tmpfs of the size
// that was asked for; both go with the pod.
func TestEmptyDir(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	create(t, ns, "emptydir.yaml")
	pod := waitReady(t, ns, "emptydir")
	until(t, "both containers to have written", func(ctx context.Context) error {
		body, err := node.Get(ctx, "http://"+pod.Status.PodIP+":8080/data/lines")
		if err == nil && len(lines(body)) < 1 {
			err = fmt.Errorf("file: %q", body)
		}
		return err
	})
	if options := tmpfs(t, pod, "kubernetes.io~empty-dir/memory"); !strings.Contains(options, "size=8192k") {
		t.Errorf("the volume in memory is mounted with %q, want a size of 8 MiB", options)
	}
}

// tmpfs returns the mount options of a pod's volume, or nothing if it is not
// on a tmpfs of its own.
func tmpfs(t *testing.T, pod *v1.Pod, volume string) string {
	t.Helper()
	mounts, err := node.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines(string(mounts)) {
		if strings.Contains(line, string(pod.UID)+"/volumes/"+volume+" ") {
			if _, options, ok := strings.Cut(line, " - tmpfs "); ok {
				return options
			}
		}
	}
	return ""
}
