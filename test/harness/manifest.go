package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// Manifest reads a file below testdata and fills in ${NAME} variables, given
// as name and value in turn. A variable that is not given is an error, so that
// a typing mistake does not end in a container's arguments.
func Manifest(file string, vars ...string) (string, error) {
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		return "", fmt.Errorf("read manifest: %w", err)
	}
	var missing []string
	out := os.Expand(string(text), func(name string) string {
		for i := 0; i+1 < len(vars); i += 2 {
			if vars[i] == name {
				return vars[i+1]
			}
		}
		if name == "$" { // $$ is Kubernetes' own escape; so is $(NAME), which is left alone anyway
			return "$" + name
		}
		missing = append(missing, name)
		return ""
	})
	if missing != nil {
		return "", fmt.Errorf("manifest %s: no value for %s", file, strings.Join(missing, ", "))
	}
	return out, nil
}

// Objects decodes the documents of a manifest.
func Objects(text string) ([]runtime.Object, error) {
	decoder := scheme.Codecs.UniversalDeserializer()
	var objects []runtime.Object
	for _, doc := range strings.Split(text, "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		o, _, err := decoder.Decode([]byte(doc), nil, nil)
		if err != nil {
			return nil, fmt.Errorf("decode manifest: %w", err)
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// Create creates objects in a namespace and returns the pods among them.
func (c *Cluster) Create(ctx context.Context, namespace string, objects ...runtime.Object) ([]*v1.Pod, error) {
	var pods []*v1.Pod
	o := metav1.CreateOptions{}
	for _, object := range objects {
		var err error
		switch x := object.(type) {
		case *v1.Pod:
			var pod *v1.Pod
			pod, err = c.Client.CoreV1().Pods(namespace).Create(ctx, x, o)
			pods = append(pods, pod)
		case *v1.ConfigMap:
			_, err = c.Client.CoreV1().ConfigMaps(namespace).Create(ctx, x, o)
		case *v1.Secret:
			_, err = c.Client.CoreV1().Secrets(namespace).Create(ctx, x, o)
		case *v1.Service:
			_, err = c.Client.CoreV1().Services(namespace).Create(ctx, x, o)
		case *v1.ServiceAccount:
			_, err = c.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, x, o)
		case *appsv1.Deployment:
			_, err = c.Client.AppsV1().Deployments(namespace).Create(ctx, x, o)
		case *autoscalingv2.HorizontalPodAutoscaler:
			_, err = c.Client.AutoscalingV2().HorizontalPodAutoscalers(namespace).Create(ctx, x, o)
		case *nodev1.RuntimeClass:
			_, err = c.Client.NodeV1().RuntimeClasses().Create(ctx, x, o)
		default:
			err = fmt.Errorf("no way to create a %T", object)
		}
		if err != nil {
			return pods, fmt.Errorf("create %T: %w", object, err)
		}
	}
	return pods, nil
}

// PutManifest puts a static pod's manifest in place at once, as a careful
// person would: written under a hidden name, then renamed.
func (n *Node) PutManifest(name, text string) error {
	hidden := filepath.Join(ManifestDir, "."+name+".tmp")
	if err := n.WriteFile(hidden, text, 0o644); err != nil {
		return err
	}
	if err := os.Rename(n.Path(hidden), n.Path(filepath.Join(ManifestDir, name))); err != nil {
		return fmt.Errorf("put manifest: %w", err)
	}
	return nil
}

// RemoveManifest takes a static pod's manifest away.
func (n *Node) RemoveManifest(name string) error {
	if err := os.Remove(n.Path(filepath.Join(ManifestDir, name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove manifest: %w", err)
	}
	return nil
}
