package testenv

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/reevehq/reeve/internal/ociarchive"
)

// BusyboxRef is the name of the image that BusyboxArchive gives.
const BusyboxRef = "localhost/busybox:test"

// BusyboxArchive makes an OCI archive of BusyboxRef from the host's busybox, which must be static: /bin with its
// applets, root and a user "app" (1000:1000, in group "extra" 2000), sticky /tmp. mods may change the image first.
func BusyboxArchive(t testing.TB, mods ...func(*ociarchive.Image)) []byte {
	t.Helper()
	if len(mods) > 0 {
		return busyboxArchive(t, mods...)
	}
	plain.once.Do(func() { plain.archive = busyboxArchive(t) })
	if plain.archive == nil {
		Skip(t, "the busybox image could not be made, see the first test that wanted it")
	}
	return plain.archive
}

// plain is the unmodified image, made once a test process: compressing it takes seconds under the race detector.
var plain struct {
	once    sync.Once
	archive []byte
}

func busyboxArchive(t testing.TB, mods ...func(*ociarchive.Image)) []byte {
	t.Helper()
	path := NeedBinary(t, "busybox")
	out, err := exec.Command(path, "--list").Output()
	if err != nil {
		t.Fatalf("list busybox's applets: %v", err)
	}
	bin, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	img := ociarchive.Image{
		Ref: BusyboxRef, Fast: true, Arch: runtime.GOARCH, Cmd: []string{"sh"},
		Env: []string{"PATH=/bin:/usr/bin", "FROM_IMAGE=yes"},
		Files: []ociarchive.File{
			{Path: "bin/busybox", Data: bin},
			{Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n")},
			{Path: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\napp:x:1000:\nextra:x:2000:app\n")},
			{Path: "root/", Mode: 0o700}, {Path: "tmp/", Mode: 0o1777}, {Path: "var/tmp/", Mode: 0o1777},
			{Path: "dev/"}, {Path: "proc/"}, {Path: "sys/"}, {Path: "home/app/"}, {Path: "usr/bin/"},
		},
	}
	for _, applet := range strings.Fields(string(out)) {
		if applet != "busybox" {
			img.Files = append(img.Files, ociarchive.File{Path: "bin/" + applet, Link: "busybox"})
		}
	}
	for _, mod := range mods {
		mod(&img)
	}
	var b bytes.Buffer
	if err := ociarchive.Write(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
