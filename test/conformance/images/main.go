// Command images makes the container images of the upstream end-to-end suite,
// under their upstream names, from local parts: the upstream test programs, a
// small Debian root and its static busybox. They stand in for what cannot be
// pulled here; test/setup/conformance.sh makes the parts.
//
//	go run ./test/conformance/images -o FILE -parts DIR
//
// The names and tags are those of test/utils/image/manifest.go of v1.37.2.
package main

import (
	"archive/tar"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"kubelet/test/images/oci"
)

func main() {
	out := flag.String("o", "", "the archive to write (required)")
	parts := flag.String("parts", "", "folder with agnhost, nonewprivs, sh and root (required)")
	pause := flag.String("pause", "", "the archive of the pause image (required)")
	source := flag.String("kubernetes", "", "source of k8s.io/kubernetes (required)")
	flag.Parse()
	if *out == "" || *parts == "" || *pause == "" || *source == "" {
		flag.Usage()
		os.Exit(2)
	}
	images, err := images(*parts, *pause, *source)
	if err == nil {
		err = oci.Write(*out, images...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
	for _, i := range images {
		fmt.Println(strings.Join(i.Names, ", "))
	}
}

const registry = "registry.k8s.io/e2e-test-images/"

func images(parts, pause, source string) ([]oci.Image, error) {
	var failed error
	read := func(path string) []byte {
		body, err := os.ReadFile(path)
		failed = errors.Join(failed, err)
		return body
	}
	agnhost, nnp := read(filepath.Join(parts, "agnhost")), read(filepath.Join(parts, "nonewprivs"))
	shell := filepath.Join(parts, "root/usr/bin/busybox")
	busybox, bash, sh := read(shell), read(filepath.Join(parts, "root/bin/bash-static")), read(filepath.Join(parts, "sh"))
	applets, err := exec.Command(shell, "--list").Output()
	failed = errors.Join(failed, err)
	porter := filepath.Join(source, "test/images/agnhost/porter")
	cert, key := read(filepath.Join(porter, "localhost.crt")), read(filepath.Join(porter, "localhost.key"))
	pauseImage, err := registryFiles(pause)
	if failed = errors.Join(failed, err); failed != nil {
		return nil, failed
	}

	root := oci.Tree(filepath.Join(parts, "root"))
	agnhostLayer := oci.Files(append([]oci.File{
		{Path: "agnhost", Mode: 0o755, Body: agnhost},
		{Path: "agnhost-2", Mode: 0o777, Link: "agnhost"},
		{Path: "uploads", Mode: fs.ModeDir | 0o755},
		{Path: "localhost.crt", Mode: 0o644, Body: cert},
		{Path: "localhost.key", Mode: 0o600, Body: key},
		{Path: "etc/passwd", Mode: 0o644, Body: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n" +
			"user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n")},
		{Path: "etc/group", Mode: 0o644, Body: []byte("root:x:0:\nnogroup:x:65534:\nuser-defined-in-image:x:1000:\n" +
			"group-defined-in-image:x:50000:user-defined-in-image\n")},
	}, pauseImage...)...)
	nginx := oci.Image{
		Names:  []string{registry + "nginx:1.27.0-2", registry + "nginx:1.28.0-2"},
		Cmd:    []string{"nginx", "-g", "daemon off;"},
		Layers: []*oci.Layer{root},
	}
	return []oci.Image{
		{
			Names:      []string{registry + "agnhost:2.66.1", registry + "agnhost:2.55"},
			Entrypoint: []string{"/agnhost"},
			Cmd:        []string{"pause"},
			Layers:     []*oci.Layer{root, agnhostLayer},
		},
		{
			Names:  []string{registry + "busybox:1.37.0-2"},
			Cmd:    []string{"sh"},
			Layers: []*oci.Layer{oci.Files(busyboxFiles(busybox, bash, sh, strings.Fields(string(applets)))...)},
		},
		nginx,
		{Names: []string{registry + "nonroot:1.5"}, User: "1234", Cmd: []string{"/bin/bash"}, Layers: []*oci.Layer{root}},
		{
			Names:  []string{registry + "ipc-utils:1.4", registry + "glibc-dns-testing:2.1.1"},
			Cmd:    []string{"/bin/sh"},
			Layers: []*oci.Layer{root},
		},
		{
			Names: []string{registry + "nonewprivs:1.4"},
			Cmd:   []string{"nnp"},
			Layers: []*oci.Layer{root, oci.Files(
				oci.File{Path: "usr/local/bin/nnp", Mode: fs.ModeSetuid | 0o755, Body: nnp},
			)},
		},
	}, nil
}

// busyboxFiles are those of the busybox image.
func busyboxFiles(busybox, bash, sh []byte, applets []string) []oci.File {
	dir := func(path string, mode fs.FileMode) oci.File { return oci.File{Path: path, Mode: fs.ModeDir | mode} }
	files := []oci.File{
		dir("etc", 0o755), dir("root", 0o700), dir("tmp", fs.ModeSticky|0o777), dir("var", 0o755), dir("home", 0o755), dir("usr", 0o755),
		{Path: "etc/passwd", Mode: 0o644, Body: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n")},
		{Path: "etc/group", Mode: 0o644, Body: []byte("root:x:0:\nnobody:x:65534:\n")},
		dir("bin", 0o755),
		{Path: "bin/busybox", Mode: 0o755, Body: busybox},
		{Path: "bin/bash", Mode: 0o755, Body: bash},
		{Path: "bin/sh", Mode: 0o755, Body: sh},
		{Path: "bin/ip", Mode: 0o755, Body: []byte(ip)},
	}
	for _, name := range applets {
		if name != "busybox" && name != "sh" && name != "ip" {
			files = append(files, oci.File{Path: "bin/" + name, Mode: 0o777, Link: "busybox"})
		}
	}
	return files
}

// ip makes a bridge where a dummy device is asked for: the kernel of the tests'
// machine has none of those, and both take the same privilege.
const ip = `#!/bin/sh
case "$*" in "link add "*" type dummy") set -- link add "$3" type bridge ;; esac
exec /bin/busybox ip "$@"
`

// registryFiles are what the registry that agnhost can play serves: the pause
// image as pause:testing, in the folders of a Docker registry.
func registryFiles(archive string) ([]oci.File, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const dir = "var/registry/pause"
	var files []oci.File
	place := func(kind, sum string, body []byte) {
		files = append(files, oci.File{Path: path.Join(dir, kind, "sha256", sum[:2], sum, "data"), Mode: 0o644, Body: body})
	}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", archive, err)
		}
		sum, ok := strings.CutPrefix(h.Name, "blobs/sha256/")
		if !ok {
			continue
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", archive, err)
		}
		if strings.Contains(string(body[:min(len(body), 4096)]), `"mediaType":"application/vnd.oci.image.manifest.v1+json"`) {
			place("manifests", sum, body)
			files = append(files, oci.File{Path: path.Join(dir, "manifests", "testing"), Mode: 0o644, Body: []byte("sha256:" + sum)})
			continue
		}
		place("blobs", sum, body)
	}
}
