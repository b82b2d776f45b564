package native

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/embedded"
	"github.com/reevehq/reeve/internal/ociarchive"
	"github.com/reevehq/reeve/internal/testenv"
)

// testRegistry serves images on loopback; with a password it wants Basic authentication.
type testRegistry struct {
	host     string
	password atomic.Value
	blobs    atomic.Int64
}

func newRegistry(t *testing.T) *testRegistry {
	r := &testRegistry{}
	r.password.Store("")
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if want := r.password.Load().(string); want != "" {
			if _, pw, _ := q.BasicAuth(); pw != want {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		}
		if q.Method == http.MethodGet && strings.Contains(q.URL.Path, "/blobs/") {
			r.blobs.Add(1)
		}
		inner.ServeHTTP(w, q)
	}))
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

// push puts an image into the registry under name:tag, by the distribution API.
func (r *testRegistry) push(t *testing.T, ref string, img ociarchive.Image) {
	t.Helper()
	var b bytes.Buffer
	if err := ociarchive.Write(&b, img); err != nil {
		t.Fatal(err)
	}
	repo, tag, _ := strings.Cut(ref, ":")
	send := func(method, path, contentType string, data []byte) {
		q, err := http.NewRequest(method, "http://"+r.host+"/v2/"+repo+path, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	blobs := map[string][]byte{}
	var index struct {
		Manifests []struct{ Digest, MediaType string }
	}
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		data, rerr := io.ReadAll(tr)
		if err := errors.Join(err, rerr); err != nil {
			t.Fatal(err)
		}
		if h.Name == "index.json" {
			if err := json.Unmarshal(data, &index); err != nil {
				t.Fatal(err)
			}
		} else if d, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok {
			blobs["sha256:"+d] = data
		}
	}
	manifest := index.Manifests[0]
	for d, data := range blobs {
		if d != manifest.Digest {
			send(http.MethodPost, "/blobs/uploads/?digest="+d, "application/octet-stream", data)
		}
	}
	send(http.MethodPut, "/manifests/"+tag, manifest.MediaType, blobs[manifest.Digest])
}

func testImage(content string) ociarchive.Image {
	return ociarchive.Image{Ref: "x:y", Fast: true, Arch: runtime.GOARCH, Cmd: []string{"/x"}, User: "nobody:7", Files: []ociarchive.File{{Path: "x", Data: []byte(content)}}}
}

func TestPull(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	reg := newRegistry(t)
	reg.push(t, "a/one:v1", testImage("one"))
	reg.push(t, "a/two:v1", testImage("two"))
	ref := reg.host + "/a/one:v1"
	spec := &runtimeapi.ImageSpec{Image: ref}
	if st, err := g.ImageStatus(ctx, spec, false); err != nil || st.Image != nil {
		t.Fatalf("before: %v, %v", st, err)
	}
	// Everybody at once: one pull.
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		wg.Go(func() {
			var err error
			if ids[i], err = g.PullImage(ctx, spec, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || !strings.HasPrefix(id, "sha256:") {
			t.Fatalf("IDs differ: %q", ids)
		}
	}
	if n := reg.blobs.Load(); n != 2 {
		t.Errorf("%d blobs were fetched, want the config and one layer", n)
	}
	st, err := g.ImageStatus(ctx, spec, true)
	if err != nil || st.Image == nil || st.Image.Id != ids[0] || len(st.Image.RepoTags) != 1 || len(st.Image.RepoDigests) != 1 || st.Image.Size == 0 || st.Image.Username != "nobody" {
		t.Fatalf("after: %v, %v", st, err)
	}
	for _, alias := range []string{ids[0], strings.TrimPrefix(ids[0], "sha256:"), strings.TrimPrefix(ids[0], "sha256:")[:12], st.Image.RepoDigests[0]} {
		if got, err := g.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: alias}, false); err != nil || got.Image.GetId() != ids[0] {
			t.Errorf("by %q: %v, %v", alias, got, err)
		}
	}
	byDigest := st.Image.RepoDigests[0]
	if err := g.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: ids[0]}); err != nil {
		t.Fatal(err)
	}
	if got, _ := g.ImageStatus(ctx, spec, false); got.Image != nil {
		t.Errorf("after removal: %v", got)
	}
	if id, err := g.PullImage(ctx, &runtimeapi.ImageSpec{Image: byDigest}, nil, nil); err != nil || id != ids[0] {
		t.Errorf("by digest: %q, %v", id, err)
	}

	reg.password.Store("secret")
	two := &runtimeapi.ImageSpec{Image: reg.host + "/a/two:v1"}
	if _, err := g.PullImage(ctx, two, nil, nil); err == nil || !strings.Contains(err.Error(), "a/two:v1") {
		t.Errorf("without password: %v", err)
	}
	if _, err := g.PullImage(ctx, two, &runtimeapi.AuthConfig{Username: "me", Password: "wrong"}, nil); err == nil {
		t.Error("a wrong password worked")
	}
	if _, err := g.PullImage(ctx, two, &runtimeapi.AuthConfig{Username: "me", Password: "secret", ServerAddress: "other.example"}, nil); err == nil {
		t.Error("credentials went to another registry")
	}
	if _, err := g.PullImage(ctx, two, &runtimeapi.AuthConfig{Auth: "bWU6c2VjcmV0"}, nil); err != nil {
		t.Errorf("with auth: %v", err)
	}
	if _, err := g.PullImage(ctx, &runtimeapi.ImageSpec{Image: reg.host + "/a/none:v1"}, &runtimeapi.AuthConfig{Username: "me", Password: "secret"}, nil); status.Code(err) != codes.NotFound {
		t.Errorf("unknown image: %v", err)
	}
	if _, err := g.PullImage(ctx, &runtimeapi.ImageSpec{Image: "Not A Reference"}, nil, nil); status.Code(err) != codes.InvalidArgument {
		t.Errorf("bad reference: %v", err)
	}
	// A hosts file leads elsewhere.
	reg.password.Store("")
	dir := filepath.Join(g.cfg.RegistryDir, "mirror.example")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	hosts := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+reg.host, "http://"+reg.host)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := g.PullImage(ctx, &runtimeapi.ImageSpec{Image: "mirror.example/a/two:v1"}, nil, nil); err != nil {
		t.Errorf("through a mirror: %v", err)
	}
	g.restart()
	imgs, err := g.ListImages(ctx, nil)
	if err != nil || len(imgs) != 4 {
		t.Errorf("after restart: %v, %v", imgs, err)
	}
	for _, img := range imgs {
		if pause := strings.Contains(strings.Join(img.RepoTags, ""), embedded.PauseRef); img.Pinned != pause {
			t.Errorf("pinned %t: %v", img.Pinned, img.RepoTags)
		}
	}
	fs, err := g.ImageFsInfo(ctx)
	if err != nil || fs.ImageFilesystems[0].UsedBytes.Value == 0 || !strings.HasPrefix(fs.ImageFilesystems[0].FsId.Mountpoint, g.dir) {
		t.Errorf("fs: %v, %v", fs, err)
	}
}

