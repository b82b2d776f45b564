// Imagebuild makes what reeve carries inside itself for its runtime, into a folder that internal/embedded embeds:
//
//	go run ./internal/imagebuild -o internal/embedded/files [-arch arm64] [-cc aarch64-linux-gnu-gcc]
//
// pause.tar   the image localhost/reeve-pause:<version>: pause.c compiled without libc
// hello.tar   the image localhost/reeve-hello:v1: cmd/hello, static
// logpump     cmd/logpump, static
//
// It runs in the module's root, needs gcc and go, and rewrites a file only when its content changes, so that builds
// that follow stay cached.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/reevehq/reeve/internal/embedded"
	"github.com/reevehq/reeve/internal/ociarchive"
)

func main() {
	out := flag.String("o", "internal/embedded/files", "folder to write to")
	arch := flag.String("arch", runtime.GOARCH, "amd64 or arm64")
	cc := flag.String("cc", "gcc", "C compiler for that architecture")
	flag.Parse()
	if err := build(*out, *arch, *cc); err != nil {
		fmt.Fprintln(os.Stderr, "imagebuild:", err)
		os.Exit(1)
	}
}

func build(out, arch, cc string) error {
	tmp, err := os.MkdirTemp("", "reeve-imagebuild-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if _, err := exec.LookPath(cc); err != nil {
		return fmt.Errorf("compile cmd/pause: %w (install the package gcc)", err)
	}
	pause := filepath.Join(tmp, "pause")
	if err := run(nil, cc, "-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables",
		"-s", "-Wl,--build-id=none", "-Wl,-z,noseparate-code", "-o", pause, "cmd/pause/pause.c"); err != nil {
		return fmt.Errorf("compile cmd/pause: %w", err)
	}
	env := append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	for _, name := range []string{"hello", "logpump"} {
		if err := run(env, "go", "build", "-ldflags=-s -w -buildid=", "-o", filepath.Join(tmp, name), "./cmd/"+name); err != nil {
			return fmt.Errorf("build cmd/%s: %w", name, err)
		}
	}
	read := func(name string) []byte {
		var data []byte
		if err == nil {
			data, err = os.ReadFile(filepath.Join(tmp, name))
		}
		return data
	}
	pauseBin, helloBin, pumpBin := read("pause"), read("hello"), read("logpump")
	if err != nil {
		return err
	}
	var pauseTar, helloTar bytes.Buffer
	if err := ociarchive.Write(&pauseTar, PauseImage(arch, pauseBin)); err != nil {
		return err
	}
	if err := ociarchive.Write(&helloTar, HelloImage(arch, helloBin)); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		embedded.PauseFile: pauseTar.Bytes(), embedded.HelloFile: helloTar.Bytes(), embedded.LogpumpFile: pumpBin,
	} {
		if err := writeIfChanged(filepath.Join(out, name), data); err != nil {
			return err
		}
	}
	return nil
}

// PauseImage has, beside the program, the folders that a runtime mounts over, because its root is mounted read-only.
func PauseImage(arch string, program []byte) ociarchive.Image {
	return ociarchive.Image{
		Ref: embedded.PauseRef, Arch: arch, User: "65535:65535", Entrypoint: []string{"/pause"}, StopSignal: "SIGTERM",
		Files: []ociarchive.File{
			{Path: "dev/"}, {Path: "proc/"}, {Path: "sys/"}, {Path: "etc/"}, {Path: "pause", Data: program},
		},
	}
}

// HelloImage is the demo image.
func HelloImage(arch string, program []byte) ociarchive.Image {
	return ociarchive.Image{
		Ref: embedded.HelloRef, Arch: arch, User: "65532:65532", Entrypoint: []string{"/hello"}, Ports: []string{"8080/tcp"},
		Files: []ociarchive.File{
			{Path: "dev/"}, {Path: "proc/"}, {Path: "sys/"}, {Path: "tmp/", Mode: 0o1777},
			{Path: "etc/passwd", Mode: 0o644, Data: []byte("root:x:0:0:root:/:/hello\nnonroot:x:65532:65532:nonroot:/:/hello\n")},
			{Path: "etc/group", Mode: 0o644, Data: []byte("root:x:0:\nnonroot:x:65532:\n")},
			{Path: "hello", Data: program},
		},
	}
}

func run(env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

func writeIfChanged(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(0o755), f.Close()); err != nil { // logpump is run from there by tests
		return err
	}
	return os.Rename(f.Name(), path)
}
