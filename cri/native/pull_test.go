package native

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/ociarchive"
)

// front stands before a registry and can do harm.
type front struct {
	host string
	sent atomic.Int64 // bytes of large blobs

	mu     sync.Mutex
	ranges []string // Range headers of large blobs' requests
	cut    int      // how many of these to break off half-way
	last   bool     // and after the first of them answer 500 to all
	dead   bool     // answer 500 to all
	refuse bool     // refuse ranges
}

// large is what counts as a large blob.
const large = 1 << 20

func newFront(t *testing.T, back string) *front {
	f := &front{}
	u, err := url.Parse("http://" + back)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(u)
	blob := func(w http.ResponseWriter, q *http.Request) {
		resp, err := http.Get("http://" + back + q.URL.Path)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if len(data) < large {
			w.Write(data)
			return
		}
		f.mu.Lock()
		f.ranges = append(f.ranges, q.Header.Get("Range"))
		cut, refuse := f.cut > 0, f.refuse && q.Header.Get("Range") != ""
		if f.cut > 0 {
			f.cut--
		}
		f.mu.Unlock()
		switch {
		case refuse:
			http.Error(w, "no ranges here", http.StatusRequestedRangeNotSatisfiable)
		case cut:
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			w.Write(data[:len(data)/2])
			f.sent.Add(int64(len(data) / 2))
			if f.last {
				f.set(0, true)
			}
			panic(http.ErrAbortHandler)
		default:
			http.ServeContent(counting{w, &f.sent}, q, "", time.Time{}, bytes.NewReader(data))
		}
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		f.mu.Lock()
		dead := f.dead
		f.mu.Unlock()
		if dead {
			http.Error(w, "the registry is on fire", http.StatusInternalServerError)
			return
		}
		if q.Method == http.MethodGet && strings.Contains(q.URL.Path, "/blobs/") {
			blob(w, q)
			return
		}
		proxy.ServeHTTP(w, q)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(srv.Close)
	f.host = strings.TrimPrefix(srv.URL, "http://")
	return f
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (f *front) set(cut int, dead bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut, f.dead, f.ranges = cut, dead, nil
	f.sent.Store(0)
}

func randomImage(t *testing.T, size int) ociarchive.Image {
	data := make([]byte, size)
	rand.Read(data)
	return testImage(string(data))
}

// TestPullResumes: a connection that breaks costs what it had not brought yet; a registry that dies fails the pull with
// its name, and the next pull goes on where that one ended, or from the beginning where the registry cannot go on.
func TestPullResumes(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	reg := newRegistry(t)
	const size = 2 << 20
	reg.push(t, "a/broken:v1", randomImage(t, size))
	reg.push(t, "a/dies:v1", randomImage(t, size))
	reg.push(t, "a/refuses:v1", randomImage(t, size))
	f := newFront(t, reg.host)

	f.set(1, false)
	if _, err := g.PullImage(ctx, &runtimeapi.ImageSpec{Image: f.host + "/a/broken:v1"}, nil, nil); err != nil {
		t.Errorf("over a connection that broke: %v", err)
	}
	if sent := f.sent.Load(); sent > size*5/4 {
		t.Errorf("%d bytes were sent for an image of %d: requests %q", sent, size, f.ranges)
	}

	for _, name := range []string{"dies", "refuses"} {
		f.set(1, false)
		f.last = true
		ref := f.host + "/a/" + name + ":v1"
		if _, err := g.PullImage(ctx, &runtimeapi.ImageSpec{Image: ref}, nil, nil); err == nil || !strings.Contains(err.Error(), ref) {
			t.Errorf("from a registry that died: %v", err)
		}
		f.set(0, false)
		f.refuse = name == "refuses"
		if _, err := g.PullImage(ctx, &runtimeapi.ImageSpec{Image: ref}, nil, nil); err != nil {
			t.Errorf("%s, again: %v", name, err)
		}
		if sent := f.sent.Load(); sent > size*3/4 && !f.refuse {
			t.Errorf("the second pull fetched %d of %d bytes, half of them were there: requests %q", sent, size, f.ranges)
		}
	}
}

// TestPullsAreBounded: no more images at once than MaxPulls.
func TestPullsAreBounded(t *testing.T) {
	g := newRig(t, func(c *Config) { c.MaxPulls = 2 })
	ctx := t.Context()
	reg := newRegistry(t)
	var now, most atomic.Int32
	var wg sync.WaitGroup
	for i := range 6 {
		reg.push(t, fmt.Sprintf("a/i%d:v1", i), testImage(fmt.Sprint(i)))
		wg.Go(func() {
			_, err := g.images.pulls.do(ctx, fmt.Sprint(i), func(c context.Context) (string, error) {
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				defer now.Add(-1)
				return g.images.pull(c, reg.host+fmt.Sprintf("/a/i%d:v1", i), nil)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most.Load() > 2 {
		t.Errorf("%d pulls at once", most.Load())
	}
}

// TestRegistryHosts: a registry with a certificate of its own needs the CA that its hosts file names; one may be plain
// HTTP, and a mirror that is down is passed over.
func TestRegistryHosts(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	reg := newRegistry(t)
	reg.push(t, "a/one:v1", testImage("one"))
	u, err := url.Parse("http://" + reg.host)
	if err != nil {
		t.Fatal(err)
	}
	secure := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(u))
	secure.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	secure.StartTLS()
	t.Cleanup(secure.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	hosts := func(registry, text string) {
		dir := filepath.Join(g.cfg.RegistryDir, registry)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pull := func(registry string) error {
		_, err := g.PullImage(ctx, &runtimeapi.ImageSpec{Image: registry + "/a/one:v1"}, nil, nil)
		return err
	}
	hosts("unknown.example", fmt.Sprintf("server = %q\n", secure.URL))
	if err := pull("unknown.example"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the CA: %v", err)
	}
	hosts("ca.example", fmt.Sprintf("server = %q\n[host.%q]\n  ca = %q\n", secure.URL, secure.URL, ca))
	if err := pull("ca.example"); err != nil {
		t.Errorf("with the CA: %v", err)
	}
	hosts("skip.example", fmt.Sprintf("server = %q\n[host.%q]\n  skip_verify = true\n", secure.URL, secure.URL))
	if err := pull("skip.example"); err != nil {
		t.Errorf("with skip_verify: %v", err)
	}
	hosts("plain.example", fmt.Sprintf("server = %q\n[host.\"http://127.0.0.1:1\"]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+reg.host))
	if err := pull("plain.example"); err != nil {
		t.Errorf("plain HTTP behind a mirror that is down: %v", err)
	}
	hosts("broken.example", "server = [\n")
	if err := pull("broken.example"); err == nil || !strings.Contains(err.Error(), "broken.example/hosts.toml") {
		t.Errorf("a broken hosts file: %v", err)
	}
}
