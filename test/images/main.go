// Command images makes the container images of tests, samples and benchmarks
// from local parts: our own static Go programs and, if installed, Debian's
// busybox. No registry and no image tool is needed. It writes one archive per
// image that `ctr images import` takes.
//
//	go run ./test/images -o DIR
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"kubelet/test/images/oci"
)

// image is what one archive holds.
type image struct {
	file       string
	names      []string // further names are further entries of the same image
	entrypoint []string
	cmd        []string
	user       string
	env        []string
	files      []oci.File
}

func (i image) write(path string) error {
	return oci.Write(path, oci.Image{
		Names: i.names, Entrypoint: i.entrypoint, Cmd: i.cmd, User: i.user, Env: i.env, Layers: []*oci.Layer{oci.Files(i.files...)},
	})
}

func main() {
	out := flag.String("o", "", "folder for the tar files (required)")
	busybox := flag.String("busybox", "/bin/busybox", "static busybox; images that need it are left out if it is missing")
	flag.Parse()
	if *out == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out, *busybox); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(out, busybox string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("make output folder: %w", err)
	}
	agent, err := build("kubelet/test/images/agent")
	if err != nil {
		return err
	}
	pause, err := build("kubelet/test/images/pause")
	if err != nil {
		return err
	}
	health, err := build("kubelet/test/images/health")
	if err != nil {
		return err
	}
	images := []image{
		{
			file:       "pause.tar",
			names:      []string{"registry.k8s.io/pause:3.10.2", "registry.k8s.io/pause:3.6"},
			entrypoint: []string{"/pause"},
			user:       "65535:65535",
			files:      []oci.File{{Path: "pause", Mode: 0o755, Body: pause}},
		},
		{
			file:       "agent.tar",
			names:      []string{"localhost/test/agent:1", "localhost/test/agent:2"},
			entrypoint: []string{"/agent"},
			env:        []string{"IMAGE_ENV=from-image"},
			files:      append(skeleton(), oci.File{Path: "agent", Mode: 0o755, Body: agent}),
		},
		{
			file:       "health.tar",
			names:      []string{"localhost/test/health:1"},
			entrypoint: []string{"/health"},
			files:      append(skeleton(), oci.File{Path: "health", Mode: 0o755, Body: health}),
		},
	}
	if body, err := os.ReadFile(busybox); err == nil {
		shell := image{
			file:  "busybox.tar",
			names: []string{"registry.k8s.io/e2e-test-images/busybox:1.29-4", "docker.io/library/busybox:latest"},
			cmd:   []string{"sh"},
			files: append(skeleton(), busyboxFiles(busybox, body)...),
		}
		images = append(images, shell)
		// The same with other users: one by number, one by name, one that is
		// not in /etc/passwd.
		for _, user := range []string{"1000", "app", "ghost"} {
			other := shell
			other.file, other.names, other.user = "user-"+user+".tar", []string{"localhost/test/user-" + user + ":1"}, user
			images = append(images, other)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read busybox: %w", err)
	}
	for _, img := range images {
		if err := img.write(filepath.Join(out, img.file)); err != nil {
			return fmt.Errorf("write %s: %w", img.file, err)
		}
		fmt.Printf("%s: %s\n", img.file, strings.Join(img.names, ", "))
	}
	return nil
}

// build compiles one of our programs statically and returns its bytes.
func build(pkg string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "images")
	if err != nil {
		return nil, fmt.Errorf("make build folder: %w", err)
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "bin")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", bin, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w\n%s", pkg, err, output)
	}
	return os.ReadFile(bin)
}

// skeleton is the minimum that programs expect of a root file system.
func skeleton() []oci.File {
	return []oci.File{
		{Path: "etc", Mode: fs.ModeDir | 0o755},
		{Path: "etc/passwd", Mode: 0o644, Body: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n" +
			"app:x:1000:1000:app:/:/bin/sh\n")},
		{Path: "etc/group", Mode: 0o644, Body: []byte("root:x:0:\nnogroup:x:65534:\napp:x:1000:\nimage-group:x:50000:app\n")},
		{Path: "root", Mode: fs.ModeDir | 0o700},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "var", Mode: fs.ModeDir | 0o755},
	}
}

func busyboxFiles(path string, body []byte) []oci.File {
	files := []oci.File{
		{Path: "bin", Mode: fs.ModeDir | 0o755},
		{Path: "bin/busybox", Mode: 0o755, Body: body},
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return files
	}
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			files = append(files, oci.File{Path: "bin/" + name, Mode: 0o777, Link: "busybox"})
		}
	}
	return files
}
