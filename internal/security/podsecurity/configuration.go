// Package podsecurity judges pods by the node's own security policy: the Pod
// Security Standards
// (https://kubernetes.io/docs/concepts/security/pod-security-standards/) at a
// level of one's choice, evaluated by k8s.io/pod-security-admission, and limits
// of one's own. It owns the policy that is in force and the kind of file that
// it is written in; it reads nothing but the pods it is given and, to follow
// changes, the file. It writes nothing.
//
// Rules are about the spec and the annotations of a pod as the kubelet runs it,
// init and ephemeral containers included: for a static pod the manifest with
// its defaults, for others the API object. Mirror pods are not judged, their
// static pods are.
package podsecurity

// What a file of this kind says of itself.
const (
	APIVersion = "podsecurity.kubelet/v1alpha1"
	Kind       = "PodSecurityConfiguration"
)

// Configuration is the file of --pod-security-config.
type Configuration struct {
	APIVersion  string   `json:"apiVersion"`
	Kind        string   `json:"kind"`
	PodSecurity Settings `json:"podSecurity"`
}

// Settings are a rule for each mode, and who is exempt from all of them. The
// zero value allows everything.
type Settings struct {
	// Enforce rejects pods, Audit records an event and a log line, Warn an
	// event.
	Enforce    Rules      `json:"enforce"`
	Audit      Rules      `json:"audit"`
	Warn       Rules      `json:"warn"`
	Exemptions Exemptions `json:"exemptions"`
}

// Rules are what pods have to keep to in one mode.
type Rules struct {
	// Level of the Pod Security Standards: privileged (the default), baseline
	// or restricted.
	Level string `json:"level"`
	// Version of the standards: v1.N, or latest (the default).
	Version string `json:"version"`
	// Limits forbid more than the level does; they allow nothing that it
	// forbids.
	Limits Limits `json:"limits"`
}

// Limits are lists of what is allowed. A list that is not given (nil) limits
// nothing, an empty one allows nothing.
type Limits struct {
	HostPaths []HostPath `json:"hostPaths"`
	// Capabilities that containers may add and have to drop.
	Capabilities Capabilities `json:"capabilities"`
	// VolumeTypes by their names in a manifest: configMap, emptyDir.
	VolumeTypes []string `json:"volumeTypes"`
	// Images that containers and image volumes may use: a registry, or the
	// beginning of a repository. Parts of the host may be patterns.
	Images []string `json:"images"`
}

// HostPath is a directory of the node that pods may mount, with all below.
type HostPath struct {
	Path string `json:"path"`
	// ReadOnly asks for volumeMounts that are.
	ReadOnly bool `json:"readOnly"`
}

// Capabilities by their names without CAP_; ALL stands for all.
type Capabilities struct {
	AllowAdd    []string `json:"allowAdd"`
	RequireDrop []string `json:"requireDrop"`
}

// Exemptions name the pods that no rule applies to.
type Exemptions struct {
	Namespaces     []string `json:"namespaces"`
	RuntimeClasses []string `json:"runtimeClasses"`
	// StaticPods as namespace/name, the name as in the manifest, without the
	// node's; "*" for all static pods. Pods of the API are never meant.
	StaticPods []string `json:"staticPods"`
}