func TestImageFolder(t *testing.T) {
	folder := t.TempDir()
	var b bytes.Buffer
	img := testImage("from a folder")
	img.Ref = "localhost/folder:v1"
	if err := ociarchive.Write(&b, img); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "a.tar"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "broken.tar"), []byte("nonsense"), 0o644); err != nil {
		t.Fatal(err)
	}
	g := newRig(t, func(c *Config) { c.ImageDir = folder })
	if st, err := g.ImageStatus(t.Context(), &runtimeapi.ImageSpec{Image: "localhost/folder:v1"}, false); err != nil || st.Image == nil {
		t.Fatalf("%v, %v", st, err)
	}
	if _, err := g.ImportImages(t.Context(), bytes.NewReader(testenv.BusyboxArchive(t))); err != nil {
		t.Error(err)
	}
	if _, err := g.ImportImages(t.Context(), strings.NewReader("nonsense")); err == nil {
		t.Error("nonsense was imported")
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"busybox", "localhost/reeve-hello:v1", "a/b@sha256:" + strings.Repeat("a", 64), "UPPER", "a:b:c", "", "x\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		full, err := normalize(s)
		if err != nil {
			if status.Code(err) != codes.InvalidArgument {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if again, err := normalize(full); err != nil || again != full {
			t.Fatalf("%q became %q, and that %q, %v", s, full, again, err)
		}
	})
}

func TestPullsShareAndCancel(t *testing.T) {
	p := pulls{flights: map[string]*flight{}, slots: make(chan struct{}, 1)}
	started, cancelled := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := p.do(ctx, "k", func(c context.Context) (string, error) {
			close(started)
			<-c.Done()
			close(cancelled)
			return "", c.Err()
		})
		first <- err
	}()
	<-started
	second, leave := context.WithCancel(t.Context())
	go func() { p.do(second, "k", nil) }()
	for joined := false; !joined; {
		p.mu.Lock()
		joined = p.flights["k"].waiters == 2
		p.mu.Unlock()
	}
	cancel() // the first caller leaves: the pull goes on for the second
	<-first
	select {
	case <-cancelled:
		t.Fatal("a pull with a waiter was cancelled")
	default:
	}
	leave()
	<-cancelled
}
