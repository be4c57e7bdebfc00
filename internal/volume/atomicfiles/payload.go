package atomicfiles

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"path"
	"strings"
)

// File is one file of a payload.
type File struct {
	Data []byte
	// Mode holds permission bits.
	Mode int32
	// User owns the file; nil for the agent's own.
	User *int64
}

// Payload is a set of files by path, relative and with slashes.
type Payload map[string]File

// Limits of Linux on a name and a path.
const (
	maxName = 255
	maxPath = 4096
)

// clean returns the payload with its paths in their shortest form, or why it
// cannot be written.
func (p Payload) clean() (Payload, error) {
	out := make(Payload, len(p))
	for name, file := range p {
		if err := checkPath(name); err != nil {
			return nil, err
		}
		short := path.Clean(name)
		if _, twice := out[short]; twice {
			return nil, fmt.Errorf("invalid path %q: another path of the volume means the same file", name)
		}
		out[short] = file
	}
	for name := range out {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := out[dir]; ok {
				return nil, fmt.Errorf("invalid path %q: %q is a file, not a directory", name, dir)
			}
		}
	}
	return out, nil
}

// checkPath refuses paths that lead out of the volume or into what is
// reserved.
func checkPath(name string) error {
	invalid := func(why string) error { return fmt.Errorf("invalid path %q: %s", name, why) }
	switch {
	case path.Clean(name) == ".":
		return invalid("it names no file")
	case path.IsAbs(name):
		return invalid("it must be relative")
	case len(name) > maxPath:
		return fmt.Errorf("invalid path %.40q…: longer than %d bytes", name, maxPath)
	case strings.ContainsRune(name, 0):
		return invalid("it holds a NUL")
	case strings.HasPrefix(path.Clean(name), reserved):
		return invalid("it must not begin with '..'")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return invalid("it must not contain '..'")
		}
		if len(part) > maxName {
			return fmt.Errorf("invalid path %.40q…: a name is longer than %d bytes", name, maxName)
		}
	}
	return nil
}

// seed makes sums of one process comparable; nothing depends on its value.
var seed = maphash.MakeSeed()

// Sum is a hash of the whole payload, to see within one process whether it
// changed.
func (p Payload) Sum() uint64 {
	var total uint64
	var h maphash.Hash
	h.SetSeed(seed)
	for name, file := range p {
		h.Reset()
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], uint64(len(name)))
		h.Write(b[:])
		h.WriteString(name)
		binary.LittleEndian.PutUint32(b[:], uint32(file.Mode))
		h.Write(b[:4])
		if file.User != nil {
			binary.LittleEndian.PutUint64(b[:], uint64(*file.User))
			h.Write(b[:])
		}
		h.Write(file.Data)
		total += h.Sum64() // the order of a map is not the payload's
	}
	return total + uint64(len(p))
}
