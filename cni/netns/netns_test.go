package netns

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/testns"
)

func TestMain(m *testing.M) { testns.Main(m) }

func TestNamespaceLivesWithoutProcessAndGoes(t *testing.T) {
	testns.Need(t)
	dir := filepath.Join(t.TempDir(), "netns")
	path, err := Create(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := IsNamespace(path); !ok || err != nil {
		t.Fatalf("is a namespace: %v, %v", ok, err)
	}
	if _, err := Create(dir, "a"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
	if ok, _ := IsNamespace(path); !ok {
		t.Error("the second Create destroyed the first's namespace")
	}
	var links []net.Interface
	if err := Do(path, func() (err error) { links, err = net.Interfaces(); return err }); err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Name == "lo" && l.Flags&net.FlagUp == 0 {
			t.Error("loopback is down")
		}
		if l.Name != "lo" && l.Flags&net.FlagUp != 0 {
			t.Errorf("%s is up in a new namespace: it is the test's own", l.Name)
		}
	}
	if paths, err := List(dir); err != nil || len(paths) != 1 || paths[0] != path {
		t.Errorf("list: %v, %v", paths, err)
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if paths, _ := List(dir); len(paths) != 0 {
		t.Errorf("left: %v", paths)
	}
}

// What a kill can leave: a file without a mount, a mount over a mount.
func TestRemoveAfterKill(t *testing.T) {
	testns.Need(t)
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if ok, err := IsNamespace(empty); ok || err != nil {
		t.Errorf("an empty file is a namespace: %v, %v", ok, err)
	}
	twice, err := Create(dir, "twice")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(twice, twice, "none", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{empty, twice, filepath.Join(dir, "never")} {
		if err := Remove(path); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there", path)
		}
	}
}

func TestBadNamesAreRefused(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", ".hidden", "/etc/passwd"} {
		if _, err := Create(t.TempDir(), name); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func TestListOfMissingFolder(t *testing.T) {
	if paths, err := List(filepath.Join(t.TempDir(), "none")); err != nil || paths != nil {
		t.Errorf("%v, %v", paths, err)
	}
}

func TestDoAnswersWhatItsFunctionDoes(t *testing.T) {
	testns.Need(t)
	path, err := Create(t.TempDir(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer Remove(path)
	want := errors.New("mine")
	if err := Do(path, func() error { return want }); !errors.Is(err, want) {
		t.Error(err)
	}
	if err := Do(path+"x", func() error { t.Error("ran"); return nil }); err == nil {
		t.Error("entered a missing namespace")
	}
}
