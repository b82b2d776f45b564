package image

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/agent/podworker"
)

// registry is an image service whose pulls take a second and fail while broken.
type registry struct {
	mu     sync.Mutex
	here   map[string]bool
	broken bool
	pulls  []string // image and user
}

func (r *registry) ImageStatus(_ context.Context, s *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.here[s.Image] {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: "id-" + s.Image}}, nil
}

func (r *registry) PullImage(_ context.Context, s *runtimeapi.ImageSpec, a *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	time.Sleep(time.Second)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pulls = append(r.pulls, s.Image+" "+a.GetUsername())
	if r.broken {
		return "", errors.New("no route")
	}
	r.here[s.Image] = true
	return "id", nil
}

type secrets map[string]*v1.Secret

func (s secrets) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if x := s[name]; x != nil {
		return x, nil
	}
	return nil, errors.New("not found")
}

type eventLog struct {
	mu   sync.Mutex
	list []string
}

func (e *eventLog) add(_ *v1.Pod, _, _, reason, _ string) {
	e.mu.Lock()
	e.list = append(e.list, reason)
	e.mu.Unlock()
}

func setup() (*registry, *eventLog, secrets, *Manager) {
	r, e, s := &registry{here: map[string]bool{}}, &eventLog{}, secrets{}
	return r, e, s, New(Config{Service: r, Secrets: s, Event: e.add, Logger: slog.New(slog.DiscardHandler)})
}

func pod(name string) *v1.Pod {
	p := &v1.Pod{}
	p.Name, p.Namespace, p.UID = name, "default", "uid"
	return p
}

func why(err error) string {
	var r *podworker.Reason
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

// Names are asked for as the user wrote them, but for the tag; registry and repository, by which pull Secrets are found, are
// those of the full name.
func TestNames(t *testing.T) {
	const sum = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for image, want := range map[string][3]string{
		"busybox":                        {"busybox:latest", "docker.io", "library/busybox"},
		"busybox:1.36":                   {"busybox:1.36", "docker.io", "library/busybox"},
		"team/app":                       {"team/app:latest", "docker.io", "team/app"},
		"index.docker.io/busybox":        {"index.docker.io/busybox:latest", "docker.io", "library/busybox"},
		"registry.example:5000/team/app": {"registry.example:5000/team/app:latest", "registry.example:5000", "team/app"},
		"localhost/app:v1":               {"localhost/app:v1", "localhost", "app"},
		"app" + sum:                      {"app" + sum, "docker.io", "library/app"},
		"app:v1" + sum:                   {"app:v1" + sum, "docker.io", "library/app"},
	} {
		name, domain, repository, err := Name(image)
		if got := [3]string{name, domain, repository}; err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", image, got, err, want)
		}
	}
	for _, image := range []string{"", "App", "a::b", "app@sha256:beef", "-x"} {
		if name, _, _, err := Name(image); err == nil {
			t.Errorf("%q is taken as %q", image, name)
		}
	}
}

func TestPolicies(t *testing.T) {
	for _, tc := range []struct {
		name, image string
		here        bool
		policy      v1.PullPolicy
		reason      string
		pulls       int
		events      []string
	}{
		{"present", "img:v1", true, v1.PullIfNotPresent, "", 0, []string{"Pulled"}},
		{"absent", "img:v1", false, v1.PullIfNotPresent, "", 1, []string{"Pulling", "Pulled"}},
		{"always", "img:v1", true, v1.PullAlways, "", 1, []string{"Pulling", "Pulled"}},
		{"never, present", "img:v1", true, v1.PullNever, "", 0, []string{"Pulled"}},
		{"never, absent", "img:v1", false, v1.PullNever, "ErrImageNeverPull", 0, []string{"ErrImageNeverPull"}},
		{"not a name", "IMG::", false, v1.PullAlways, "InvalidImageName", 0, []string{"InspectFailed"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, e, _, m := setup()
				r.here[tc.image] = tc.here
				_, err := m.Ensure(t.Context(), pod("p"), "c", tc.image, tc.policy)
				if why(err) != tc.reason || len(r.pulls) != tc.pulls {
					t.Errorf("reason %q, %d pulls; want %q, %d", why(err), len(r.pulls), tc.reason, tc.pulls)
				}
				if d := cmp.Diff(tc.events, e.list); d != "" {
					t.Errorf("events (-want +got):\n%s", d)
				}
			})
		})
	}
}

func TestBackOffDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, _, m := setup()
		r.broken = true
		ensure := func() error {
			_, err := m.Ensure(t.Context(), pod("p"), "c", "img:v1", v1.PullIfNotPresent)
			return err
		}
		for i, delay := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
			if got := why(ensure()); got != "ErrImagePull" {
				t.Fatalf("try %d: %s", i, got)
			}
			var reason *podworker.Reason
			if err := ensure(); !errors.As(err, &reason) || reason.Reason != "ImagePullBackOff" || reason.RetryAfter != delay {
				t.Fatalf("after try %d: %v, retry after %s", i, err, reason.RetryAfter)
			}
			time.Sleep(delay)
		}
		r.broken = false
		if err := ensure(); err != nil {
			t.Fatalf("after healing: %v", err)
		}
	})
}

func TestOnePullForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, _, m := setup()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if _, err := m.Ensure(t.Context(), pod("p"), "c", "img:v1", v1.PullIfNotPresent); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(r.pulls) != 1 {
			t.Errorf("%d pulls, want 1", len(r.pulls))
		}
	})
}

func TestAPullOutlivesWhoAskedForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, _, m := setup()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := m.Ensure(ctx, pod("p"), "c", "img:v1", v1.PullIfNotPresent); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Ensure = %v", err)
		}
		time.Sleep(2 * time.Second)
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.here["img:v1"] {
			t.Error("the pull was given up")
		}
	})
}

func TestPullSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, s, m := setup()
		auth := base64.StdEncoding.EncodeToString([]byte("bob:pw"))
		s["json"] = &v1.Secret{Type: v1.SecretTypeDockerConfigJson, Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(
			`{"auths":{"https://reg.example.com/v1/":{"auth":"` + auth + `"},"other.example.com":{"username":"eve","password":"x"}}}`)}}
		p := pod("p")
		p.Spec.ImagePullSecrets = []v1.LocalObjectReference{{Name: "json"}, {Name: "missing"}}
		if _, err := m.Ensure(t.Context(), p, "c", "reg.example.com/team/img:v1", v1.PullAlways); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"reg.example.com/team/img:v1 bob"}, r.pulls); d != "" {
			t.Errorf("pulls (-want +got):\n%s", d)
		}
	})
}

func TestLookup(t *testing.T) {
	k := keyring{}
	for _, reg := range []string{"reg.io", "reg.io/team", "*.cloud.example", "reg.io:5000", "docker.io"} {
		k[registryKey(reg)] = []*runtimeapi.AuthConfig{{Username: reg}}
	}
	for image, want := range map[string]string{
		"reg.io/team/a": "reg.io/team reg.io", "reg.io/teams/a": "reg.io", "eu.cloud.example/a": "*.cloud.example",
		"a.b.cloud.example/a": "", "reg.io:5000/a": "reg.io:5000", "nginx": "docker.io",
	} {
		_, domain, repo, err := Name(image)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range k.lookup(domain, repo) {
			got = append(got, a.Username)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("credentials for %s: %v, want %s", image, got, want)
		}
	}
}
