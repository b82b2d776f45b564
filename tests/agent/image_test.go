package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	imagev1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pullable is a registry of the test's own on loopback, where repositories under private/ want a password.
type pullable struct {
	t     testing.TB
	host  string
	store http.Handler

	mu    sync.Mutex
	pulls map[string]int // manifests asked for, by repository
	asked []time.Time    // every request for a manifest
	held  map[string]chan struct{}
	down  bool
}

const registryUser, registryPassword = "clerk", "pass:word"

func newRegistry(t testing.TB) *pullable {
	t.Helper()
	r := &pullable{t: t, pulls: map[string]int{}, held: map[string]chan struct{}{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.host = l.Addr().String()
	r.store = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		repo, what := "", ""
		for _, kind := range []string{"/manifests/", "/blobs/"} {
			if i := strings.Index(q.URL.Path, kind); i > 0 {
				repo, what = strings.TrimPrefix(q.URL.Path[:i], "/v2/"), kind
			}
		}
		if strings.HasPrefix(repo, "private/") {
			if user, password, ok := q.BasicAuth(); !ok || user != registryUser || password != registryPassword {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		}
		r.mu.Lock()
		hold, down := r.held[repo], r.down
		if what == "/manifests/" {
			r.asked = append(r.asked, time.Now())
		}
		if what == "/manifests/" && q.Method == http.MethodGet {
			r.pulls[repo]++
		}
		r.mu.Unlock()
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if hold != nil && what == "/blobs/" && q.Method == http.MethodGet {
			w = &late{ResponseWriter: w, begin: hold, given: q.Context().Done()}
		}
		r.store.ServeHTTP(w, q)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return r
}

// push makes an image of busybox with a file /tag that holds the text, and returns its digest.
func (r *pullable) push(ref, text string) string {
	r.t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		r.t.Fatal(err)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range []struct {
		name string
		mode int64
		body []byte
	}{{"busybox", 0o755, body}, {"tag", 0o644, []byte(text)}} {
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.body)), Typeflag: tar.TypeReg}), errOf(w.Write(f.body))); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		r.t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(buf.Bytes(), types.DockerUncompressedLayer))
	if err != nil {
		r.t.Fatal(err)
	}
	if img, err = mutate.Config(img, imagev1.Config{Cmd: []string{"/busybox", "cat", "/tag"}}); err != nil {
		r.t.Fatal(err)
	}
	repo, tag, _ := strings.Cut(ref, ":")
	put := func(method, path, kind string, body []byte) {
		q := httptest.NewRequest(method, "/v2/"+repo+path, bytes.NewReader(body))
		q.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		r.store.ServeHTTP(w, q)
		if w.Code >= 300 {
			r.t.Fatalf("push %s of %s: %d %s", path, ref, w.Code, w.Body)
		}
	}
	file, err := img.RawConfigFile()
	if err != nil {
		r.t.Fatal(err)
	}
	manifest, err := img.RawManifest()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, blob := range [][]byte{buf.Bytes(), file} {
		h, _, err := imagev1.SHA256(bytes.NewReader(blob))
		if err != nil {
			r.t.Fatal(err)
		}
		put(http.MethodPost, "/blobs/uploads/?digest="+h.String(), "application/octet-stream", blob)
	}
	put(http.MethodPut, "/manifests/"+tag, string(types.DockerManifestSchema2), manifest)
	d, err := img.Digest()
	if err != nil {
		r.t.Fatal(err)
	}
	return d.String()
}

// late answers with its headers at once, as a slow registry does, and with the body when it may begin.
type late struct {
	http.ResponseWriter
	begin, given <-chan struct{}
}

func (l *late) Write(b []byte) (int, error) {
	if err := http.NewResponseController(l.ResponseWriter).Flush(); err != nil {
		return 0, err
	}
	select {
	case <-l.begin:
		return l.ResponseWriter.Write(b)
	case <-l.given:
		return 0, context.Canceled
	}
}

func errOf(_ int, err error) error { return err }

func (r *pullable) count(repo string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pulls[repo]
}

func (r *pullable) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// hold keeps the repository's layers back until the returned function is called.
func (r *pullable) hold(repo string) (release func()) {
	ch := make(chan struct{})
	r.set(func() { r.held[repo] = ch })
	return sync.OnceFunc(func() {
		close(ch)
		r.set(func() { delete(r.held, repo) })
	})
}

