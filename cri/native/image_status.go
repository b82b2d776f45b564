package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (img *image) protoLocked() *runtimeapi.Image {
	tags, digests := img.tagsLocked()
	p := &runtimeapi.Image{
		Id: img.id, RepoTags: tags, RepoDigests: digests, Size: uint64(max(img.size, 0)), Pinned: img.pinned,
		Spec: &runtimeapi.ImageSpec{Image: img.id},
	}
	user, _, _ := strings.Cut(img.cfg.user, ":")
	switch n, err := strconv.ParseInt(user, 10, 64); {
	case user == "":
		p.Uid = &runtimeapi.Int64Value{}
	case err == nil:
		p.Uid = &runtimeapi.Int64Value{Value: n}
	default:
		p.Username = user
	}
	return p
}

// hexID is an image ID, or the beginning of one.
var hexID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{6,64}$`)

// ListImages lists by ID; the filter's image may be anything that ImageStatus takes.
func (r *Runtime) ListImages(_ context.Context, f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	s := r.images
	if want := f.GetImage().GetImage(); want != "" {
		img := s.lookup(want)
		if img == nil {
			return nil, nil
		}
		s.mu.RLock()
		defer s.mu.RUnlock()
		return []*runtimeapi.Image{img.protoLocked()}, nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*runtimeapi.Image, 0, len(s.byID))
	for _, img := range s.byID {
		out = append(out, img.protoLocked())
	}
	slices.SortFunc(out, func(a, b *runtimeapi.Image) int { return strings.Compare(a.Id, b.Id) })
	return out, nil
}

// ImageStatus has a nil Image for one that is not here, as CRI asks.
func (r *Runtime) ImageStatus(_ context.Context, spec *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error) {
	if spec.GetImage() == "" {
		return nil, status.Error(codes.InvalidArgument, "image reference is empty")
	}
	resp := &runtimeapi.ImageStatusResponse{}
	img := r.images.lookup(spec.Image)
	if img == nil {
		if _, err := normalize(spec.Image); err != nil && !hexID.MatchString(spec.Image) {
			return nil, err
		}
		return resp, nil
	}
	r.images.mu.RLock()
	defer r.images.mu.RUnlock()
	resp.Image = img.protoLocked()
	if verbose {
		b, err := json.Marshal(map[string]any{"chainID": img.cfg.chainID, "imageSpec": map[string]any{"config": map[string]any{
			"Entrypoint": img.cfg.entrypoint, "Cmd": img.cfg.cmd, "Env": img.cfg.env, "User": img.cfg.user, "WorkingDir": img.cfg.workingDir,
			"StopSignal": img.cfg.stopSignal,
		}}})
		if err != nil {
			return nil, toStatus(err)
		}
		resp.Info = map[string]string{"info": string(b)}
	}
	return resp, nil
}

// RemoveImage removes all names of an image; containers that use it keep their layers. Unknown images are fine.
func (r *Runtime) RemoveImage(ctx context.Context, spec *runtimeapi.ImageSpec) error {
	if spec.GetImage() == "" {
		return status.Error(codes.InvalidArgument, "image reference is empty")
	}
	img := r.images.lookup(spec.Image)
	if img == nil {
		return nil
	}
	r.images.mu.RLock()
	names := slices.Clone(img.names_)
	r.images.mu.RUnlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var errs []error
	for _, name := range names {
		if err := r.client.ImageService().Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove image %q: %w", name, err))
			continue
		}
		r.images.forget(name)
	}
	return toStatus(errors.Join(errs...))
}

// fsUsageAge is how old the figures of ImageFsInfo may be while no image comes or goes. Writable layers are measured by
// walking them, which takes no more than a fiftieth of the time, however often one asks.
const fsUsageAge = 10 * time.Second

// fsUsage remembers what the snapshotter's layers take.
type fsUsage struct {
	path    string
	changed atomic.Bool // images came or went since the last measure

	mu                 sync.Mutex
	at                 time.Time
	took               time.Duration
	images, containers *runtimeapi.FilesystemUsage
	committed          map[string]snapshots.Usage // by name; they never change
}

func (s *imageStore) root() string { return s.fs.path }

// ImageFsInfo reports where layers lie and what they take: images the committed ones, containers the writable ones.
func (r *Runtime) ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	f := &r.images.fs
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed.Swap(false) || f.images == nil || time.Since(f.at) > max(fsUsageAge, 50*f.took) {
		if err := f.measure(ctx, r.snaps); err != nil {
			return nil, toStatus(fmt.Errorf("measure the image filesystem: %w", err))
		}
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{f.images},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{f.containers},
	}, nil
}

func (f *fsUsage) measure(ctx context.Context, snaps snapshots.Snapshotter) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	began := time.Now()
	kinds := map[string]snapshots.Kind{}
	if err := snaps.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		kinds[info.Name] = info.Kind
		return nil
	}); err != nil {
		return err
	}
	known := map[string]snapshots.Usage{}
	var images, containers snapshots.Usage
	for name, kind := range kinds {
		u, ok := f.committed[name]
		if !ok {
			var err error
			if u, err = snaps.Usage(ctx, name); errdefs.IsNotFound(err) {
				continue
			} else if err != nil {
				return err
			}
		}
		if kind == snapshots.KindCommitted {
			known[name] = u
			images.Add(u)
		} else {
			containers.Add(u)
		}
	}
	f.committed, f.at, f.took = known, time.Now(), time.Since(began)
	usage := func(u snapshots.Usage) *runtimeapi.FilesystemUsage {
		return &runtimeapi.FilesystemUsage{
			Timestamp: f.at.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: f.path},
			UsedBytes:  &runtimeapi.UInt64Value{Value: uint64(max(u.Size, 0))},
			InodesUsed: &runtimeapi.UInt64Value{Value: uint64(max(u.Inodes, 0))},
		}
	}
	f.images, f.containers = usage(images), usage(containers)
	return nil
}
