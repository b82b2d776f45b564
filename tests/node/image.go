package node

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// BusyboxImage is the image that Busybox makes.
const BusyboxImage = "localhost/busybox:v1"

// Entry is one file of an image layer.
type Entry struct {
	Name, Link string
	Mode       int64
	Body       []byte
	Dir        bool
}

// WriteImage makes an image archive of the entries in the data-dir's image folder, from where the agent imports it, or
// gives it to the plugin's containerd.
func (n *Node) WriteImage(ref string, config v1.Config, entries []Entry) {
	n.T.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.Name, Mode: e.Mode, Size: int64(len(e.Body)), Typeflag: tar.TypeReg}
		switch {
		case e.Dir:
			h.Typeflag = tar.TypeDir
		case e.Link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
		}
		if err := w.WriteHeader(h); err != nil {
			n.T.Fatal(err)
		}
		if _, err := w.Write(e.Body); err != nil {
			n.T.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		n.T.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		n.T.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		n.T.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		n.T.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		n.T.Fatal(err)
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		n.T.Fatal(err)
	}
	if n.Plugin != nil {
		var archive bytes.Buffer
		if err := tarball.Write(tag, img, &archive); err != nil {
			n.T.Fatal(err)
		}
		n.Plugin.Import(n.T, archive.Bytes())
		return
	}
	folder := filepath.Join(n.DataDir(), "agent", "images")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		n.T.Fatal(err)
	}
	archive := strings.NewReplacer("/", "_", ":", "_").Replace(ref) + ".tar"
	if err := tarball.WriteToFile(filepath.Join(folder, archive), tag, img); err != nil {
		n.T.Fatal(err)
	}
}

// Busybox makes an image of Debian's busybox-static with a link for each of its commands, and of fetch.
func (n *Node) Busybox() {
	n.T.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		n.T.Fatalf("needs busybox-static: %v", err)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		n.T.Fatal(err)
	}
	out, err := exec.Command(path, "--list").Output()
	if err != nil {
		n.T.Fatal(err)
	}
	entries := []Entry{
		{Name: "bin/", Mode: 0o755, Dir: true}, {Name: "etc/", Mode: 0o755, Dir: true}, {Name: "tmp/", Mode: 0o1777, Dir: true}, {Name: "www/", Mode: 0o755, Dir: true},
		{Name: "etc/passwd", Mode: 0o644, Body: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")},
		{Name: "etc/group", Mode: 0o644, Body: []byte("root:x:0:\nnogroup:x:65534:\n")},
		{Name: "bin/busybox", Mode: 0o755, Body: body},
		{Name: "bin/fetch", Mode: 0o755, Body: GoProgram(n.T, "github.com/reevehq/reeve/tests/node/fetch")},
	}
	for applet := range strings.FieldsSeq(string(out)) {
		if applet != "busybox" {
			entries = append(entries, Entry{Name: "bin/" + applet, Mode: 0o777, Link: "busybox"})
		}
	}
	n.WriteImage(BusyboxImage, v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh"}}, entries)
}

// GoProgram builds a Go program of the module, static.
func GoProgram(t testing.TB, pkg string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, b)
	}
	body, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
