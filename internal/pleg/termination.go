package pleg

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
	"kubelet/internal/logs"
)

// Limits of termination messages (API reference, terminationMessagePath and
// terminationMessagePolicy).
const (
	maxMessage     = 4 << 10  // of one container
	maxPodMessages = 12 << 10 // of all containers of a pod together
	maxLogMessage  = 2 << 10  // taken from the end of a log
	maxLogLines    = 80

	// logWindow is how much of a log's end is looked at: a runtime cuts lines
	// at 16 KiB, and each line has a header of less than 64 bytes.
	logWindow = 24 << 10
)

// terminationMessage returns what a container that ended left behind: what
// the runtime says, then the end of the termination message file, or, if that
// is empty, the container failed and its policy says so, the end of its log.
// names is how many containers of the pod share the limit. A file that cannot
// be read is named in the message, as upstream does it.
func terminationMessage(s *runtimeapi.ContainerStatus, names int) string {
	limit := min(maxMessage, maxPodMessages/max(names, 1))
	note := ""
	file, found := messageFile(s)
	if found {
		data, err := readTail(file, int64(limit))
		switch {
		case err == nil:
			note = clean(data)
		case !errors.Is(err, os.ErrNotExist):
			note = fmt.Sprintf("Error on reading termination log %s: %v", file, err)
		}
	}
	if note == "" && s.GetAnnotations()[cri.AnnotationTerminationMessagePolicy] == string(v1.TerminationMessageFallbackToLogsOnError) &&
		s.GetExitCode() != 0 && s.GetReason() != "StartError" && s.GetReason() != "ContainerCannotRun" && s.GetLogPath() != "" {
		data, err := logs.Window(s.GetLogPath(), logWindow)
		if err == nil {
			note = clean(logTail(data))
		} else {
			note = fmt.Sprintf("Error on reading termination message from logs: %v", err)
		}
	}
	switch said := clean([]byte(s.GetMessage())); {
	case said == "":
	case note == "":
		note = said
	default:
		note = said + ": " + note
	}
	return cut(note, limit)
}

// messageFile finds the host's file behind the container's termination
// message path.
func messageFile(s *runtimeapi.ContainerStatus) (string, bool) {
	inside := s.GetAnnotations()[cri.AnnotationTerminationMessagePath]
	if inside == "" {
		return "", false
	}
	if !path.IsAbs(inside) {
		inside = "/" + inside
	}
	for _, m := range s.GetMounts() {
		if m.GetContainerPath() == inside && m.GetHostPath() != "" {
			return m.GetHostPath(), true
		}
	}
	return "", false
}

// readTail reads the last max bytes of a file that others can write. It
// follows no link, and takes nothing but a regular file: a device or a FIFO
// could block or have side effects.
func readTail(name string, max int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: it is not a regular file", name)
	}
	data := make([]byte, min(max, info.Size()))
	n, err := f.ReadAt(data, info.Size()-int64(len(data)))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return data[:n], nil
}

// logTail returns the contents of the last lines of a log in the CRI format
// ("time stream tags content"), of which window is the end.
func logTail(window []byte) []byte {
	lines := bytes.Split(bytes.TrimSuffix(window, []byte("\n")), []byte("\n"))
	var kept [][]byte // last first
	size, full := 0, 0
	for i := len(lines) - 1; i >= 0 && size < maxLogMessage; i-- {
		content, partial, ok := logs.Content(lines[i])
		if !ok {
			continue // cut off at the window's beginning, or not a log line
		}
		if !partial {
			if full == maxLogLines {
				break
			}
			full++
			content = append(content[:len(content):len(content)], '\n')
		}
		kept = append(kept, content)
		size += len(content)
	}
	var out []byte
	for i := len(kept) - 1; i >= 0; i-- {
		out = append(out, kept[i]...)
	}
	return out[max(0, len(out)-maxLogMessage):]
}

// clean makes text of bytes that a container wrote; the API takes UTF-8 only.
func clean(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }

// cut shortens s to max bytes, keeping characters whole.
func cut(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max]
}
