package volumes

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/testns"
)

type opener struct {
	name string
	open func(root int, rel string) (int, error)
}

var openers = []opener{{"openat2", openBeneath}, {"walk", walkBeneath}}

// Both ways to open follow links that stay inside, and refuse every way out.
func TestOpenBeneath(t *testing.T) {
	base := t.TempDir()
	vol := filepath.Join(base, "vol")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(vol, "in/side"), 0o755))
	must(os.WriteFile(filepath.Join(vol, "file"), []byte("inside"), 0o644))
	must(os.WriteFile(filepath.Join(base, "secret"), []byte("outside"), 0o644))
	for link, to := range map[string]string{
		"rel": "in/side", "up": "in/../file", "abs": filepath.Join(vol, "file"), "etc": "/etc", "out": "../secret",
		"out2": "in/../../secret", "loop": "loop", "in/back": "../file", "in/side/out": "../../../secret", "chain": "rel2", "rel2": "etc",
	} {
		must(os.Symlink(to, filepath.Join(vol, link)))
	}
	root, err := unix.Open(vol, unix.O_PATH|unix.O_CLOEXEC, 0)
	must(err)
	defer unix.Close(root)
	for _, o := range openers {
		for rel, ok := range map[string]bool{
			"file": true, ".": true, "rel": true, "up": true, "in/back": true, "in/side": true,
			"abs": false, "etc": false, "etc/passwd": false, "out": false, "out2": false, "loop": false, "in/side/out": false, "chain": false,
			"..": false, "in/../..": false, "none": false, "file/x": false,
		} {
			fd, err := o.open(root, rel)
			if (err == nil) != ok {
				t.Errorf("%s: open %q: %v, want ok %v", o.name, rel, err, ok)
			}
			if err == nil {
				unix.Close(fd)
			}
		}
	}
}

// While one thread swaps a folder for a link to the outside as fast as it can, no open ever ends outside.
func TestSubPathRace(t *testing.T) {
	base := t.TempDir()
	vol, outside := filepath.Join(base, "vol"), filepath.Join(base, "outside")
	for _, d := range []string{filepath.Join(vol, "a/b"), filepath.Join(outside, "b")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(vol, "evil")); err != nil {
		t.Fatal(err)
	}
	inside, err := os.Stat(filepath.Join(vol, "a/b"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := unix.Open(vol, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		a, evil := filepath.Join(vol, "a"), filepath.Join(vol, "evil")
		for {
			select {
			case <-stop:
				return
			default:
				// Exchange the two names in one step, there and back.
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, evil, unix.RENAME_EXCHANGE)
			}
		}
	})
	opened := 0
	for _, o := range openers {
		for range 3000 {
			fd, err := o.open(root, "a/b")
			if err != nil {
				continue
			}
			opened++
			f := os.NewFile(uintptr(fd), "a/b")
			fi, err := f.Stat()
			if err != nil || !os.SameFile(fi, inside) {
				t.Errorf("%s: opened something outside (%v)", o.name, err)
			}
			f.Close()
		}
	}
	close(stop)
	wg.Wait()
	if opened == 0 {
		t.Error("nothing was ever opened: the test proved nothing")
	}
}

func TestSubPathMounts(t *testing.T) {
	testns.Need(t)
	m := newTestManager(t, nil)
	vol := t.TempDir()
	if err := os.WriteFile(filepath.Join(vol, "f"), []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(vol, 0o775|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	get := func(i int, sub string) string {
		t.Helper()
		p, err := m.SubPath("u", "v", vol, "c", i, sub)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := get(0, "f")
	if data, err := os.ReadFile(p); err != nil || string(data) != "1" {
		t.Fatalf("file subPath reads %q, %v", data, err)
	}
	if again := get(0, "f"); again != p {
		t.Errorf("second call answered %q, first %q", again, p)
	}
	// Replaced by name, as a swapped ConfigMap is: a restarted container sees the new one.
	if err := os.WriteFile(filepath.Join(vol, "f2"), []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(vol, "f2"), filepath.Join(vol, "f")); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(get(0, "f")); err != nil || string(data) != "2" {
		t.Errorf("after the replacement it reads %q, %v", data, err)
	}
	// What is missing is made, with the volume's mode and group.
	d := get(1, "new/deep")
	fi, err := os.Stat(d)
	if err != nil || !fi.IsDir() || fi.Mode().Perm() != 0o775 || fi.Mode()&os.ModeSetgid == 0 {
		t.Errorf("made folder: %v, %v", fi, err)
	}
	if err := os.WriteFile(filepath.Join(d, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(vol, "new/deep/x")); err != nil {
		t.Errorf("the made folder is not the volume's: %v", err)
	}
	for _, bad := range []string{"../x", "/etc", "a/../../x", "new/../.."} {
		if _, err := m.SubPath("u", "v", vol, "c", 2, bad); err == nil {
			t.Errorf("subPath %q was accepted", bad)
		}
	}
	if err := os.Symlink("/etc", filepath.Join(vol, "evil")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.SubPath("u", "v", vol, "c", 2, "evil/passwd"); err == nil || !strings.Contains(err.Error(), "leads out of the volume") {
		t.Errorf("a link to /etc: %v", err)
	}
	m.ReleasePod("u")
	if err := m.WaitUnmounted(t.Context(), "u"); err != nil {
		t.Fatal(err)
	}
	if mounts, err := m.m.Below(m.PodDir("u")); err != nil || len(mounts) != 0 {
		t.Errorf("left mounted: %v, %v", mounts, err)
	}
	if _, err := os.Stat(filepath.Join(vol, "new/deep/x")); err != nil {
		t.Errorf("the volume's own content went with the subPath: %v", err)
	}
}
