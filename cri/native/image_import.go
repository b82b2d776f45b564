package native

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/platforms"

	"github.com/reevehq/reeve/internal/logkey"
)

// ImportImages adds the images of an OCI or Docker archive, unpacks them, and returns their names.
func (r *Runtime) ImportImages(ctx context.Context, archive io.Reader) ([]string, error) {
	names, err := r.images.importArchive(ctx, archive)
	return names, toStatus(err)
}

func (s *imageStore) importArchive(ctx context.Context, archive io.Reader) ([]string, error) {
	list, err := s.client.Import(ctx, archive, containerd.WithImportPlatform(platforms.Default()))
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	var names []string
	for _, rec := range list {
		if err := containerd.NewImage(s.client, rec).Unpack(ctx, s.cfg.Snapshotter); err != nil {
			return names, fmt.Errorf("unpack image %q: %w", rec.Name, err)
		}
		if s.put(ctx, rec) == nil {
			return names, fmt.Errorf("image %q cannot be read after its import", rec.Name)
		}
		names = append(names, rec.Name)
	}
	return names, nil
}

// importBundled imports what came with reeve, and what lies in the image folder, if it is not there yet.
func (s *imageStore) importBundled(ctx context.Context) error {
	errs := make([]error, len(s.cfg.Images))
	var wg sync.WaitGroup
	for i, archive := range s.cfg.Images {
		if s.has(archive) {
			continue
		}
		wg.Go(func() {
			names, err := s.importArchive(ctx, bytes.NewReader(archive))
			if errs[i] = err; err == nil {
				s.log.Info("Imported images", logkey.Image, strings.Join(names, ","))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.importFolder(ctx)
}

// has reports whether every image of an OCI archive is there with the same content.
func (s *imageStore) has(archive []byte) bool {
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if err != nil {
			return false
		}
		if h.Name != "index.json" {
			continue
		}
		var index struct {
			Manifests []struct {
				Digest      string
				Annotations map[string]string
			}
		}
		if json.NewDecoder(tr).Decode(&index) != nil || len(index.Manifests) == 0 {
			return false
		}
		s.mu.RLock()
		defer s.mu.RUnlock()
		for _, m := range index.Manifests {
			if n, ok := s.names[m.Annotations["io.containerd.image.name"]]; !ok || n.target != m.Digest {
				return false
			}
		}
		return true
	}
}

// importFolder imports *.tar of the image folder whose content was not imported before. A bad archive is logged and
// passed over: the node must start all the same.
func (s *imageStore) importFolder(ctx context.Context) error {
	if s.cfg.ImageDir == "" {
		return nil
	}
	done := filepath.Join(s.cfg.StateDir, "imported")
	if err := os.MkdirAll(done, 0o700); err != nil {
		return err
	}
	list, err := filepath.Glob(filepath.Join(s.cfg.ImageDir, "*.tar"))
	if err != nil {
		return err
	}
	for _, path := range list {
		f, err := os.Open(path)
		if err != nil {
			s.log.Warn("Could not read an image archive", logkey.Path, path, logkey.Err, err)
			continue
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		mark := filepath.Join(done, hex.EncodeToString(sum.Sum(nil)))
		if err == nil && !exists(mark) {
			if _, err = f.Seek(0, io.SeekStart); err == nil {
				var names []string
				if names, err = s.importArchive(ctx, f); err == nil {
					s.log.Info("Imported images", logkey.Path, path, logkey.Image, strings.Join(names, ","))
					err = os.WriteFile(mark, nil, 0o600)
				}
			}
		}
		f.Close()
		if err != nil {
			s.log.Warn("Could not import an image archive", logkey.Path, path, logkey.Err, err)
		}
	}
	return ctx.Err()
}
