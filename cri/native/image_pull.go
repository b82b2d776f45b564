package native

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	toml "github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/logkey"
)

// layersAtOnce bounds one pull's parallel downloads, as containerd's default.
const layersAtOnce = 3

// PullImage fetches an image with the request's credentials, through the registry hosts files, and returns its ID. Equal
// requests share one pull, which goes on while any of them waits; different ones wait for one of MaxPulls slots.
func (r *Runtime) PullImage(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	name, err := normalize(spec.GetImage())
	if err != nil {
		return "", err
	}
	id, err := r.images.pulls.do(ctx, name+"\x00"+auth.String(), func(ctx context.Context) (string, error) {
		began := time.Now()
		id, err := r.images.pull(ctx, name, auth)
		if err == nil {
			r.log.Info("Pulled image", logkey.Image, name, logkey.Duration, time.Since(began).Round(time.Millisecond))
		}
		return id, err
	})
	if err != nil {
		return "", toStatus(fmt.Errorf("pull image %q: %w", spec.GetImage(), err))
	}
	return id, nil
}

func (s *imageStore) pull(ctx context.Context, name string, auth *runtimeapi.AuthConfig) (string, error) {
	if err := checkHosts(s.cfg.RegistryDir, name); err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var alive activity
	stopWatch := alive.watch(pullIdleTimeout, func() {
		cancel(status.Errorf(codes.DeadlineExceeded, "no progress for %s", pullIdleTimeout))
	})
	defer stopWatch()
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: config.ConfigureHosts(ctx, config.HostOptions{
		HostDir:     config.HostDirFromRoot(s.cfg.RegistryDir),
		Credentials: func(host string) (string, string, error) { return credentials(auth, host) },
		UpdateClient: func(c *http.Client) error {
			c.Transport = &activeTransport{next: c.Transport, alive: &alive}
			return nil
		},
	})})
	pull := func() (containerd.Image, error) {
		return s.client.Pull(ctx, name, containerd.WithResolver(resolver), containerd.WithPullUnpack,
			containerd.WithPullSnapshotter(s.cfg.Snapshotter), containerd.WithMaxConcurrentDownloads(layersAtOnce))
	}
	got, err := pull()
	if err != nil && s.dropUnresumable(ctx, err) {
		got, err = pull()
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		return "", err
	}
	// The digest is what containers' statuses name, so it is kept as a name of its own.
	rec := images.Image{Name: got.Name(), Target: got.Target(), Labels: got.Labels()}
	if tagged, err := reference.ParseDockerRef(name); err == nil {
		if d, err := reference.WithDigest(reference.TrimNamed(tagged), got.Target().Digest); err == nil && d.String() != name {
			alias := images.Image{Name: d.String(), Target: got.Target(), Labels: got.Labels()}
			if _, err := s.client.ImageService().Create(ctx, alias); err != nil && !errdefs.IsAlreadyExists(err) {
				return "", fmt.Errorf("name image %q: %w", d.String(), err)
			}
			s.put(ctx, alias)
		}
	}
	img := s.put(ctx, rec)
	if img == nil {
		return "", fmt.Errorf("image was pulled but cannot be read")
	}
	return img.id, nil
}

// dropUnresumable forgets what an earlier pull fetched of a blob that the registry cannot go on with: it answers a request
// for the rest with "416 Requested Range Not Satisfiable". False when that was not it.
func (s *imageStore) dropUnresumable(ctx context.Context, err error) bool {
	text := err.Error()
	if !strings.Contains(text, strconv.Itoa(http.StatusRequestedRangeNotSatisfiable)+" ") {
		return false
	}
	store := s.client.ContentStore()
	list, lerr := store.ListStatuses(ctx)
	if lerr != nil {
		return false
	}
	dropped := false
	for _, st := range list { // their names end with the digest: layer-sha256:…
		if i := strings.Index(st.Ref, "sha256:"); i >= 0 && strings.Contains(text, st.Ref[i:]) {
			dropped = store.Abort(ctx, st.Ref) == nil || dropped
		}
	}
	return dropped
}