// oneShot is a pod that prints its image's text and ends.
func oneShot(image, policy, more string) string {
	return fmt.Sprintf(`{restartPolicy: Never, %s containers: [{name: c, image: %q, imagePullPolicy: %s, command: [/busybox, cat, /tag]}]}`, more, image, policy)
}

// TestPullPolicies counts what each policy asks of the registry.
func TestPullPolicies(t *testing.T) {
	s := open(t)
	r := newRegistry(t)
	repo := s.ns + "/app"
	digest := r.push(repo+":v1", "first")
	run := func(pod, image, policy, want string, pulls int) {
		t.Helper()
		s.pod(pod, oneShot(image, policy, ""))
		p := s.ended(pod, v1.PodSucceeded)
		if got := strings.TrimSpace(s.logs(pod, "c")); got != want {
			t.Errorf("%s ran %q, want %q", pod, got, want)
		}
		if got := r.count(repo); got != pulls {
			t.Errorf("after %s: %d manifests pulled, want %d", pod, got, pulls)
		}
		if id := status(p, "c").ImageID; !strings.Contains(id, "sha256:") {
			t.Errorf("%s: imageID is %q", pod, id)
		}
	}
	image := r.host + "/" + repo + ":v1"
	run("absent", image, "IfNotPresent", "first", 1)
	run("present", image, "IfNotPresent", "first", 1)
	run("never", image, "Never", "first", 1)
	r.push(repo+":v1", "second")
	run("stale", image, "IfNotPresent", "first", 1)
	before := r.count(repo)
	s.pod("always", oneShot(image, "Always", ""))
	s.ended("always", v1.PodSucceeded)
	if got := strings.TrimSpace(s.logs("always", "c")); got != "second" || r.count(repo) == before {
		t.Errorf("Always ran %q after %d manifests, %d before", got, r.count(repo), before)
	}
	s.pod("digest", oneShot(r.host+"/"+repo+"@"+digest, "IfNotPresent", ""))
	s.ended("digest", v1.PodSucceeded)
	if got := strings.TrimSpace(s.logs("digest", "c")); got != "first" {
		t.Errorf("by its digest ran %q, want the first", got)
	}
	r.push(repo+":latest", "latest")
	s.pod("untagged", oneShot(r.host+"/"+repo, "Always", ""))
	s.ended("untagged", v1.PodSucceeded)
	if got := strings.TrimSpace(s.logs("untagged", "c")); got != "latest" {
		t.Errorf("without a tag ran %q", got)
	}
	s.pod("nowhere", oneShot(r.host+"/"+repo+":v9", "Never", ""))
	s.wait("nowhere", "without an image", func(p *v1.Pod) error { return waiting(p, "c", "ErrImageNeverPull") })
	s.event("nowhere", "ErrImageNeverPull", "is not present with pull policy of Never")
	s.event("absent", "Pulling", fmt.Sprintf("Pulling image %q", image))
	s.event("absent", "Pulled", "Successfully pulled image")
	s.event("present", "Pulled", "already present on machine")
}

