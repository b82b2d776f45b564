package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// Parts are what internal/imagebuild makes.
type Parts struct {
	Pause, Hello []byte // OCI archives
	Logpump      string // path of the program
}

var parts = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("REEVE_PARTS"); dir != "" {
		return dir, nil
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", err
	}
	// One folder for all runs: imagebuild replaces files atomically, and only when they change.
	dir := filepath.Join(os.TempDir(), "reeve-parts-"+strconv.Itoa(os.Getuid()))
	cmd := exec.Command("go", "run", "./internal/imagebuild", "-o", dir)
	cmd.Dir = string(root[:len(root)-1])
	if out, err := cmd.CombinedOutput(); err != nil {
		os.Stderr.Write(out)
		return "", err
	}
	return dir, nil
})

// BuildParts builds pause, the demo image and logpump from source, once a test process. REEVE_PARTS names a folder where
// they are already, for machines without a compiler.
func BuildParts(t testing.TB) Parts {
	t.Helper()
	if os.Getenv("REEVE_PARTS") == "" {
		NeedBinary(t, "gcc")
	}
	dir, err := parts()
	if err != nil {
		t.Fatalf("build the runtime's parts: %v", err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return Parts{Pause: read("pause.tar"), Hello: read("hello.tar"), Logpump: filepath.Join(dir, "logpump")}
}
