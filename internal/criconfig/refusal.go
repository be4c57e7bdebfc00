package criconfig

import (
	"errors"
	"strings"

	"google.golang.org/grpc/status"

	"kubelet/internal/cri"
)

// Verb is a call of the runtime that makes a container.
type Verb string

// The verbs, by the reason of a container's waiting state when they fail.
const (
	Create Verb = reasonContainer
	Start  Verb = "RunContainerError"
)

// Refusal is the error of a runtime that did not create or start a container,
// with its reason, the runtime's own words, and what to do about it if that is
// known. An error that leaves the outcome open stays as it is.
func Refusal(verb Verb, err error) error {
	if err == nil || cri.IsUnknown(err) {
		return err
	}
	message := err.Error()
	// The words alone: status.FromError would put the call before them.
	if said, ok := errors.AsType[interface {
		error
		GRPCStatus() *status.Status
	}](err); ok {
		message = said.GRPCStatus().Message()
	}
	if advice := advice(message); advice != "" {
		message += ": " + advice
	}
	return &Error{Reason: string(verb), Message: message, Err: err}
}

// advice knows what runc, crun and containerd say. All of the words of a line
// have to be there; the first line that fits counts.
func advice(message string) string {
	message = strings.ToLower(message)
	for _, known := range [...]struct {
		words  []string
		advice string
	}{
		{[]string{"no users found"}, noUser},
		{[]string{"no matching entries in passwd file"}, noUser},
		{[]string{"unable to find user"}, noUser},
		{[]string{"no groups found"}, noGroup},
		{[]string{"unable to find group"}, noGroup},
		{[]string{"executable file", "not found in $path"}, noProgram},
		{[]string{"exec: \"", "no such file or directory"}, noProgram},
		{[]string{"exec: \"", "permission denied"}, notExecutable},
		{[]string{"open executable", "permission denied"}, notExecutable},
		{[]string{"exec format error"}, "the program is made for another architecture, or is a script without a first line #!"},
		{[]string{"chdir to cwd", "permission denied"}, "the container's user may not enter workingDir"},
		{[]string{"no command specified"}, "the image names no program to run: set command"},
		{[]string{"not a directory", "mount"}, "a volume that is a file is mounted on a directory of the image, or the other way round: check mountPath and subPath"},
		{[]string{"idmap", "not supported"}, noIDMap},
		{[]string{"mount_setattr", "invalid argument"}, noIDMap},
		{[]string{"apparmor", "profile"}, "load the profile on this node, or change appArmorProfile"},
		{[]string{"seccomp", "profile"}, "check the profile's file on this node"},
		{[]string{"no space left on device"}, "a disk of this node is full, or out of inodes"},
		{[]string{"container_linux", "out of memory"}, noMemory},
		{[]string{"container init was oom-killed"}, noMemory},
	} {
		fits := true
		for _, w := range known.words {
			fits = fits && strings.Contains(message, w)
		}
		if fits {
			return known.advice
		}
	}
	return ""
}

const (
	noUser        = "the image has no such user in /etc/passwd; set securityContext.runAsUser to a number, or build the image with that user"
	noGroup       = "the image has no such group in /etc/group; set securityContext.runAsGroup to a number"
	noProgram     = "the image has no such program, or it lacks its interpreter; check command and args"
	notExecutable = "the container's user may not execute that file: check its mode, or command"
	noIDMap       = "the file system of a volume cannot map user ids; use another one for the volume, or remove hostUsers: false"
	noMemory      = "the memory limit is too low for the container to start; raise resources.limits.memory"
)
