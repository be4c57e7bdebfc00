package userns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"time"
)

// User is whose subordinate ids pods get.
const User = "kubelet"

// subIDsDeadline bounds the question for subordinate ids, which may go to a
// directory service.
const subIDsDeadline = 30 * time.Second

// NodeIDs returns the ids that pods of this node may have: the subordinate
// ids of the user kubelet (subuid(5)) as getsubids tells them, the same for
// users and groups. Without such a user or without the program they are all
// ids but the first perPod, which are the node's own.
//
// If the user exists, a failing getsubids is an error: a directory service
// that does not answer must not make pods run with ids that are another's.
func NodeIDs(ctx context.Context, perPod uint32) (Range, error) {
	everything := Range{First: perPod, Length: uint32(1<<32 - uint64(perPod))}
	var unknown user.UnknownUserError
	if _, err := user.Lookup(User); errors.As(err, &unknown) {
		return everything, nil
	} else if err != nil {
		return Range{}, fmt.Errorf("look up user %s: %w", User, err)
	}
	program, err := exec.LookPath("getsubids")
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return everything, nil
	}
	if err != nil {
		return Range{}, fmt.Errorf("find getsubids: %w", err)
	}
	return subIDs(ctx, program)
}

func subIDs(ctx context.Context, program string) (Range, error) {
	ctx, cancel := context.WithTimeout(ctx, subIDsDeadline)
	defer cancel()
	ask := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, program, append(args, User)...)
		cmd.WaitDelay = time.Second
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("ask getsubids for the subordinate ids of user %s: %w: %s", User, err, strings.TrimSpace(stderr.String()))
		}
		return out, nil
	}
	users, err := ask()
	if err != nil {
		return Range{}, err
	}
	groups, err := ask("-g")
	if err != nil {
		return Range{}, err
	}
	if !bytes.Equal(users, groups) {
		return Range{}, fmt.Errorf("the subordinate user ids of user %s (%q) differ from the group ids (%q): make the entries in /etc/subuid and /etc/subgid the same",
			User, bytes.TrimSpace(users), bytes.TrimSpace(groups))
	}
	return parseSubIDs(string(users))
}

// parseSubIDs reads the one line "0: kubelet 65536 7208960" of getsubids(1).
func parseSubIDs(text string) (Range, error) {
	fields := strings.Fields(text)
	if lines := strings.Count(strings.TrimSpace(text), "\n") + 1; len(fields) != 4 || lines != 1 {
		return Range{}, fmt.Errorf("user %s has to have one range of subordinate ids; getsubids said %q", User, strings.TrimSpace(text))
	}
	first, err1 := strconv.ParseUint(fields[2], 10, 32)
	length, err2 := strconv.ParseUint(fields[3], 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return Range{}, fmt.Errorf("read subordinate ids of user %s from %q: %w", User, strings.TrimSpace(text), err)
	}
	return Range{First: uint32(first), Length: uint32(length)}, nil
}
