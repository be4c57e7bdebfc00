package cri

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// IsNotFound says whether the runtime answered that it has no such sandbox,
// container or image.
func IsNotFound(err error) bool { return err != nil && status.Code(err) == codes.NotFound }

// IsUnimplemented says whether the runtime has no such call.
func IsUnimplemented(err error) bool { return err != nil && status.Code(err) == codes.Unimplemented }

// IsUnknown says whether the outcome of the call is not known: it ran past
// its deadline, was cancelled, or the connection broke. What it asked for may
// have happened, may still happen, or may never; look before trying again.
func IsUnknown(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	switch s.Code() {
	case codes.DeadlineExceeded, codes.Canceled, codes.Unavailable:
		return true
	case codes.Unknown:
		// Runtimes wrap a deadline of the calls that they make themselves
		// into errors without a code.
		return strings.Contains(s.Message(), context.DeadlineExceeded.Error()) ||
			strings.Contains(s.Message(), context.Canceled.Error())
	}
	return false
}

// IsNameReserved says whether a sandbox or container of the same metadata
// (name, pod, attempt) exists already or is still being made by an earlier
// call. containerd and CRI-O tell it by the message alone.
func IsNameReserved(err error) bool {
	if err == nil {
		return false
	}
	s, ok := status.FromError(err)
	return ok && (s.Code() == codes.AlreadyExists || strings.Contains(s.Message(), "is reserved"))
}
