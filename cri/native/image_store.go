package native

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/reevehq/reeve/internal/logkey"
)

// imageStore knows the images of our containerd namespace by name and by ID, the digest of their configuration. It is
// filled at start, then follows our own pulls and removals and containerd's events, so that others' (`ctr images`) count.
type imageStore struct {
	client *containerd.Client
	cfg    Config
	log    *slog.Logger
	pulls  pulls
	fs     fsUsage

	mu    sync.RWMutex
	names map[string]imageName // full reference → record
	byID  map[string]*image
}

type imageName struct {
	id     string // of the image
	target string // digest of the manifest or index
}

// image is one image, whatever its names. It never changes but for names, which imageStore.mu guards.
type image struct {
	id     string
	cfg    imageConfig
	size   int64
	pinned bool
	names_ []string
}

// imageConfig is what containers need of an image's configuration.
type imageConfig struct {
	chainID    string
	entrypoint []string
	cmd        []string
	env        []string
	workingDir string
	user       string
	stopSignal string
	volumes    []string
}

// labelPinned is what containerd's CRI plugin marks images with that the kubelet must not collect.
const labelPinned = "io.cri-containerd.pinned"

func newImageStore(client *containerd.Client, cfg Config, log *slog.Logger) *imageStore {
	return &imageStore{
		client: client, cfg: cfg, log: log, names: map[string]imageName{}, byID: map[string]*image{},
		pulls: pulls{flights: map[string]*flight{}, slots: make(chan struct{}, cfg.MaxPulls)},
	}
}

// load reads all images.
func (s *imageStore) load(ctx context.Context) error {
	list, err := s.client.ImageService().List(ctx)
	if err != nil {
		return fmt.Errorf("list containerd's images: %w", err)
	}
	for _, img := range list {
		s.put(ctx, img)
	}
	return nil
}

// refresh reads one image again.
func (s *imageStore) refresh(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	img, err := s.client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		s.forget(name)
		return
	}
	if err == nil {
		s.put(ctx, img)
	}
}

// put files one containerd image. One whose content for this platform is not here is left out.
func (s *imageStore) put(ctx context.Context, rec images.Image) *image {
	s.mu.RLock()
	old, known := s.names[rec.Name]
	s.mu.RUnlock()
	if known && old.target == rec.Target.Digest.String() {
		s.mu.RLock()
		defer s.mu.RUnlock()
		return s.byID[old.id]
	}
	img, err := s.read(ctx, rec)
	if err != nil {
		s.log.Debug("Left out an image", logkey.Image, rec.Name, logkey.Err, err)
		return nil
	}
	defer s.fs.changed.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.byID[img.id]; have != nil {
		have.pinned = have.pinned || img.pinned
		img = have
	} else {
		s.byID[img.id] = img
	}
	if cur, ok := s.names[rec.Name]; ok && cur.id != img.id {
		s.dropLocked(rec.Name)
	}
	s.names[rec.Name] = imageName{id: img.id, target: rec.Target.Digest.String()}
	if !slices.Contains(img.names_, rec.Name) {
		img.names_ = append(img.names_, rec.Name)
		slices.Sort(img.names_)
	}
	return img
}

func (s *imageStore) read(ctx context.Context, rec images.Image) (*image, error) {
	ci := containerd.NewImage(s.client, rec)
	desc, err := ci.Config(ctx)
	if err != nil {
		return nil, err
	}
	blob, err := content.ReadBlob(ctx, s.client.ContentStore(), desc)
	if err != nil {
		return nil, err
	}
	var oc ocispec.Image
	if err := json.Unmarshal(blob, &oc); err != nil {
		return nil, fmt.Errorf("read image configuration: %w", err)
	}
	size, err := ci.Size(ctx)
	if err != nil {
		return nil, err
	}
	return &image{
		id: desc.Digest.String(), size: size, pinned: rec.Labels[labelPinned] != "" || rec.Name == s.cfg.PauseImage,
		cfg: imageConfig{
			chainID: identity.ChainID(oc.RootFS.DiffIDs).String(), entrypoint: oc.Config.Entrypoint, cmd: oc.Config.Cmd, env: oc.Config.Env,
			workingDir: oc.Config.WorkingDir, user: oc.Config.User, stopSignal: oc.Config.StopSignal,
			volumes: slices.Sorted(maps.Keys(oc.Config.Volumes)),
		},
	}, nil
}

