// Package explain owns the table that says why each pod is where it is: its
// stage, what it waits for and since when, the last error and the next retry.
// The pod workers write it, one entry per pod; conditions, the local socket
// behind `kubelet explain` and metrics read it.
package explain

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Stage is how far a pod has come.
type Stage string

// Stages in the order of a pod's life.
const (
	Source      Stage = "Source"      // the manifest or object cannot be used
	Previous    Stage = "Previous"    // an older pod of the same name is not gone yet
	Admission   Stage = "Admission"   // not accepted yet, or rejected
	Volumes     Stage = "Volumes"     // volumes are being set up
	Sandbox     Stage = "Sandbox"     // sandbox and network are being set up
	Image       Stage = "Image"       // an image is being pulled
	Container   Stage = "Container"   // a container is being created or started
	BackOff     Stage = "BackOff"     // a container crashed and waits to be restarted
	Running     Stage = "Running"     // everything that should run does
	Terminating Stage = "Terminating" // containers are being stopped
	Cleanup     Stage = "Cleanup"     // volumes, cgroup, sandbox are being removed
	Done        Stage = "Done"        // the pod has ended for good
)

// Entry is the explanation of one pod.
type Entry struct {
	UID       types.UID `json:"uid"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Stage     Stage     `json:"stage"`
	// Object is what the stage is about: a container, a volume, an image.
	Object string `json:"object,omitempty"`
	// WaitsFor says in a few words what has to happen next, and names the
	// call, file, object or person that it depends on.
	WaitsFor string `json:"waitsFor,omitempty"`
	// Since is when the pod came to this stage and object.
	Since time.Time `json:"since"`
	// LastError of this stage; empty once it passed.
	LastError string `json:"lastError,omitempty"`
	// Attempts that failed in this stage.
	Attempts int `json:"attempts,omitempty"`
	// NextRetry is when it is tried again without a wake-up; zero if only an
	// event brings it on.
	NextRetry time.Time `json:"nextRetry,omitzero"`
}
