package cri

import (
	"context"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageStatus returns the image, nil if the runtime does not have it. With
// verbose the answer's info holds the runtime's extra information.
func (c *Client) ImageStatus(ctx context.Context, image *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error) {
	resp, err := do(ctx, c, verb{"image_status", "get status of image"}, image.GetImage(), c.read(),
		c.img.ImageStatus, &runtimeapi.ImageStatusRequest{Image: image, Verbose: verbose})
	if err != nil {
		return nil, err
	}
	if resp.GetImage() != nil && resp.Image.Id == "" {
		return nil, missing("get status of image", image.GetImage(), "image id")
	}
	return resp, nil
}

// PullImage pulls the image and returns what to refer to it by. It has no
// deadline but the context's: how long a pull may take depends on the image,
// and runtimes give up on their own when one makes no progress.
func (c *Client) PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (ref string, err error) {
	resp, err := do(ctx, c, verb{"pull_image", "pull image"}, image.GetImage(), 0,
		c.img.PullImage, &runtimeapi.PullImageRequest{Image: image, Auth: auth, SandboxConfig: sandbox})
	if err == nil && resp.GetImageRef() == "" {
		err = missing("pull image", image.GetImage(), "image reference")
	}
	return resp.GetImageRef(), err
}

// ListImages returns the images that match the filter; nil matches all.
func (c *Client) ListImages(ctx context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	resp, err := do(ctx, c, verb{"list_images", "list images"}, "", c.read(),
		c.img.ListImages, &runtimeapi.ListImagesRequest{Filter: filter})
	if err != nil {
		return nil, err
	}
	return resp.GetImages(), nil
}

// RemoveImage removes the image with all its names. It succeeds for an image
// that is gone.
func (c *Client) RemoveImage(ctx context.Context, image *runtimeapi.ImageSpec) error {
	_, err := do(ctx, c, verb{"remove_image", "remove image"}, image.GetImage(), c.timeout,
		c.img.RemoveImage, &runtimeapi.RemoveImageRequest{Image: image})
	return unlessGone(err)
}

// ImageFsInfo returns where images and writable layers are stored and how
// much they use.
func (c *Client) ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return c.imageFsInfo(ctx)
}

func (c *Client) imageFsInfo(ctx context.Context, opts ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	return do(ctx, c, verb{"image_fs_info", "get the image file system"}, "", c.read(),
		c.img.ImageFsInfo, &runtimeapi.ImageFsInfoRequest{}, opts...)
}