func (s *imageStore) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(name)
}

func (s *imageStore) dropLocked(name string) {
	n, ok := s.names[name]
	if !ok {
		return
	}
	delete(s.names, name)
	s.fs.changed.Store(true)
	if img := s.byID[n.id]; img != nil {
		img.names_ = slices.DeleteFunc(img.names_, func(x string) bool { return x == name })
		if len(img.names_) == 0 {
			delete(s.byID, n.id)
		}
	}
}

// normalize gives a reference its full form: "busybox" is "docker.io/library/busybox:latest", and of a tag with a digest
// the digest counts.
func normalize(ref string) (string, error) {
	if ref == "" {
		return "", status.Error(codes.InvalidArgument, "image reference is empty")
	}
	n, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", status.Errorf(codes.InvalidArgument, "image reference %q is invalid: %v", ref, err)
	}
	return n.String(), nil
}

// lookup finds an image by ID, short ID or reference; nil when there is none.
func (s *imageStore) lookup(ref string) *image {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if img := s.byID[ref]; img != nil {
		return img
	}
	if img := s.byID["sha256:"+ref]; img != nil {
		return img
	}
	if full, err := normalize(ref); err == nil {
		if n, ok := s.names[full]; ok {
			return s.byID[n.id]
		}
	}
	const shortest = 6
	hex := strings.TrimPrefix(ref, "sha256:")
	if len(hex) >= shortest && strings.Trim(hex, "0123456789abcdef") == "" {
		var found *image
		for id, img := range s.byID {
			if strings.HasPrefix(id, "sha256:"+hex) {
				if found != nil {
					return nil
				}
				found = img
			}
		}
		return found
	}
	return nil
}

// resolve is lookup with the error that CreateContainer gives.
func (s *imageStore) resolve(ref string) (*image, error) {
	if ref == "" {
		return nil, status.Error(codes.InvalidArgument, "container config: the image is missing")
	}
	if img := s.lookup(ref); img != nil {
		return img, nil
	}
	return nil, status.Errorf(codes.NotFound, "image %q is not on this node", ref)
}

// config returns the image's configuration, with its layers unpacked.
func (s *imageStore) config(ctx context.Context, img *image) (imageConfig, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return img.cfg, ctx.Err()
}

// unpack makes the layers of an image that was imported without.
func (s *imageStore) unpack(ctx context.Context, img *image) error {
	rec, err := s.client.ImageService().Get(ctx, s.firstName(img))
	if err != nil {
		return err
	}
	return containerd.NewImage(s.client, rec).Unpack(ctx, s.cfg.Snapshotter)
}

func (s *imageStore) firstName(img *image) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(img.names_) == 0 {
		return ""
	}
	return img.names_[0]
}

// tagsLocked splits the names into tags and digests.
func (img *image) tagsLocked() (tags, digests []string) {
	for _, n := range img.names_ {
		switch {
		case strings.Contains(n, "@"):
			digests = append(digests, n)
		case strings.HasPrefix(n, "sha256:"): // an alias that containerd's CRI plugin makes
		default:
			tags = append(tags, n)
		}
	}
	return tags, digests
}

// ref is what a container's status calls its image: a digest that a registry knows, or else the ID.
func (s *imageStore) ref(img *image) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if _, digests := img.tagsLocked(); len(digests) > 0 {
		return digests[0]
	}
	return img.id
}
