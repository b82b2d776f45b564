package cri

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/reevehq/reeve/tests/node"
)

const (
	// The registries that critest's images come from, and the repositories' folders there.
	e2eImages = "e2e-test-images/"
	criImages = "k8s-staging-cri-tools/"
	// busyboxRef is critest's default image.
	busyboxRef = "registry.k8s.io/" + e2eImages + "busybox:1.29-2"
	// pluginPause is the sandbox image of the plugin; critest removes pause:3.9 again and again.
	pluginPause = "registry.k8s.io/pause:3.6"
	// upstreamDigest is the one image that critest names by digest (pkg/validate/consts.go). Only its makers can serve it,
	// so its digest is exchanged for that of an image made here.
	upstreamDigest = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"
)

// registries are the hosts that images are named after; all are this test's one registry.
var registries = []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io"}

// shop is a registry with everything critest pulls, and the hosts files that lead there.
type shop struct {
	address  string // host:port
	hostsDir string // containerd's certs.d
	digest   string // of test-image-digest, hex
}

type entry = node.Entry

var (
	opening sync.Mutex
	opened  *shop
)

// openShop makes the images and serves them as long as this process lives, once for all tests.
func openShop(t testing.TB) *shop {
	t.Helper()
	opening.Lock()
	defer opening.Unlock()
	if opened == nil {
		s := newShop(t)
		s.fill(t)
		opened = s
	}
	return opened
}

func newShop(t testing.TB) *shop {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go srv.Serve(l)
	s := &shop{address: l.Addr().String(), hostsDir: filepath.Join(node.TempDir(t), "certs.d")}
	for _, host := range registries {
		writeFile(t, filepath.Join(s.hostsDir, host, "hosts.toml"),
			fmt.Sprintf("server = \"http://%s\"\n\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", s.address))
	}
	return s
}