// TestPullSecrets pulls what wants a password: with the pod's Secret, with its service account's, and not without.
func TestPullSecrets(t *testing.T) {
	s := open(t)
	r := newRegistry(t)
	image := func(tag string) string {
		repo := "private/" + s.ns + "/" + tag
		r.push(repo+":v1", tag)
		return r.host + "/" + repo + ":v1"
	}
	secret := func(name, host, password string) {
		t.Helper()
		_, err := s.client.CoreV1().Secrets(s.ns).Create(s.ctx(), &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: v1.SecretTypeDockerConfigJson,
			StringData: map[string]string{v1.DockerConfigJsonKey: fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, host, registryUser, password)}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	secret("good", "http://"+r.host, registryPassword)
	secret("wrong", r.host, "guess")
	secret("elsewhere", "registry.example", registryPassword)

	s.pod("pods", oneShot(image("pods"), "Always", "imagePullSecrets: [{name: elsewhere}, {name: wrong}, {name: good}, {name: missing}],"))
	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "puller"}, ImagePullSecrets: []v1.LocalObjectReference{{Name: "good"}}}
	if _, err := s.client.CoreV1().ServiceAccounts(s.ns).Create(s.ctx(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually("the account in the API's cache", func() error {
		p, err := s.try("accounts", oneShot(image("accounts"), "Always", "serviceAccountName: puller,"))
		if err == nil {
			return is("imagePullSecrets", len(p.Spec.ImagePullSecrets), 1)
		}
		return err
	})
	private := image("none")
	s.pod("none", oneShot(private, "Always", ""))
	s.pod("wrong", oneShot(image("wrong"), "Always", "imagePullSecrets: [{name: wrong}],"))
	for _, name := range []string{"pods", "accounts"} {
		s.ended(name, v1.PodSucceeded)
		if got := strings.TrimSpace(s.logs(name, "c")); got != name {
			t.Errorf("%s ran %q", name, got)
		}
	}
	for _, name := range []string{"none", "wrong"} {
		s.wait(name, "refused", func(p *v1.Pod) error { return waiting(p, "c", "ErrImagePull") })
		p := s.wait(name, "backing off", func(p *v1.Pod) error { return waiting(p, "c", "ImagePullBackOff") })
		if msg := status(p, "c").State.Waiting.Message; !strings.Contains(msg, "401 Unauthorized") && !strings.Contains(msg, "authorization failed") {
			t.Errorf("%s waits with %q", name, msg)
		}
		s.event(name, "Failed", "Failed to pull image")
		s.event(name, "BackOff", "Back-off pulling image")
	}
	if strings.Contains(s.tailOfLog(), registryPassword) {
		t.Error("the password is in the node's log")
	}
}

func (s *space) tailOfLog() string {
	b, err := os.ReadFile(s.LogFile())
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// TestPullBackOff breaks a registry and heals it: the pull is tried again after a back-off that grows, and then works. The
// registry's own clock tells.
func TestPullBackOff(t *testing.T) {
	s := open(t)
	r := newRegistry(t)
	repo := s.ns + "/app"
	r.push(repo+":v1", "here")
	r.set(func() { r.down = true })
	s.pod("p", oneShot(r.host+"/"+repo+":v1", "IfNotPresent", ""))
	s.wait("p", "failing", func(p *v1.Pod) error { return waiting(p, "c", "ErrImagePull") })
	s.wait("p", "backing off", func(p *v1.Pod) error { return waiting(p, "c", "ImagePullBackOff") })
	r.set(func() { r.down = false })
	s.ended("p", v1.PodSucceeded)
	longest := time.Duration(0)
	r.set(func() {
		for i := 1; i < len(r.asked); i++ {
			longest = max(longest, r.asked[i].Sub(r.asked[i-1]))
		}
	})
	if longest < 8*time.Second {
		t.Errorf("it was pulled again after %s; the first back-off is 10 s", longest)
	}
}

// TestPullsSideBySide has one image that does not come: others come all the same, and two pods that want one image pull
// it once.
func TestPullsSideBySide(t *testing.T) {
	s := open(t)
	r := newRegistry(t)
	slow, quick, shared := s.ns+"/slow", s.ns+"/quick", s.ns+"/shared"
	for _, repo := range []string{slow, quick, shared} {
		r.push(repo+":v1", repo)
	}
	release := r.hold(slow)
	defer release()
	s.pod("slow", oneShot(r.host+"/"+slow+":v1", "IfNotPresent", ""))
	s.event("slow", "Pulling", slow)
	s.pod("quick", oneShot(r.host+"/"+quick+":v1", "IfNotPresent", ""))
	s.ended("quick", v1.PodSucceeded)
	if c := status(s.now("slow"), "c"); c.State.Waiting == nil || c.State.Waiting.Reason != "ContainerCreating" {
		t.Errorf("the slow one is %s", state(c))
	}
	open := r.hold(shared)
	s.pod("one", oneShot(r.host+"/"+shared+":v1", "IfNotPresent", ""))
	s.pod("two", oneShot(r.host+"/"+shared+":v1", "IfNotPresent", ""))
	s.event("one", "Pulling", shared)
	s.event("two", "Pulling", shared)
	open()
	s.ended("one", v1.PodSucceeded)
	s.ended("two", v1.PodSucceeded)
	if got := r.count(shared); got != 1 {
		t.Errorf("two pods' image was pulled %d times", got)
	}
	release()
	s.ended("slow", v1.PodSucceeded)
}

// TestBadImageNames are told as such, and at once.
func TestBadImageNames(t *testing.T) {
	s := open(t)
	for pod, image := range map[string]string{"upper": "App", "colons": "a::b", "digest": "app@sha256:beef"} {
		s.pod(pod, oneShot(image, "IfNotPresent", ""))
		s.wait(pod, "refused", func(p *v1.Pod) error { return waiting(p, "c", "InvalidImageName") })
		s.event(pod, "InspectFailed", "couldn't parse image name")
	}
}
