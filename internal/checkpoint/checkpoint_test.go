package checkpoint

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadsWhatWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pods")
	for _, payload := range []string{"", "one", "two\nlines\n", strings.Repeat("x", 1<<20)} {
		if err := Write(path, 3, []byte(payload)); err != nil {
			t.Fatal(err)
		}
		got, version, err := Read(path, 5)
		if err != nil || version != 3 || string(got) != payload {
			t.Fatalf("read %d bytes, version %d, %v; wrote %d bytes, version 3", len(got), version, err, len(payload))
		}
	}
	if info, _ := os.Stat(path); info.Mode() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path); err != nil {
		t.Errorf("second Remove: %v", err)
	}
	if _, _, err := Read(path, 5); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want one that says the file %s does not exist", err, path)
	}
}

// A writer killed after any number of bytes leaves the old content readable,
// and the next write works.
func TestWriterCutAtEachByte(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pods")
	old, next := []byte(`{"old":1}`), []byte(`{"new":2}`)
	whole := encode(1, next)
	for n := 0; n <= len(whole); n++ {
		if err := Write(path, 1, old); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(tempName(path), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _, err := Read(path, 1); err != nil || !bytes.Equal(got, old) {
			t.Fatalf("after %d bytes: read %q, %v; want the old content", n, got, err)
		}
		if n%2 == 0 { // both an owner who cleans and one who writes at once
			if err := Clean(dir); err != nil {
				t.Fatal(err)
			}
		}
		if err := Write(path, 1, next); err != nil {
			t.Fatal(err)
		}
		if got, _, err := Read(path, 1); err != nil || !bytes.Equal(got, next) {
			t.Fatalf("after %d bytes and another write: read %q, %v", n, got, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Fatalf("after %d bytes: left behind %v", n, entries)
		}
	}
}

// A file system that loses the tail of a file, or changes a bit, is noticed.
func TestDamageIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pods")
	whole := encode(1, []byte("the payload\n"))
	corrupt := func(what string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := Read(path, 1)
		var c *CorruptError
		if !errors.As(err, &c) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want a CorruptError that names %s", what, err, path)
		}
	}
	for n := range whole {
		corrupt("cut", whole[:n])
		for bit := range 8 {
			flipped := bytes.Clone(whole)
			flipped[n] ^= 1 << bit
			corrupt("flipped", flipped)
		}
	}
	corrupt("longer", append(bytes.Clone(whole), 'x'))
	corrupt("garbage", bytes.Repeat([]byte{0}, 4096))
	corrupt("no newline", bytes.Repeat([]byte("a"), 4096))
}

func TestHostileFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pods")
	secret := filepath.Join(dir, "secret")
	if err := Write(secret, 1, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	plant := map[string]func() error{
		"link":      func() error { return os.Symlink(secret, path) },
		"fifo":      func() error { return unix.Mkfifo(path, 0o600) },
		"directory": func() error { return os.Mkdir(path, 0o700) },
		"huge": func() error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(path, 1<<40)
		},
	}
	for name, f := range plant {
		t.Run(name, func(t *testing.T) {
			defer os.Remove(path)
			if err := f(); err != nil {
				t.Fatal(err)
			}
			_, _, err := Read(path, 1)
			var c *CorruptError
			if !errors.As(err, &c) {
				t.Errorf("error %v, want CorruptError", err)
			}
		})
	}

	// A link where the temporary file goes is not written through.
	if err := os.Symlink(secret, tempName(path)); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, 1, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := Read(secret, 1); string(got) != "secret" {
		t.Errorf("the link's target now holds %q", got)
	}
}

func TestNewerVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pods")
	if err := Write(path, 7, []byte("x")); err != nil {
		t.Fatal(err)
	}
	_, _, err := Read(path, 6)
	var v *VersionError
	if !errors.As(err, &v) || v.Version != 7 || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want a VersionError for 7 that names the file", err)
	}
}

func TestTooLarge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pods")
	if err := Write(path, 1, make([]byte, MaxSize+1)); err == nil {
		t.Error("wrote more than MaxSize")
	}
	if err := Write(path, 1, make([]byte, MaxSize)); err != nil {
		t.Fatal(err)
	}
	if got, _, err := Read(path, 1); err != nil || len(got) != MaxSize {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(1, []byte("x")))
	f.Add([]byte("kubelet-checkpoint 1 1 0 \n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		payload, version, reason := decode(data)
		if reason == "" && !bytes.Equal(encode(version, payload), data) {
			t.Errorf("accepted %q, which is not how it is written", data)
		}
	})
}
