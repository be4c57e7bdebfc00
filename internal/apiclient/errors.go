package apiclient

import (
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Retryable says whether the same request may succeed later without anybody
// changing the request: no answer, an overloaded or failing server, or rights
// that the server has not learned of yet (the node authorizer learns of a
// pod's objects a moment after the pod was bound, and credentials rotate).
func Retryable(err error) bool {
	if err == nil {
		return false
	}
	if Unreachable(err) {
		return true
	}
	switch apierrors.ReasonForError(err) {
	case metav1.StatusReasonNotFound, metav1.StatusReasonAlreadyExists, metav1.StatusReasonConflict,
		metav1.StatusReasonGone, metav1.StatusReasonExpired, metav1.StatusReasonInvalid,
		metav1.StatusReasonBadRequest, metav1.StatusReasonMethodNotAllowed, metav1.StatusReasonNotAcceptable,
		metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnsupportedMediaType:
		return false
	}
	return true
}

// Unreachable says that no API server answered: the outcome of the request is
// unknown.
func Unreachable(err error) bool {
	if err == nil {
		return false
	}
	var status apierrors.APIStatus
	return !errors.As(err, &status)
}
