package criconfig

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	v1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"kubelet/internal/volume"
)

// maxEnvFile bounds what is read of a file of variables, in bytes: as much as
// an object of the API may hold.
const maxEnvFile = 1 << 20

// fileKey gives a variable from a file that an earlier container wrote into
// an emptyDir volume (KEP-3721). ok is false if the file or the key is
// missing and optional. No path leads out of the volume.
func fileKey(mounts volume.Mounts, ref *v1.FileKeySelector) (value string, ok bool, err error) {
	mount := mounts[ref.VolumeName]
	if mount.Path == "" {
		return "", false, containerErrorf("fileKeyRef: the pod has no volume %q that is set up", ref.VolumeName)
	}
	content, err := readEnvFile(mount.Path, ref.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && isTrue(ref.Optional):
		return "", false, nil
	case errors.Is(err, fs.ErrNotExist):
		return "", false, containerErrorf("fileKeyRef: volume %q has no file %s; an init container has to write it, or mark the reference optional",
			ref.VolumeName, ref.Path)
	case err != nil:
		return "", false, containerErrorf("fileKeyRef: read file %s of volume %q: %v", ref.Path, ref.VolumeName, err)
	}
	value, ok, err = envFileValue(content, ref.Key)
	switch {
	case err != nil:
		return "", false, containerErrorf("fileKeyRef: file %s of volume %q, %v", ref.Path, ref.VolumeName, err)
	case !ok && !isTrue(ref.Optional):
		return "", false, containerErrorf("fileKeyRef: environment variable key %q not found in file %s of volume %q; add it or mark the reference optional",
			ref.Key, ref.Path, ref.VolumeName)
	}
	return value, ok, nil
}

// readEnvFile reads a small regular file below dir.
func readEnvFile(dir, path string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("open volume: %w", err)
	}
	defer root.Close()
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not hang us
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", errors.New("it is no regular file")
	case info.Size() > maxEnvFile:
		return "", fmt.Errorf("it has %d bytes, more than %d", info.Size(), maxEnvFile)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxEnvFile))
	return string(content), err
}

// envFileValue finds a variable in a file that is a strict subset of shell
// syntax: lines NAME='value', where the value may span lines and is taken as
// it stands; comments after #; blank lines. White space after the = makes an
// empty value, as in a shell. The first line of a name counts, and what
// follows it is not looked at.
func envFileValue(content, key string) (value string, found bool, err error) {
	content = strings.ReplaceAll(content, "\r\n", "\n")
	for line := 1; content != ""; line++ {
		text, rest, _ := strings.Cut(content, "\n")
		content = rest
		text = strings.TrimLeft(text, " \t")
		if text == "" || text[0] == '#' {
			continue
		}
		name, assigned, ok := strings.Cut(text, "=")
		switch {
		case !ok:
			return "", false, fmt.Errorf("line %d: no = after the name", line)
		case name == "":
			return "", false, fmt.Errorf("line %d: no name before =", line)
		case strings.TrimRight(name, " \t") != name:
			return "", false, fmt.Errorf("line %d: white space before =", line)
		case assigned == "" || !strings.ContainsRune(" \t'", rune(assigned[0])):
			return "", false, fmt.Errorf("line %d: the value is not in single quotes", line)
		}
		if assigned[0] == '\'' {
			begins := line
			quoted := assigned[1:]
			for !strings.Contains(quoted, "'") {
				if content == "" {
					return "", false, fmt.Errorf("line %d: the single quote is not closed", begins)
				}
				text, rest, _ := strings.Cut(content, "\n")
				content = rest
				quoted += "\n" + text
				line++
			}
			var after string
			value, after, _ = strings.Cut(quoted, "'")
			if after = strings.TrimLeft(after, " \t"); after != "" && after[0] != '#' {
				return "", false, fmt.Errorf("line %d: text after the closing quote", line)
			}
		} else {
			value = ""
		}
		if name == key {
			return value, true, nil
		}
	}
	return "", false, nil
}