// checkHosts refuses a hosts file that cannot be read: containerd's reader would pass over it, and the pull would go to
// where the user wanted it not to go.
func checkHosts(root, name string) error {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	dir, err := config.HostDirFromRoot(root)(reference.Domain(ref))
	if err != nil {
		return nil // there is none
	}
	path := filepath.Join(dir, "hosts.toml")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var any map[string]any
	if err == nil {
		err = toml.Unmarshal(text, &any)
	}
	if err != nil {
		return status.Errorf(codes.FailedPrecondition, "registry hosts file %s cannot be read: %v", path, err)
	}
	return nil
}

// credentials turns CRI's forms of authentication into containerd's: user and secret, or a token as the secret of no user.
func credentials(a *runtimeapi.AuthConfig, host string) (string, string, error) {
	if a == nil {
		return "", "", nil
	}
	if a.ServerAddress != "" {
		server := strings.TrimPrefix(strings.TrimPrefix(a.ServerAddress, "https://"), "http://")
		server, _, _ = strings.Cut(server, "/")
		if server != host && !(host == "registry-1.docker.io" && strings.HasSuffix(server, "docker.io")) {
			return "", "", nil // meant for another registry
		}
	}
	switch {
	case a.Username != "":
		return a.Username, a.Password, nil
	case a.IdentityToken != "":
		return "", a.IdentityToken, nil
	case a.Auth != "":
		b, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			return "", "", status.Error(codes.InvalidArgument, "registry credentials: auth is no base64")
		}
		user, password, ok := strings.Cut(string(b), ":")
		if !ok {
			return "", "", status.Error(codes.InvalidArgument, "registry credentials: auth is no user:password")
		}
		return user, strings.Trim(password, "\x00"), nil
	}
	return "", "", nil
}

// activity notices that nothing has happened for a while.
type activity struct{ last atomic.Int64 }

func (a *activity) touch() { a.last.Store(time.Now().UnixNano()) }

func (a *activity) watch(idle time.Duration, stuck func()) (stop func()) {
	a.touch()
	done := make(chan struct{})
	go func() {
		t := time.NewTicker(idle / 4)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				if time.Since(time.Unix(0, a.last.Load())) > idle {
					stuck()
					return
				}
			}
		}
	}()
	return sync.OnceFunc(func() { close(done) })
}

type activeTransport struct {
	next  http.RoundTripper
	alive *activity
}

func (t *activeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	next := t.next
	if next == nil {
		next = http.DefaultTransport
	}
	resp, err := next.RoundTrip(req)
	t.alive.touch()
	if resp != nil && resp.Body != nil {
		resp.Body = &activeBody{resp.Body, t.alive}
	}
	return resp, err
}

type activeBody struct {
	io.ReadCloser
	alive *activity
}

func (b *activeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.alive.touch()
	}
	return n, err
}

// pulls shares equal pulls and bounds different ones.
type pulls struct {
	slots chan struct{}

	mu      sync.Mutex
	flights map[string]*flight
}

type flight struct {
	waiters int
	cancel  context.CancelFunc
	done    chan struct{}
	id      string
	err     error
}

func (p *pulls) do(ctx context.Context, key string, pull func(context.Context) (string, error)) (string, error) {
	p.mu.Lock()
	f := p.flights[key]
	if f == nil {
		fctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight{cancel: cancel, done: make(chan struct{})}
		p.flights[key] = f
		go func() { // ends with the pull, which ends when nobody waits for it
			defer cancel()
			select {
			case p.slots <- struct{}{}:
				f.id, f.err = pull(fctx)
				<-p.slots
			case <-fctx.Done():
				f.err = fctx.Err()
			}
			p.mu.Lock()
			if p.flights[key] == f {
				delete(p.flights, key)
			}
			p.mu.Unlock()
			close(f.done)
		}()
	}
	f.waiters++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if f.waiters--; f.waiters == 0 {
			f.cancel()
			if p.flights[key] == f {
				delete(p.flights, key) // a later request must not join a pull that is being cancelled
			}
		}
	}()
	select {
	case <-f.done:
		return f.id, f.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
