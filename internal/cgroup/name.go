package cgroup

import (
	"fmt"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// name of a cgroup: its elements from the top of the hierarchies down, before
// a driver spells them.
type name []string

func (n name) child(element string) name {
	return append(n[:len(n):len(n)], element)
}

func (n name) pod(uid types.UID) name { return n.child("pod" + string(uid)) }

// path is the directory below the mount point of each hierarchy, by driver:
//
//	cgroupfs  /kubepods/burstable/podUID
//	systemd   /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice
//
// A dash separates levels in systemd's slice names, so one within an element
// becomes an underscore (systemd.slice(5)).
func (n name) path(driver Driver) string {
	if driver != Systemd {
		return "/" + path.Join(n...)
	}
	var dir, prefix strings.Builder
	for i, element := range n {
		if i > 0 {
			prefix.WriteByte('-')
		}
		prefix.WriteString(strings.ReplaceAll(element, "-", "_"))
		dir.WriteByte('/')
		dir.WriteString(prefix.String())
		dir.WriteString(".slice")
	}
	return dir.String()
}

// parsePod takes the name of a directory directly below level n and returns
// the pod it belongs to.
func (n name) parsePod(dir string, driver Driver) (types.UID, bool) {
	s := dir
	if driver == Systemd {
		prefix := strings.TrimSuffix(path.Base(n.path(driver)), ".slice") + "-"
		var ok bool
		if s, ok = strings.CutPrefix(s, prefix); !ok {
			return "", false
		}
		if s, ok = strings.CutSuffix(s, ".slice"); !ok {
			return "", false
		}
		if strings.Contains(s, "-") {
			return "", false // a level further down
		}
		s = strings.ReplaceAll(s, "_", "-")
	}
	s, ok := strings.CutPrefix(s, "pod")
	uid := types.UID(s)
	if !ok || checkUID(uid) != nil {
		return "", false
	}
	return uid, true
}

// maxUID keeps "pod" + UID and systemd's longer forms within the 255 bytes of
// a unit or file name.
const maxUID = 128

// checkUID refuses UIDs that cannot be one element of a cgroup's name under
// both drivers. The API server's are UUIDs, but a static manifest may name
// anything.
func checkUID(uid types.UID) error {
	if uid == "" || len(uid) > maxUID {
		return fmt.Errorf("pod UID of %d bytes: must have 1 to %d", len(uid), maxUID)
	}
	for _, c := range []byte(uid) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && c != '-' && c != '.' {
			return fmt.Errorf("pod UID %q: only letters, digits, '-' and '.' can name a cgroup", string(uid))
		}
	}
	return nil
}

// parseRoot splits the configured cgroup root into elements. Any ".." is
// resolved within the hierarchy, so that nothing points out of it.
func parseRoot(root string) (name, error) {
	var n name
	for element := range strings.SplitSeq(path.Clean("/"+root), "/") {
		if element == "" {
			continue
		}
		if strings.ContainsAny(element, "\x00\n") {
			return nil, fmt.Errorf("cgroup root %q: invalid character", root)
		}
		n = n.child(element)
	}
	return n, nil
}
