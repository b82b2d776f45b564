package fake

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (r *Runtime) findImageLocked(ref string) *runtimeapi.Image {
	if ref == "" {
		return nil
	}
	for id, img := range r.images {
		if id == ref || strings.TrimPrefix(id, "sha256:") == ref || slices.Contains(img.RepoTags, ref) || slices.Contains(img.RepoDigests, ref) {
			return img
		}
	}
	return nil
}

// ListImages lists by ID.
func (r *Runtime) ListImages(_ context.Context, f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if err := r.check("ListImages"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.Image
	if want := f.GetImage().GetImage(); want != "" {
		if img := r.findImageLocked(want); img != nil {
			out = append(out, proto.Clone(img).(*runtimeapi.Image))
		}
		return out, nil
	}
	for _, img := range r.images {
		out = append(out, proto.Clone(img).(*runtimeapi.Image))
	}
	slices.SortFunc(out, func(a, b *runtimeapi.Image) int { return strings.Compare(a.Id, b.Id) })
	return out, nil
}

// ImageStatus has a nil Image for an unknown one, as CRI asks.
func (r *Runtime) ImageStatus(_ context.Context, spec *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	if err := r.check("ImageStatus"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	resp := &runtimeapi.ImageStatusResponse{}
	if img := r.findImageLocked(spec.GetImage()); img != nil {
		resp.Image = proto.Clone(img).(*runtimeapi.Image)
	}
	return resp, nil
}

// PullImage puts the image on the node and answers with its ID; see SetPullable.
func (r *Runtime) PullImage(ctx context.Context, spec *runtimeapi.ImageSpec, _ *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	ref := spec.GetImage()
	if err := r.begin("PullImage", ref); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if ref == "" || strings.ToLower(ref) != ref && !strings.Contains(ref, ":") {
		return "", status.Errorf(codes.InvalidArgument, "invalid image reference %q", ref)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	img := NewImage(ref)
	if r.pullable != nil {
		if img = r.pullable[ref]; img == nil {
			return "", status.Errorf(codes.NotFound, "image %q not found in its registry", ref)
		}
	}
	r.images[img.Id] = img
	return img.Id, nil
}

// RemoveImage forgets the image. Unknown images are fine.
func (r *Runtime) RemoveImage(_ context.Context, spec *runtimeapi.ImageSpec) error {
	if err := r.begin("RemoveImage", spec.GetImage()); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if img := r.findImageLocked(spec.GetImage()); img != nil {
		delete(r.images, img.Id)
	}
	return nil
}

// ImageFsInfo sums the images' sizes.
func (r *Runtime) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	if err := r.check("ImageFsInfo"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var used uint64
	for _, img := range r.images {
		used += img.Size
	}
	fs := &runtimeapi.FilesystemUsage{
		Timestamp: time.Now().UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"},
		UsedBytes: &runtimeapi.UInt64Value{Value: used}, InodesUsed: &runtimeapi.UInt64Value{Value: uint64(len(r.images))},
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{fs},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{proto.Clone(fs).(*runtimeapi.FilesystemUsage)},
	}, nil
}
