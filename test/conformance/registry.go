package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// images is a read-only registry of the images of one archive. A name is
// known with and without its registry, since a client of a mirror leaves that
// out.
type images struct {
	archive *os.File
	blobs   map[string]blob   // by digest
	tags    map[string]string // digest by name:tag
}

type blob struct{ offset, size int64 }

func openImages(path string) (*images, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r := &images{archive: f, blobs: map[string]blob{}, tags: map[string]string{}}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		// The reader stands at the first byte of the file's body.
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if sum, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			r.blobs["sha256:"+sum] = blob{offset, h.Size}
		}
		if h.Name == "index.json" {
			if err := r.readIndex(tr); err != nil {
				return nil, fmt.Errorf("read index of %s: %w", path, err)
			}
		}
	}
}

func (r *images) readIndex(body io.Reader) error {
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	if err := json.NewDecoder(body).Decode(&index); err != nil {
		return err
	}
	for _, m := range index.Manifests {
		_, name, _ := strings.Cut(m.Annotations["io.containerd.image.name"], "/")
		r.tags[name] = m.Digest
	}
	return nil
}

// ServeHTTP serves the part of the distribution API that a pull takes.
func (r *images) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok {
		http.NotFound(w, req)
		return
	}
	if path == "" {
		return // this is a registry
	}
	digest, kind := "", "application/octet-stream"
	if name, reference, ok := strings.Cut(path, "/manifests/"); ok {
		kind = "application/vnd.oci.image.manifest.v1+json"
		if digest = reference; !strings.HasPrefix(reference, "sha256:") {
			digest = r.tags[name+":"+reference]
		}
	} else if _, reference, ok := strings.Cut(path, "/blobs/"); ok {
		digest = reference
	}
	b, ok := r.blobs[digest]
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Docker-Content-Digest", digest)
	http.ServeContent(w, req, "", time.Time{}, io.NewSectionReader(r.archive, b.offset, b.size))
}
