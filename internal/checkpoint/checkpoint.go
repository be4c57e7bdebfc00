// Package checkpoint writes and reads the small files in which the agent keeps
// what nothing else on the node remembers: accepted pods, final states,
// journals. It owns the format and the way of writing, not the files: each
// has one owner, who is its only writer.
//
// A file is one line of header and a payload:
//
//	kubelet-checkpoint 1 <version> <length> <SHA-256 of version and payload, hex>
//	<payload>
//
// so a payload of text can be read by a person. The version is the owner's, of
// the payload's schema. A write goes to a temporary file in the same
// directory, is synced, renamed over the old file and the directory synced: a
// reader sees the old content or the new one, whatever instruction or byte the
// writer was killed at, and after Write has returned the new one also over a
// power failure. What is on disk is not trusted: a file that was cut, changed
// or put there by somebody else gives an error that names it.
package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxSize is the largest payload in bytes. It keeps a hostile file from
// filling the memory of the reader.
const MaxSize = 16 << 20

const (
	magic  = "kubelet-checkpoint"
	format = 1
	// maxHeader is more than the longest header: magic, three numbers, a sum.
	maxHeader = 160

	tempPrefix = "."
	tempSuffix = ".checkpoint-tmp"
)

// CorruptError says that a file is not a whole checkpoint.
type CorruptError struct {
	Path   string
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("read checkpoint %s: corrupt: %s", e.Path, e.Reason)
}

// VersionError says that a file was written by a newer agent, with a schema
// that this one does not know. The file is whole and must not be overwritten
// lightly.
type VersionError struct {
	Path    string
	Version uint32
	// Newest version that the reader knows.
	Newest uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("read checkpoint %s: version %d is newer than %d, the newest this agent knows", e.Path, e.Version, e.Newest)
}

// Write replaces the file at path by one with this payload, durably. The
// directory must exist. The file's mode is 0600. A path has one writer at a
// time. After an error the old content or the new one is there, whole.
func Write(path string, version uint32, payload []byte) error {
	if err := write(path, version, payload); err != nil {
		return fmt.Errorf("write checkpoint %s: %w", path, err)
	}
	return nil
}

// WriteForeign replaces the file at path by one with just this content, in the
// way of Write. It is for files whose format is another program's.
func WriteForeign(path string, content []byte) error {
	if err := replace(path, content); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// ReadForeign returns the content of a file whose format is another program's.
// The error is fs.ErrNotExist if there is none.
func ReadForeign(path string) ([]byte, error) { return readFile(path) }

func write(path string, version uint32, payload []byte) error {
	if len(payload) > MaxSize {
		return fmt.Errorf("payload of %d bytes is larger than %d", len(payload), MaxSize)
	}
	return replace(path, encode(version, payload))
}

func replace(path string, content []byte) error {
	temp := tempName(path)
	// What a killed writer left is in the way of O_EXCL, which in turn never
	// follows a link that somebody put there.
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp) // else the next Write or Clean does it
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Read returns the payload and the version of its schema. The error is
// fs.ErrNotExist if there is no file, *CorruptError if it is not a whole
// checkpoint, *VersionError if its version is newer than newest, or that of
// the file system; each names the file.
func Read(path string, newest uint32) (payload []byte, version uint32, err error) {
	data, err := readFile(path)
	if err != nil {
		return nil, 0, err
	}
	payload, version, reason := decode(data)
	if reason != "" {
		return nil, 0, &CorruptError{Path: path, Reason: reason}
	}
	if version > newest {
		return nil, version, &VersionError{Path: path, Version: version, Newest: newest}
	}
	return payload, version, nil
}

func readFile(path string) ([]byte, error) {
	// A link could lead anywhere; a FIFO would block the open without
	// O_NONBLOCK.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, &CorruptError{Path: path, Reason: "a symbolic link, not a file"}
	} else if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, &CorruptError{Path: path, Reason: "not a regular file"}
	}
	if info.Size() > maxHeader+MaxSize {
		return nil, &CorruptError{Path: path, Reason: fmt.Sprintf("%d bytes are too many", info.Size())}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxHeader+MaxSize))
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	return data, nil
}

// Remove deletes the file durably. It succeeds if there is none.
func Remove(path string) error {
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove checkpoint: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// Clean removes what killed writers left in the directory. Call it before the
// first Write; a directory that does not exist is clean.
func Clean(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("clean checkpoints: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix) {
			errs = append(errs, os.Remove(filepath.Join(dir, name)))
		}
	}
	return errors.Join(errs...)
}

// tempName is the same for every write of a path, so that killed writers
// leave one file at most.
func tempName(path string) string {
	dir, name := filepath.Split(path)
	return dir + tempPrefix + name + tempSuffix
}

func encode(version uint32, payload []byte) []byte {
	out := make([]byte, 0, maxHeader+len(payload))
	out = append(out, header(version, payload)...)
	out = append(out, '\n')
	return append(out, payload...)
}

func header(version uint32, payload []byte) string {
	return fmt.Sprintf("%s %d %d %d %s", magic, format, version, len(payload), sum(version, payload))
}

// decode returns why data is not a checkpoint, or "".
func decode(data []byte) (payload []byte, version uint32, reason string) {
	line, payload, found := bytes.Cut(data[:min(len(data), maxHeader)], []byte("\n"))
	if !found {
		return nil, 0, "no header, or cut within it"
	}
	payload = data[len(line)+1:]
	fields := strings.Split(string(line), " ")
	if len(fields) != 5 || fields[0] != magic {
		return nil, 0, "no checkpoint header"
	}
	if fields[1] != strconv.Itoa(format) {
		return nil, 0, fmt.Sprintf("unknown file format %q", fields[1])
	}
	v, err := strconv.ParseUint(fields[2], 10, 32)
	if err != nil {
		return nil, 0, fmt.Sprintf("version %q is not a number", fields[2])
	}
	length, err := strconv.ParseUint(fields[3], 10, 32)
	if err != nil {
		return nil, 0, fmt.Sprintf("length %q is not a number", fields[3])
	}
	if uint64(len(payload)) != length {
		return nil, 0, fmt.Sprintf("%d bytes of payload, header says %d", len(payload), length)
	}
	version = uint32(v)
	if string(line) != header(version, payload) {
		return nil, 0, "checksum does not match"
	}
	return payload, version, ""
}

// sum covers the version, so that a changed digit of it does not go unseen.
func sum(version uint32, payload []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d\n", version)
	h.Write(payload)
	return hex.EncodeToString(h.Sum(nil))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