func (s *shop) fill(t testing.TB) {
	t.Helper()
	box := node.GoProgram(t, "github.com/reevehq/reeve/tests/cri/box")
	base := newLayer(t, append(busyboxFiles(t), entry{Name: "bin/ipcs", Mode: 0o755, Body: box}, entry{Name: "bin/pgrep", Mode: 0o755, Link: "bin/ipcs"},
		entry{Name: "bin/nginx", Mode: 0o755, Link: "bin/ipcs"}, entry{Name: "bin/httpd", Mode: 0o755, Link: "bin/ipcs"},
		entry{Name: "bin/pause", Mode: 0o755, Link: "bin/ipcs"}))
	config := func(user string, cmd ...string) v1.Config {
		return v1.Config{Env: []string{"PATH=/bin"}, Cmd: cmd, User: user}
	}
	web := func(program, port string) v1.Config {
		return v1.Config{Env: []string{"PATH=/bin", "PORT=" + port}, Cmd: []string{program}}
	}
	marked := func(file string) v1.Layer {
		return newLayer(t, []entry{{Name: strings.NewReplacer(":", "-", "/", "-").Replace(file), Mode: 0o644}})
	}
	s.push(t, e2eImages+"busybox:1.29-2", config("", "sh"), base)
	s.push(t, e2eImages+"nginx:1.14-2", web("nginx", "80"), base)
	s.push(t, e2eImages+"httpd:2.4.39-4", web("httpd", "80"), base)
	s.push(t, criImages+"hostnet-nginx-"+runtime.GOARCH+":latest", web("nginx", "12003"), base)
	s.push(t, e2eImages+"nonewprivs:1.3", config("", "/nnp"), newLayer(t, []entry{{Name: "nnp", Mode: 0o4755, Body: box}}))
	for _, tag := range []string{"test-image-1:latest", "test-image-2:latest", "test-image-3:latest", "test-image-latest:latest", "test-image-tag:test", "test-image-tag:all"} {
		s.push(t, criImages+tag, config("", "sh"), base, marked(tag))
	}
	for _, tag := range []string{"1", "2", "3"} {
		s.push(t, criImages+"test-image-tags:"+tag, config("", "sh"), base, marked("same-image"))
	}
	s.digest = s.push(t, criImages+"test-image-digest:latest", config("", "sh"), base, marked("test-image-digest"))
	for repository, user := range map[string]string{
		"test-image-user-uid": "1002", "test-image-user-username": "www-data",
		"test-image-user-uid-group": "1003:1004", "test-image-user-username-group": "www-data:1004",
	} {
		s.push(t, criImages+repository+":latest", config(user, "sh"), base, marked(repository))
	}
	s.push(t, criImages+"test-image-predefined-group:latest", config("1000", "sh"), base, newLayer(t, []entry{
		{Name: "etc/passwd", Mode: 0o644, Body: []byte(passwd + "default-user:x:1000:1000::/home:/bin/sh\n")},
		{Name: "etc/group", Mode: 0o644, Body: []byte(group + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")},
	}))
	for _, tag := range []string{"pause:3.6", "pause:3.9"} {
		s.push(t, tag, config("", "/bin/pause"), base, marked(tag))
	}
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
	group  = "root:x:0:\nwww-data:x:33:\nnobody:x:65534:\n"
)

// busyboxFiles is Debian's busybox-static with a hard link for each of its commands, as the official image has them: one
// of them can be covered by a mount without the others. Its shell prefers its own commands to files, unlike the official
// one's: so ls, which a spec covers, goes by another name in it (one that keeps the table of names sorted) and is a file.
func busyboxFiles(t testing.TB) []entry {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("needs busybox-static: %v", err)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(body, []byte("\x00ls\x00")) != 1 {
		t.Fatalf("the table of commands in %s is not what it was", path)
	}
	body = bytes.Replace(body, []byte("\x00ls\x00"), []byte("\x00lr\x00"), 1)
	entries := []entry{
		{Name: "bin/", Mode: 0o755, Dir: true}, {Name: "etc/", Mode: 0o755, Dir: true}, {Name: "home/", Mode: 0o777, Dir: true},
		{Name: "tmp/", Mode: 0o1777, Dir: true}, {Name: "mnt/", Mode: 0o755, Dir: true}, {Name: "root/", Mode: 0o700, Dir: true},
		{Name: "var/", Mode: 0o755, Dir: true}, {Name: "var/run/", Mode: 0o755, Dir: true},
		{Name: "etc/passwd", Mode: 0o644, Body: []byte(passwd)}, {Name: "etc/group", Mode: 0o644, Body: []byte(group)},
		{Name: "bin/busybox", Mode: 0o755, Body: body}, {Name: "bin/ls", Mode: 0o755, Body: []byte("#!/bin/sh\nexec busybox lr \"$@\"\n")},
	}
	for applet := range strings.FieldsSeq(string(out)) {
		if applet != "busybox" && applet != "ls" && applet != "httpd" {
			entries = append(entries, entry{Name: "bin/" + applet, Mode: 0o755, Link: "bin/busybox"})
		}
	}
	return entries
}

// newLayer makes a layer; links are hard ones.
func newLayer(t testing.TB, entries []entry) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.Name, Mode: e.Mode, Size: int64(len(e.Body)), Typeflag: tar.TypeReg}
		switch {
		case e.Dir:
			h.Typeflag = tar.TypeDir
		case e.Link != "":
			h.Typeflag, h.Linkname = tar.TypeLink, e.Link
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.Body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil }, tarball.WithCompressedCaching)
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// push makes an image of the layers, stores it in the registry and returns its digest in hex.
func (s *shop) push(t testing.TB, ref string, config v1.Config, layers ...v1.Layer) string {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	repository, tag, _ := strings.Cut(ref, ":")
	for _, layer := range layers {
		body, err := layer.Compressed()
		s.upload(t, repository, body, err, layer.Digest)
	}
	configFile, err := img.RawConfigFile()
	s.upload(t, repository, io.NopCloser(bytes.NewReader(configFile)), err, img.ConfigName)
	manifest, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	mediaType, err := img.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	s.send(t, http.MethodPut, repository+"/manifests/"+tag, string(mediaType), bytes.NewReader(manifest))
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.Hex
}

// upload stores one blob in a repository.
func (s *shop) upload(t testing.TB, repository string, body io.ReadCloser, err error, digest func() (v1.Hash, error)) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	hash, err := digest()
	if err != nil {
		t.Fatal(err)
	}
	s.send(t, http.MethodPost, repository+"/blobs/uploads/?digest="+hash.String(), "application/octet-stream", body)
}

// send makes one request of the distribution API.
func (s *shop) send(t testing.TB, method, path, contentType string, body io.Reader) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.address+"/v2/"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("push: %s %s: %s: %s", method, path, resp.Status, text)
	}
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
