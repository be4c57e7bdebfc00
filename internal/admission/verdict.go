// Package admission says whether a pod may run on this node: accept, reject
// or wait. Each check is a pure function in a file of its own; the queue asks
// them for one pod at a time, pods that run already first, then oldest first.
// It owns the table of accepted pods; an accepted pod is never judged again.
package admission

// Decision is the outcome of admission.
type Decision int

// Decisions.
const (
	Accept Decision = iota
	Reject
	Wait
)

// Verdict is the answer about one pod. Reason and Message are the pod
// status's for a rejection, and the explanation's while waiting.
type Verdict struct {
	Decision Decision
	Reason   string
	Message  string
	// Check names the check that decided, empty on acceptance.
	Check string
}

// Remark is what a check has to say about a pod once it is accepted or
// rejected, without having decided that: an event, and a line in the log if
// there is something to log.
type Remark struct {
	Type, Reason, Message string // of the event
	Log                   []any  // keys and values
}
