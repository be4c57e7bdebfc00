package explain

import "time"

// The socket speaks HTTP: GET /v1/pods answers with one Report as JSON, and
// with ?watch=true with one Report per line, now and after each change.

// SocketName is the socket's name below the kubelet's root directory.
const SocketName = "explain.sock"

const (
	podsPath   = "/v1/pods"
	watchQuery = "watch"
)

// Report is what the agent tells about all of its pods at one moment.
type Report struct {
	Time time.Time `json:"time"`
	Pods []Pod     `json:"pods"`
}

// Pod is an entry with what happened to the pod lately.
type Pod struct {
	Entry
	Events []Event `json:"events,omitempty"`
}

// Event is something that happened to a pod, oldest first in a list.
type Event struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"` // Normal or Warning
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
}
