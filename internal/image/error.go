package image

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// Waiting reasons of a container without its image, as the API knows them.
const (
	InvalidImageName          = "InvalidImageName"
	ImageInspectError         = "ImageInspectError"
	ErrImageNeverPull         = "ErrImageNeverPull"
	ErrImagePull              = "ErrImagePull"
	ImagePullBackOff          = "ImagePullBackOff"
	RegistryUnavailable       = "RegistryUnavailable"
	SignatureValidationFailed = "SignatureValidationFailed"
)

// Error says why an image is not there.
type Error struct {
	// Reason and Message are for the container's waiting state.
	Reason  string
	Message string
	// RetryAt is when asking again may help without any change; zero if only
	// a change helps (another name, policy or runtime).
	RetryAt time.Time
	Err     error // cause, if there is one
}

func (e *Error) Error() string { return e.Reason + ": " + e.Message }

func (e *Error) Unwrap() error { return e.Err }

// pullError translates the runtime's answer. A runtime that knows more about
// the cause puts one of the CRI's names in front of its message.
func pullError(image string, err error) *Error {
	message := plain(err)
	for _, known := range []struct {
		err   error
		cause string
	}{
		{crierrors.ErrRegistryUnavailable, "the registry is unavailable"},
		{crierrors.ErrSignatureValidationFailed, "the signature validation failed"},
	} {
		if detail, ok := strings.CutPrefix(message, known.err.Error()); ok {
			return &Error{Reason: known.err.Error(), Message: "image pull failed for " + image + " because " + known.cause + detail, Err: err}
		}
	}
	return &Error{Reason: ErrImagePull, Message: message, Err: err}
}

// plain is what the runtime said, without the words of the transport.
func plain(err error) string {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		var messages []string
		for _, e := range several.Unwrap() {
			messages = append(messages, plain(e))
		}
		return strings.Join(messages, "; ")
	}
	var answer interface{ GRPCStatus() *status.Status }
	if errors.As(err, &answer) {
		return answer.GRPCStatus().Message()
	}
	return err.Error()
}
