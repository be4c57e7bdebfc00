package node

import (
	"context"
	"sort"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// imagesFor is how long a list of images is taken as true. It only helps
	// the scheduler prefer nodes.
	imagesFor         = 30 * time.Second
	imagesTimeout     = 5 * time.Second
	maxNamesPerImage  = 5
	unlimitedImageMax = -1
)

// imageList asks for the images that the node reports. It is used by one
// goroutine.
type imageList struct {
	list  func(ctx context.Context) ([]*runtimeapi.Image, error)
	most  int32
	until time.Time
	last  []v1.ContainerImage
}

func newImageList(list func(ctx context.Context) ([]*runtimeapi.Image, error), most int32) *imageList {
	return &imageList{list: list, most: most}
}

// get returns the largest images; those of the last answer if the runtime
// does not answer.
func (l *imageList) get(ctx context.Context, now time.Time) []v1.ContainerImage {
	if l.list == nil || now.Before(l.until) {
		return l.last
	}
	ctx, cancel := context.WithTimeout(ctx, imagesTimeout)
	defer cancel()
	images, err := l.list(ctx)
	l.until = now.Add(imagesFor)
	if err == nil {
		l.last = reportedImages(images, l.most)
	}
	return l.last
}

func reportedImages(images []*runtimeapi.Image, most int32) []v1.ContainerImage {
	out := make([]v1.ContainerImage, 0, len(images))
	for _, image := range images {
		names := make([]string, 0, len(image.GetRepoDigests())+len(image.GetRepoTags()))
		names = append(append(names, image.GetRepoDigests()...), image.GetRepoTags()...)
		if len(names) == 0 {
			continue
		}
		out = append(out, v1.ContainerImage{
			Names:     names[:min(len(names), maxNamesPerImage)],
			SizeBytes: int64(image.GetSize()),
		})
	}
	// By name where sizes are equal: the order must not change the status.
	sort.Slice(out, func(i, j int) bool {
		if out[i].SizeBytes != out[j].SizeBytes {
			return out[i].SizeBytes > out[j].SizeBytes
		}
		return out[i].Names[0] < out[j].Names[0]
	})
	if most > unlimitedImageMax && int(most) < len(out) {
		out = out[:most]
	}
	return out
}
