package critest

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const defaultImageSize = 1 << 20

type image struct {
	id     string // sha256:…
	tags   []string
	digest string // repo@sha256:…
	size   uint64
	pinned bool
	spec   *runtimeapi.ImageSpec
}

// ref is the reference that containers carry in their status.
func (i *image) ref() string { return i.digest }

// Pull is how one pull of an image goes.
type Pull struct {
	Took time.Duration
	// Code other than OK refuses the pull with Message.
	Code    codes.Code
	Message string
	// Hang never ends; the caller has to give up.
	Hang bool
}

// Pulled is one pull that was asked for.
type Pulled struct {
	Image    string
	Username string // of the credentials that were given
}

type pull struct {
	done     chan struct{}
	at       time.Time
	finished bool
	err      error
}

// AddImage puts images into the store, as if they had been pulled before.
func (r *Runtime) AddImage(names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range names {
		r.addImage(n)
	}
}

// DropImage removes an image behind the kubelet's back.
func (r *Runtime) DropImage(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if img := r.findImage(name); img != nil {
		r.images.remove(img.id)
	}
}

// ScriptPull says how pulls of an image go: the nth pull as the nth, the last
// standing for all later ones.
func (r *Runtime) ScriptPull(name string, p ...Pull) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pullScript[normalName(name)] = p
}

// Pulls returns the pulls asked for so far.
func (r *Runtime) Pulls() []Pulled {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.pulled)
}

// normalName adds the registry and tag that containerd adds.
func normalName(name string) string {
	first, _, slash := strings.Cut(name, "/")
	switch {
	case !slash:
		name = "docker.io/library/" + name
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		name = "docker.io/" + name
	}
	if !strings.Contains(name, "@") && !strings.Contains(name[strings.LastIndex(name, "/")+1:], ":") {
		name += ":latest"
	}
	return name
}

func (r *Runtime) addImage(name string) *image {
	if img := r.findImage(name); img != nil {
		return img
	}
	tag := normalName(name)
	sum := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(tag)))
	repo := tag[:strings.LastIndexAny(tag, ":@")]
	if at := strings.Index(tag, "@"); at >= 0 {
		repo = tag[:at]
	}
	img := &image{id: sum, tags: []string{tag}, digest: repo + "@" + sum, size: defaultImageSize, spec: &runtimeapi.ImageSpec{Image: name}}
	r.images.add(img.id, img)
	return img
}

// findImage finds an image by id, digest, or name. The lock is held.
func (r *Runtime) findImage(name string) (found *image) {
	if name == "" {
		return nil
	}
	normal := normalName(name)
	r.images.each(func(i *image) {
		if i.id == name || i.digest == name || i.digest == normal || slices.Contains(i.tags, normal) || strings.TrimPrefix(i.id, "sha256:") == name {
			found = i
		}
	})
	return found
}

// tagOf returns the name of an image as it was first given.
func (r *Runtime) tagOf(name string) string {
	if img := r.findImage(name); img != nil {
		return img.spec.GetImage()
	}
	return ""
}

func (i *image) message() *runtimeapi.Image {
	return &runtimeapi.Image{Id: i.id, RepoTags: i.tags, RepoDigests: []string{i.digest}, Size: i.size, Pinned: i.pinned, Spec: i.spec}
}

func (r *Runtime) listImages(req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	resp := &runtimeapi.ListImagesResponse{}
	want := req.GetFilter().GetImage().GetImage()
	only := r.findImage(want)
	r.images.each(func(i *image) {
		if want == "" || i == only {
			resp.Images = append(resp.Images, i.message())
		}
	})
	return resp, nil
}

func (r *Runtime) imageStatus(req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	resp := &runtimeapi.ImageStatusResponse{}
	if img := r.findImage(req.GetImage().GetImage()); img != nil {
		resp.Image = img.message()
	}
	return resp, nil
}

// pullImage joins a pull of the same image under way, so that in
// single-threaded mode the call that is made again gets the answer.
func (r *Runtime) pullImage(req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	name := normalName(req.GetImage().GetImage())
	finish := func(p *pull) (*runtimeapi.PullImageResponse, error) {
		if r.pulls[name] == p {
			delete(r.pulls, name)
		}
		if p.err != nil {
			return nil, p.err
		}
		return &runtimeapi.PullImageResponse{ImageRef: r.addImage(req.GetImage().GetImage()).id}, nil
	}
	p := r.pulls[name]
	if p == nil {
		how, scripted := Pull{}, false
		if s := r.pullScript[name]; len(s) > 0 {
			how, scripted = s[0], true
			if len(s) > 1 {
				r.pullScript[name] = s[1:]
			}
		}
		r.pulled = append(r.pulled, Pulled{Image: req.GetImage().GetImage(), Username: req.GetAuth().GetUsername()})
		p = &pull{done: make(chan struct{})}
		switch {
		case how.Code != codes.OK:
			p.err = status.Error(how.Code, how.Message)
		case r.cfg.ImagesMustExist && !scripted && r.findImage(name) == nil:
			p.err = notFound("failed to pull and unpack image %q: failed to resolve image", name)
		}
		if how.Hang {
			return nil, &blocked{}
		}
		if how.Took <= 0 {
			return finish(p)
		}
		p.at = r.now().Add(how.Took)
		r.pulls[name] = p
		r.at(p.at, func() { p.finished = true; close(p.done) })
	}
	if p.finished {
		return finish(p)
	}
	return nil, &blocked{done: p.done, at: p.at, then: func() (any, error) { return finish(p) }}
}

func (r *Runtime) removeImage(req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if img := r.findImage(req.GetImage().GetImage()); img != nil {
		r.images.remove(img.id)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

func (r *Runtime) imageFsInfo(*runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	var used uint64
	r.images.each(func(i *image) { used += i.size })
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{
		Timestamp:  r.now().UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: "/"},
		UsedBytes:  &runtimeapi.UInt64Value{Value: used},
		InodesUsed: &runtimeapi.UInt64Value{Value: uint64(len(r.images.byID))},
	}}}, nil
}
