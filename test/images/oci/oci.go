// Package oci writes container images from files and folders, without a
// registry or an image tool. What it writes is an OCI image layout in a tar
// file, which `ctr images import` takes; the layout names its images by the
// annotations that containerd reads.
package oci

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Image is an image to be written.
type Image struct {
	Names      []string // further names are further entries of the same image
	Entrypoint []string
	Cmd        []string
	User       string
	Env        []string
	Layers     []*Layer
}

// File is a file, directory (Mode has the directory bit) or link of a layer.
type File struct {
	Path string
	Mode fs.FileMode
	Body []byte
	Link string // of a symbolic link
}

// Layer is a layer of one or more images; it is written once.
type Layer struct {
	fill func(*tar.Writer) error
	done *descriptor
}

// Files is a layer of these files, in their order.
func Files(files ...File) *Layer {
	return &Layer{fill: func(tw *tar.Writer) error {
		for _, f := range files {
			if err := writeFile(tw, f); err != nil {
				return fmt.Errorf("write %s: %w", f.Path, err)
			}
		}
		return nil
	}}
}

func writeFile(tw *tar.Writer, f File) error {
	h := &tar.Header{Name: f.Path, Mode: int64(f.Mode.Perm()), Size: int64(len(f.Body)), Typeflag: tar.TypeReg}
	if f.Mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	if f.Mode&fs.ModeSetuid != 0 {
		h.Mode |= 0o4000
	}
	switch {
	case f.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, f.Path+"/"
	case f.Link != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(f.Body)
	return err
}

// Tree is a layer of all directories, files and links of a folder, with their
// owners and modes.
func Tree(dir string) *Layer {
	return &Layer{fill: func(tw *tar.Writer) error {
		return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || path == dir {
				return err
			}
			return writeEntry(tw, dir, path)
		})
	}}
}

func writeEntry(tw *tar.Writer, dir, path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	link := ""
	switch info.Mode().Type() {
	case 0, fs.ModeDir:
	case fs.ModeSymlink:
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	default:
		return nil // a container gets devices and sockets from its runtime
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	if h.Name, err = filepath.Rel(dir, path); err != nil {
		return err
	}
	if info.IsDir() {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(tw, f)
	return err
}

// The types of the OCI image specification, as far as they are written here.
const (
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Write writes images into one archive. The file appears under its name when
// it is whole.
func Write(path string, images ...Image) error {
	out, err := os.Create(path + ".tmp")
	if err != nil {
		return fmt.Errorf("create archive: %w", err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	a := &archive{tw: tar.NewWriter(out), dir: filepath.Dir(path), blobs: map[string]bool{}}
	var manifests []descriptor
	for _, image := range images {
		d, err := a.image(image)
		if err != nil {
			return fmt.Errorf("write image %v: %w", image.Names, err)
		}
		for _, name := range image.Names {
			d.Annotations = map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
			manifests = append(manifests, d)
		}
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": manifests})
	if err != nil {
		return fmt.Errorf("encode index: %w", err)
	}
	if err := errors.Join(a.put("index.json", index), a.put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)), a.tw.Close(), out.Close()); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return os.Rename(out.Name(), path)
}

// archive is an archive that is being written.
type archive struct {
	tw    *tar.Writer
	dir   string // for layers on their way
	blobs map[string]bool
}

func (a *archive) put(name string, body []byte) error {
	if err := a.tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := a.tw.Write(body)
	return err
}

func (a *archive) blob(mediaType string, v any) (descriptor, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(body))
	d := descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: int64(len(body))}
	if a.blobs[sum] {
		return d, nil
	}
	a.blobs[sum] = true
	return d, a.put("blobs/sha256/"+sum, body)
}

func (a *archive) image(i Image) (descriptor, error) {
	var layers []descriptor
	var diffIDs []string
	for _, l := range i.Layers {
		d, err := a.layer(l)
		if err != nil {
			return d, err
		}
		layers, diffIDs = append(layers, d), append(diffIDs, d.Digest)
	}
	config, err := a.blob(typeConfig, map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Entrypoint": i.Entrypoint, "Cmd": i.Cmd, "User": i.User, "WorkingDir": "/",
			"Env": append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, i.Env...),
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return config, err
	}
	return a.blob(typeManifest, map[string]any{"schemaVersion": 2, "mediaType": typeManifest, "config": config, "layers": layers})
}

// layer writes a layer, by way of a file since its digest is its name.
func (a *archive) layer(l *Layer) (descriptor, error) {
	if l.done != nil {
		return *l.done, nil
	}
	temp, err := os.CreateTemp(a.dir, "layer-*.tmp")
	if err != nil {
		return descriptor{}, err
	}
	defer os.Remove(temp.Name())
	defer temp.Close()
	sum := sha256.New()
	tw := tar.NewWriter(io.MultiWriter(temp, sum))
	if err := errors.Join(l.fill(tw), tw.Close()); err != nil {
		return descriptor{}, err
	}
	size, err := temp.Seek(0, io.SeekCurrent)
	if err != nil {
		return descriptor{}, err
	}
	digest := fmt.Sprintf("%x", sum.Sum(nil))
	l.done = &descriptor{MediaType: typeLayer, Digest: "sha256:" + digest, Size: size}
	if a.blobs[digest] {
		return *l.done, nil
	}
	a.blobs[digest] = true
	if _, err := temp.Seek(0, io.SeekStart); err != nil {
		return descriptor{}, err
	}
	if err := a.tw.WriteHeader(&tar.Header{Name: "blobs/sha256/" + digest, Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
		return descriptor{}, err
	}
	_, err = io.Copy(a.tw, temp)
	return *l.done, err
}
