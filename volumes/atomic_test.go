package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func text(s string) file { return file{data: []byte(s), mode: 0o644, uid: -1} }

// seen is what a container sees: files by path, through the links, with "mode content".
func seen(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	ents, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ents {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		top, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		err = filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			out[e.Name()+strings.TrimPrefix(p, top)] = fmt.Sprintf("%o %s", fi.Mode().Perm(), data)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestWritePayload(t *testing.T) {
	dir := t.TempDir()
	put := func(p payload) {
		t.Helper()
		if err := writePayload(dir, p, nil); err != nil {
			t.Fatal(err)
		}
	}
	put(payload{"a": text("1"), "deep/er/b": {data: []byte("2"), mode: 0o400, uid: -1}})
	if d := cmp.Diff(map[string]string{"a": "644 1", "deep/er/b": "400 2"}, seen(t, dir)); d != "" {
		t.Errorf("first (-want +got):\n%s", d)
	}
	before, _ := os.Readlink(filepath.Join(dir, dataLink))
	put(payload{"a": text("1"), "deep/er/b": {data: []byte("2"), mode: 0o400, uid: -1}})
	if after, _ := os.Readlink(filepath.Join(dir, dataLink)); after != before {
		t.Error("the same content was written again")
	}
	put(payload{"a": text("one"), "c": text("3")})
	if d := cmp.Diff(map[string]string{"a": "644 one", "c": "644 3"}, seen(t, dir)); d != "" {
		t.Errorf("second (-want +got):\n%s", d)
	}
	put(payload{"a": {data: []byte("one"), mode: 0o600, uid: -1}})
	if d := cmp.Diff(map[string]string{"a": "600 one"}, seen(t, dir)); d != "" {
		t.Errorf("mode only (-want +got):\n%s", d)
	}
	put(payload{})
	if got := seen(t, dir); len(got) != 0 {
		t.Errorf("empty payload left %v", got)
	}
	ents, _ := os.ReadDir(dir)
	if len(ents) != 2 { // ..data and its folder
		t.Errorf("left over: %v", ents)
	}
}

// A writer that died after any of its steps is finished by the next one.
func TestWritePayloadAfterCrash(t *testing.T) {
	want := map[string]string{"a": "644 new", "d/x": "644 y"}
	for name, crash := range map[string]func(dir string) error{
		"stamp half written": func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, "..2026_01_01_00_00_00.1", "d"), 0o755)
		},
		"link not renamed": func(dir string) error { return os.Symlink("..2026_01_01_00_00_00.1", filepath.Join(dir, dataLinkNew)) },
		"swapped, keys not linked": func(dir string) error {
			stamp, err := writeStamp(dir, payload{"a": text("new"), "d/x": text("y")}, nil)
			if err != nil {
				return err
			}
			return swap(dir, stamp)
		},
		"data points nowhere": func(dir string) error {
			return swap(dir, "..2026_01_01_00_00_00.9")
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := writePayload(dir, payload{"a": text("old"), "gone": text("x")}, nil); err != nil {
				t.Fatal(err)
			}
			if err := crash(dir); err != nil {
				t.Fatal(err)
			}
			if err := writePayload(dir, payload{"a": text("new"), "d/x": text("y")}, nil); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, seen(t, dir)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			ents, _ := os.ReadDir(dir)
			if len(ents) != 4 { // a, d, ..data, its folder
				t.Errorf("left over: %v", ents)
			}
		})
	}
}

// A reader that opens ..data once sees one version in all of its files, however often the volume changes meanwhile.
func TestReadersNeverSeeAMix(t *testing.T) {
	dir := t.TempDir()
	version := func(i int) payload {
		p := payload{}
		for k := range 8 {
			p["k"+strconv.Itoa(k)] = text(strconv.Itoa(i))
		}
		return p
	}
	if err := writePayload(dir, version(0), nil); err != nil {
		t.Fatal(err)
	}
	const rounds = 300
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var whole int
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			root, err := os.OpenRoot(filepath.Join(dir, dataLink))
			if err != nil {
				continue
			}
			var first string
			complete := true
			for k := range 8 {
				data, err := root.ReadFile("k" + strconv.Itoa(k))
				if errors.Is(err, fs.ErrNotExist) {
					complete = false // this version was removed under us; a reader opens ..data again then
					break
				}
				if err != nil {
					t.Error(err)
					break
				}
				if k == 0 {
					first = string(data)
				} else if string(data) != first {
					t.Errorf("k0 is of version %s, k%d of %s", first, k, data)
				}
			}
			if complete {
				whole++
			}
			root.Close()
		}
	})
	for i := 1; i <= rounds; i++ {
		if err := writePayload(dir, version(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if whole == 0 {
		t.Error("no reader ever read a whole version: the test proved nothing")
	}
}

func TestPayloadPaths(t *testing.T) {
	for path, ok := range map[string]bool{"a": true, "a/b": true, "./a": true, "a..b": true, "a/..b": true,
		"": false, ".": false, "/a": false, "..": false, "../a": false, "a/../../b": false, "..a": false} {
		if err := (payload{}).add(path, text("")); (err == nil) != ok {
			t.Errorf("path %q: error %v, want ok %v", path, err, ok)
		}
	}
}
