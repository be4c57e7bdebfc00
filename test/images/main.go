// Command images makes the container images of tests, samples and benchmarks
// from local parts: our own static Go programs and, if installed, Debian's
// busybox. No registry and no image tool is needed. It writes one OCI image
// layout per image as a tar file that `ctr images import` takes; the layout
// names its image by the annotations that containerd reads.
//
//	go run ./test/images -o DIR
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// image is what one tar file holds.
type image struct {
	file       string
	names      []string // further names are further manifests entries of the same image
	entrypoint []string
	cmd        []string
	user       string
	env        []string
	files      []file
}

// file is a file, directory (mode has the directory bit) or link of the layer.
type file struct {
	path string
	mode fs.FileMode
	body []byte
	link string
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
			files:      []file{{path: "pause", mode: 0o755, body: pause}},
		},
		{
			file:       "agent.tar",
			names:      []string{"localhost/test/agent:1", "localhost/test/agent:2"},
			entrypoint: []string{"/agent"},
			env:        []string{"IMAGE_ENV=from-image"},
			files:      append(skeleton(), file{path: "agent", mode: 0o755, body: agent}),
		},
		{
			file:       "health.tar",
			names:      []string{"localhost/test/health:1"},
			entrypoint: []string{"/health"},
			files:      append(skeleton(), file{path: "health", mode: 0o755, body: health}),
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
func skeleton() []file {
	return []file{
		{path: "etc", mode: fs.ModeDir | 0o755},
		{path: "etc/passwd", mode: 0o644, body: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n" +
			"app:x:1000:1000:app:/:/bin/sh\n")},
		{path: "etc/group", mode: 0o644, body: []byte("root:x:0:\nnogroup:x:65534:\napp:x:1000:\nimage-group:x:50000:app\n")},
		{path: "root", mode: fs.ModeDir | 0o700},
		{path: "tmp", mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{path: "var", mode: fs.ModeDir | 0o755},
	}
}

func busyboxFiles(path string, body []byte) []file {
	files := []file{
		{path: "bin", mode: fs.ModeDir | 0o755},
		{path: "bin/busybox", mode: 0o755, body: body},
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return files
	}
	for _, name := range strings.Fields(string(applets)) {
		if name != "busybox" {
			files = append(files, file{path: "bin/" + name, mode: 0o777, link: "busybox"})
		}
	}
	return files
}

// The types below are the parts of the OCI image specification that are
// written here.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func (i image) write(path string) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	put := func(name string, body []byte) error {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err := tw.Write(body)
		return err
	}
	blob := func(mediaType string, body []byte) (descriptor, error) {
		sum := fmt.Sprintf("%x", sha256.Sum256(body))
		return descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: len(body)}, put("blobs/sha256/"+sum, body)
	}
	blobJSON := func(mediaType string, v any) (descriptor, error) {
		body, err := json.Marshal(v)
		if err != nil {
			return descriptor{}, err
		}
		return blob(mediaType, body)
	}

	layerDesc, err := blob("application/vnd.oci.image.layer.v1.tar", layer)
	if err != nil {
		return err
	}
	configDesc, err := blobJSON("application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Entrypoint": i.entrypoint, "Cmd": i.cmd, "User": i.user, "WorkingDir": "/",
			"Env": append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, i.env...),
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layerDesc.Digest}},
	})
	if err != nil {
		return err
	}
	manifest, err := blobJSON("application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        configDesc,
		"layers":        []descriptor{layerDesc},
	})
	if err != nil {
		return err
	}
	var manifests []descriptor
	for _, name := range i.names {
		d := manifest
		d.Annotations = map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
		manifests = append(manifests, d)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": manifests})
	if err != nil {
		return err
	}
	if err := put("index.json", index); err != nil {
		return err
	}
	if err := put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	temp := path + ".tmp"
	if err := os.WriteFile(temp, out.Bytes(), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func (i image) layer() ([]byte, error) {
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, f := range i.files {
		h := &tar.Header{Name: f.path, Mode: int64(f.mode.Perm()), Size: int64(len(f.body)), Typeflag: tar.TypeReg}
		switch {
		case f.mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, f.path+"/"
			if f.mode&fs.ModeSticky != 0 {
				h.Mode |= 0o1000
			}
		case f.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		if err := tw.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := tw.Write(f.body); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), tw.Close()
}
