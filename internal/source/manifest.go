package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"

	"kubelet/internal/source/validate"
)

// maxManifest is the most that is read of a file or URL, upstream's limit.
const maxManifest = 10 << 20

// manifest is one pod that was read, or why it could not be.
type manifest struct {
	// namespace and name are what the manifest calls the pod, as far as that
	// could be read: they tell the pods of one list apart, also bad ones.
	namespace, name string

	pod      *v1.Pod
	err      error
	warnings []string
}

// decodePod reads one pod in YAML or JSON. Of several YAML documents the
// first counts, as upstream.
func decodePod(data []byte, o origin, f Features) manifest {
	raw, kind, err := toJSON(data)
	if err != nil {
		return manifest{err: err}
	}
	if kind != "Pod" {
		return manifest{err: fmt.Errorf("kind %q cannot be run; a manifest holds one object of apiVersion v1, kind Pod", kind)}
	}
	var pod v1.Pod
	l := newLocator(data, "")
	m := decode(raw, &pod, l)
	pod.TypeMeta = metav1.TypeMeta{} // is part of the hash in a list only
	if m.err == nil {
		m.finish(&pod, o, f, l)
	}
	if extra := documents(data); extra > 1 {
		m.warnings = append(m.warnings, fmt.Sprintf("holds %d documents; only the first is used: put each pod into a file of its own", extra))
	}
	return m
}

// decodeList reads a Pod or a PodList. An error means that nothing could be
// told of any pod.
func decodeList(data []byte, o origin, f Features) ([]manifest, error) {
	raw, kind, err := toJSON(data)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "Pod":
		return []manifest{decodePod(data, o, f)}, nil
	case "PodList":
	default:
		return nil, fmt.Errorf("kind %q cannot be run; expected apiVersion v1, kind Pod or PodList", kind)
	}
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &list); err != nil {
		return nil, fmt.Errorf("read list of pods: %w", err)
	}
	manifests := make([]manifest, len(list.Items))
	for i, item := range list.Items {
		var pod v1.Pod
		l := newLocator(data, fmt.Sprintf("items[%d]", i))
		manifests[i] = decode(item, &pod, l)
		if manifests[i].err == nil {
			manifests[i].finish(&pod, o, f, l)
		}
	}
	return manifests, nil
}

// toJSON converts a document to JSON and says which kind of v1 object it is.
func toJSON(data []byte) (raw []byte, kind string, err error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, "", errors.New("is empty")
	}
	raw, err = yaml.ToJSON(data)
	if err != nil {
		return nil, "", fmt.Errorf("read YAML: %w", err)
	}
	var is struct{ APIVersion, Kind string }
	if err := json.Unmarshal(raw, &is); err != nil {
		return nil, "", fmt.Errorf("read apiVersion and kind: %w", err)
	}
	if is.Kind == "" || is.APIVersion == "" {
		return nil, "", errors.New("has no apiVersion and kind; a manifest starts with \"apiVersion: v1\" and \"kind: Pod\"")
	}
	if gv, err := schema.ParseGroupVersion(is.APIVersion); err != nil || gv.Group != "" || gv.Version != "v1" {
		return nil, "", fmt.Errorf("apiVersion %q, kind %q cannot be run; expected apiVersion v1, kind Pod", is.APIVersion, is.Kind)
	}
	return raw, is.Kind, nil
}

// decode reads JSON into the pod. Unknown and repeated fields are warnings:
// upstream runs such pods too.
func decode(raw []byte, pod *v1.Pod, l *locator) manifest {
	strict, err := kjson.UnmarshalStrict(raw, pod)
	m := manifest{namespace: pod.Namespace, name: pod.Name}
	if err != nil {
		m.err = fmt.Errorf("read pod: %w", err)
		return m
	}
	for _, e := range strict {
		if text := e.Error(); !strings.HasPrefix(text, "duplicate field") { // told below, with lines
			m.warnings = append(m.warnings, l.explain(text))
		}
	}
	m.warnings = append(m.warnings, l.duplicates()...)
	return m
}

// finish makes a pod that can run of one that was read, or says why not.
func (m *manifest) finish(pod *v1.Pod, o origin, f Features, l *locator) {
	setDefaults(pod, f)
	if pod.Name == "" {
		m.err = errors.New("metadata.name: Required value: a pod needs a name")
		return
	}
	identify(pod, o)
	if errs := validate.Pod(pod, f.Options); len(errs) > 0 {
		m.err = invalid(errs, l)
		return
	}
	m.pod = pod
	if w := priorityWarning(&pod.Spec); w != "" {
		m.warnings = append(m.warnings, w)
	}
}

// maxErrors is how many errors of one manifest are told at once.
const maxErrors = 10

// invalid puts a manifest's errors into one, each with its line.
func invalid(errs field.ErrorList, l *locator) error {
	var s []string
	for i, e := range errs {
		if i == maxErrors {
			s = append(s, fmt.Sprintf("and %d more", len(errs)-i))
			break
		}
		text := e.Error()
		if line := l.line(e.Field); line > 0 {
			text = fmt.Sprintf("line %d: %s", line, text)
		}
		s = append(s, text)
	}
	return errors.New(strings.Join(s, "; "))
}

const (
	nodeCriticalClass    = "system-node-critical"
	nodeCriticalPriority = 2_000_001_000
)

// priorityWarning says where a static pod's priority will not do what its
// author means: nobody resolves class names for it.
func priorityWarning(spec *v1.PodSpec) string {
	class, priority := spec.PriorityClassName, spec.Priority
	switch {
	case priority == nil && class != "":
		return fmt.Sprintf("spec.priorityClassName %q has no effect without spec.priority: nobody looks the class up for a static pod, and its mirror pod may be refused", class)
	case priority != nil && class == "":
		return "spec.priority is set without spec.priorityClassName; the mirror pod is refused unless the default class has this priority"
	case priority != nil && (*priority != nodeCriticalPriority || class != nodeCriticalClass):
		return fmt.Sprintf("spec.priority is not %d with class %s: the API may evict the mirror pod, which does not stop the static pod", nodeCriticalPriority, nodeCriticalClass)
	}
	return ""
}

// Decode reads the manifest of one static pod as File does: the complete pod
// that would run on the node, warnings, or what is wrong with it. path is part
// of the pod's identity.
func Decode(data []byte, path, node string, f Features) (*v1.Pod, []string, error) {
	m := decodePod(data, origin{file: true, name: path, node: node}, f)
	return m.pod, m.warnings, m.err
}

// DecodeURL reads what a URL answered as HTTP does: one pod or a list. The
// error joins what is wrong with single pods.
func DecodeURL(data []byte, url, node string, f Features) ([]*v1.Pod, error) {
	manifests, err := decodeList(data, origin{name: url, node: node}, f)
	if err != nil {
		return nil, err
	}
	var pods []*v1.Pod
	var wrong []error
	for _, m := range manifests {
		if m.err != nil {
			wrong = append(wrong, m.err)
		} else {
			pods = append(pods, m.pod)
		}
	}
	return pods, errors.Join(wrong...)
}
