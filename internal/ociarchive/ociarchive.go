package ociarchive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// File is one entry of the image's only layer. Path is slash-separated and relative to the root. A Path that ends in
// "/" is a folder; a non-empty Link makes a symbolic link. Parent folders are added by themselves with mode 0755.
// Everything belongs to UID and GID 0.
type File struct {
	Path string
	Mode int64 // permission bits, 0 meaning 0755
	Data []byte
	Link string
}

// Image is a one-layer image. Ref is its full name, "localhost/reeve-hello:v1"; Arch is a GOARCH.
type Image struct {
	Ref        string
	Arch       string
	Files      []File
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	WorkingDir string
	Ports      []string // "8080/tcp"
	StopSignal string
	Volumes    []string // paths
	Labels     map[string]string
	// Fast leaves the layer uncompressed inside its gzip frame: compressing takes seconds under the race detector.
	Fast bool
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

const (
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// Write writes the images to w as one OCI layout. The timestamps are all zero, so that equal images have equal digests.
func Write(w io.Writer, images ...Image) error {
	blobs := map[string][]byte{}
	add := func(media string, data []byte) descriptor {
		sum := sha256.Sum256(data)
		d := hex.EncodeToString(sum[:])
		blobs[d] = data
		return descriptor{MediaType: media, Digest: "sha256:" + d, Size: int64(len(data))}
	}
	var manifests []descriptor
	for _, img := range images {
		m, err := img.build(add)
		if err != nil {
			return fmt.Errorf("build image %q: %w", img.Ref, err)
		}
		manifests = append(manifests, m)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": manifests})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	put := func(name string, data []byte) error {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err := tw.Write(data)
		return err
	}
	err = errors.Join(put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)), put("index.json", index))
	digests := make([]string, 0, len(blobs))
	for d := range blobs {
		digests = append(digests, d)
	}
	slices.Sort(digests)
	for _, d := range digests {
		err = errors.Join(err, put("blobs/sha256/"+d, blobs[d]))
	}
	if err := errors.Join(err, tw.Close()); err != nil {
		return fmt.Errorf("write image archive: %w", err)
	}
	return nil
}

func (img Image) build(add func(string, []byte) descriptor) (descriptor, error) {
	var none descriptor
	if img.Ref == "" || img.Arch == "" {
		return none, errors.New("an image needs a Ref and an Arch")
	}
	layer, diffID, err := img.layer()
	if err != nil {
		return none, err
	}
	type config struct {
		User         string              `json:"User,omitempty"`
		ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
		Volumes      map[string]struct{} `json:"Volumes,omitempty"`
		Env          []string            `json:"Env,omitempty"`
		Entrypoint   []string            `json:"Entrypoint,omitempty"`
		Cmd          []string            `json:"Cmd,omitempty"`
		WorkingDir   string              `json:"WorkingDir,omitempty"`
		Labels       map[string]string   `json:"Labels,omitempty"`
		StopSignal   string              `json:"StopSignal,omitempty"`
	}
	c := config{
		User: img.User, Env: img.Env, Entrypoint: img.Entrypoint, Cmd: img.Cmd, WorkingDir: img.WorkingDir,
		Labels: img.Labels, StopSignal: img.StopSignal,
	}
	if len(c.Env) == 0 {
		c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	for _, p := range img.Volumes {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[p] = struct{}{}
	}
	for _, p := range img.Ports {
		if c.ExposedPorts == nil {
			c.ExposedPorts = map[string]struct{}{}
		}
		c.ExposedPorts[p] = struct{}{}
	}
	cj, err := json.Marshal(map[string]any{
		"architecture": img.Arch, "os": "linux", "config": c,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{diffID}},
	})
	if err != nil {
		return none, err
	}
	mj, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": mediaManifest,
		"config": add(mediaConfig, cj), "layers": []descriptor{add(mediaLayer, layer)},
	})
	if err != nil {
		return none, err
	}
	d := add(mediaManifest, mj)
	d.Platform = &platform{Architecture: img.Arch, OS: "linux"}
	d.Annotations = map[string]string{
		"io.containerd.image.name":          img.Ref,
		"org.opencontainers.image.ref.name": img.Ref[strings.LastIndex(img.Ref, ":")+1:],
	}
	return d, nil
}

// layer returns the gzipped tar and the digest of the plain tar.
func (img Image) layer() (gz []byte, diffID string, err error) {
	var out bytes.Buffer
	level := gzip.BestCompression
	if img.Fast {
		level = gzip.NoCompression
	}
	zw, err := gzip.NewWriterLevel(&out, level)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.New()
	tw := tar.NewWriter(io.MultiWriter(zw, sum))
	made := map[string]bool{".": true, "/": true}
	header := func(h *tar.Header) error {
		h.ModTime, h.Format = time.Unix(0, 0), tar.FormatUSTAR
		return tw.WriteHeader(h)
	}
	var dir func(p string, mode int64) error
	dir = func(p string, mode int64) error {
		p = path.Clean(p)
		if made[p] {
			return nil
		}
		made[p] = true
		if err := dir(path.Dir(p), 0o755); err != nil {
			return err
		}
		return header(&tar.Header{Name: p + "/", Typeflag: tar.TypeDir, Mode: mode})
	}
	for _, f := range img.Files {
		mode := f.Mode
		if mode == 0 {
			mode = 0o755
		}
		name := strings.TrimPrefix(f.Path, "/")
		if strings.HasSuffix(name, "/") {
			if err := dir(name, mode); err != nil {
				return nil, "", err
			}
			continue
		}
		if err := dir(path.Dir(name), 0o755); err != nil {
			return nil, "", err
		}
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(f.Data))}
		if f.Link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.Link, 0
		}
		if err := header(h); err != nil {
			return nil, "", fmt.Errorf("add %q: %w", name, err)
		}
		if f.Link == "" {
			if _, err := tw.Write(f.Data); err != nil {
				return nil, "", err
			}
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		return nil, "", err
	}
	return out.Bytes(), "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}
