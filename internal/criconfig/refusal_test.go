package criconfig

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What runtimes say when they refuse a container, and what a person reads.
func TestRefusal(t *testing.T) {
	for _, c := range []struct{ says, advises string }{
		{"failed to create containerd container: no users found", "runAsUser"},
		{"failed to create containerd container: unable to find user ghost: no matching entries in passwd file", "runAsUser"},
		{`failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: "nope": executable file not found in $PATH`, "check command"},
		{`runc create failed: unable to start container process: exec: "/bin/nope": stat /bin/nope: no such file or directory: unknown`, "check command"},
		{`runc create failed: unable to start container process: exec: "/etc/passwd": permission denied: unknown`, "mode"},
		{"OCI runtime create failed: executable file `none` not found in $PATH: No such file or directory", "check command"},
		{"OCI runtime create failed: open executable: Permission denied", "mode"},
		{"exec /bin/app: exec format error", "architecture"},
		{"something nobody has seen before", ""},
	} {
		err := Refusal(Start, fmt.Errorf("start container 1234: %w", status.Error(codes.Unknown, c.says)))
		e := asUserError(t, err)
		if e.Reason != "RunContainerError" || !strings.HasPrefix(e.Message, c.says) || !strings.Contains(e.Message, c.advises) ||
			c.advises == "" && e.Message != c.says {
			t.Errorf("%q became %q %q", c.says, e.Reason, e.Message)
		}
		if status.Code(errors.Unwrap(e)) != codes.Unknown {
			t.Errorf("the cause of %v is lost", e)
		}
	}
	for _, err := range []error{nil, context.DeadlineExceeded, status.Error(codes.Unavailable, "away")} {
		if got := Refusal(Create, err); got != err { //nolint:errorlint // the very same is wanted
			t.Errorf("%v became %v", err, got)
		}
	}
}
