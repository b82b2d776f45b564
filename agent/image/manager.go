package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// backoffFirst doubles to backoffMax between failed pulls of one image for one pod, as kubelet's.
	backoffFirst = 10 * time.Second
	backoffMax   = 5 * time.Minute
	// statusTimeout bounds the question whether an image is here.
	statusTimeout = 30 * time.Second
	// pullTimeout bounds one pull; the runtime itself gives up sooner on a registry that sends nothing.
	pullTimeout = 2 * time.Hour
	// showFailure is how long a failed pull shows as ErrImagePull before it shows as ImagePullBackOff.
	showFailure = 2 * time.Second
)

// Service is what the manager asks of the runtime.
type Service interface {
	ImageStatus(ctx context.Context, image *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error)
	PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error)
}

// Secrets reads image pull secrets that the pod names.
type Secrets interface {
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Config of a Manager. Secrets may be nil (standalone): private images then fail to pull.
type Config struct {
	Service Service
	Secrets Secrets
	Event   func(pod *v1.Pod, container, eventType, reason, message string)
	// Changed, if set, is called after every change of a back-off. It must not block.
	Changed  func()
	Parallel int // pulls at once; 0 means no bound
	Registry prometheus.Registerer
	Logger   *slog.Logger
}

// Manager pulls images. Safe for concurrent use.
type Manager struct {
	cfg     Config
	slots   chan struct{}
	seconds *prometheus.HistogramVec

	mu      sync.Mutex
	pulls   map[string]*pull
	backoff map[string]*failure
}

type pull struct {
	done chan struct{}
	ref  string
	err  error
}

type failure struct {
	delay time.Duration
	until time.Time
	err   error
}

// New returns a manager.
func New(cfg Config) *Manager {
	m := &Manager{cfg: cfg, pulls: map[string]*pull{}, backoff: map[string]*failure{},
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_image_pull_duration_seconds", Help: "Duration of image pulls.",
			Buckets: []float64{1, 5, 10, 20, 30, 60, 180, 300, 600, 900, 1800, 3600},
		}, []string{"image_size_in_bytes"}),
	}
	if cfg.Parallel > 0 {
		m.slots = make(chan struct{}, cfg.Parallel)
	}
	if cfg.Registry != nil {
		cfg.Registry.MustRegister(m.seconds)
	}
	return m
}

// Name adds ":latest" where an image has neither tag nor digest, and returns registry and repository besides.
func Name(image string) (name, domain, repository string, err error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", "", "", err
	}
	name = image
	if reference.IsNameOnly(named) {
		name += ":latest"
	}
	return name, reference.Domain(named), reference.Path(named), nil
}

func fail(reason, msg string, after time.Duration) error {
	return &podworker.Reason{Waiting: podworker.Waiting{Reason: reason, Message: msg}, RetryAfter: after}
}

// Ensure brings the container's image here by its pull policy. Errors are *podworker.Reason with upstream's reasons:
// InvalidImageName, ErrImageNeverPull, ErrImagePull, ImagePullBackOff, ImageInspectError.
func (m *Manager) Ensure(ctx context.Context, pod *v1.Pod, name, image string, policy v1.PullPolicy) (podworker.Image, error) {
	none := podworker.Image{}
	full, domain, repo, err := Name(image)
	if err != nil {
		msg := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", image, image, err)
		m.event(pod, name, v1.EventTypeWarning, "InspectFailed", msg)
		return none, fail("InvalidImageName", msg, 0)
	}
	spec := &runtimeapi.ImageSpec{Image: full, UserSpecifiedImage: image}
	img, present, err := m.status(ctx, spec)
	if err != nil {
		if ctx.Err() != nil {
			return none, ctx.Err()
		}
		msg := fmt.Sprintf("Failed to inspect image %q: %v", image, err)
		m.event(pod, name, v1.EventTypeWarning, "InspectFailed", msg)
		return none, fail("ImageInspectError", msg, 0)
	}
	switch {
	case present && policy != v1.PullAlways:
		m.event(pod, name, v1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine", image))
		return img, nil
	case policy == v1.PullNever:
		msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", image)
		m.event(pod, name, v1.EventTypeWarning, "ErrImageNeverPull", msg)
		return none, fail("ErrImageNeverPull", msg, 0)
	}
	key := string(pod.UID) + "_" + image
	m.mu.Lock()
	f := m.backoff[key]
	m.mu.Unlock()
	if f != nil {
		if left := time.Until(f.until); left > 0 {
			m.event(pod, name, v1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", image))
			m.event(pod, name, v1.EventTypeWarning, "Failed", "Error: ImagePullBackOff")
			return none, fail("ImagePullBackOff", fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %v", image, f.err), left)
		}
	}
	m.event(pod, name, v1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", image))
	start := time.Now()
	took, err := m.pullAny(ctx, pod, spec, domain, repo)
	if ctx.Err() != nil {
		return none, ctx.Err()
	}
	if err == nil {
		img, present, err = m.status(ctx, spec)
		if err == nil && !present {
			err = errors.New("the runtime does not list the image that it just pulled")
		}
	}
	if err != nil {
		m.event(pod, name, v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", image, err))
		m.event(pod, name, v1.EventTypeWarning, "Failed", "Error: ErrImagePull")
		m.mu.Lock()
		delay := backoffFirst
		if f != nil && time.Since(f.until) < 2*backoffMax {
			delay = min(f.delay*2, backoffMax)
		}
		m.backoff[key] = &failure{delay: delay, until: time.Now().Add(delay), err: err}
		m.mu.Unlock()
		m.changed()
		return none, fail("ErrImagePull", err.Error(), showFailure)
	}
	m.mu.Lock()
	delete(m.backoff, key)
	m.mu.Unlock()
	if f != nil {
		m.changed()
	}
	m.event(pod, name, v1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting).",
		image, took.Round(time.Millisecond), time.Since(start).Round(time.Millisecond)))
	return img, nil
}

// Forget drops the back-off of a pod that is gone.
func (m *Manager) Forget(uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.backoff {
		if len(k) > len(uid) && k[:len(uid)] == uid && k[len(uid)] == '_' {
			delete(m.backoff, k)
		}
	}
}

func (m *Manager) status(ctx context.Context, spec *runtimeapi.ImageSpec) (podworker.Image, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	resp, err := m.cfg.Service.ImageStatus(ctx, spec, false)
	if err != nil {
		return podworker.Image{}, false, err
	}
	img := resp.GetImage()
	if img == nil {
		return podworker.Image{}, false, nil
	}
	out := podworker.Image{Ref: img.Id, Username: img.Username}
	if img.Uid != nil {
		uid := img.Uid.Value
		out.UID = &uid
	}
	return out, true, nil
}

// pullAny pulls with each credential that fits, or without any if none does.
func (m *Manager) pullAny(ctx context.Context, pod *v1.Pod, spec *runtimeapi.ImageSpec, domain, repo string) (time.Duration, error) {
	ring := keyring{}
	for _, ref := range pod.Spec.ImagePullSecrets {
		if m.cfg.Secrets == nil {
			break
		}
		s, err := m.cfg.Secrets.Secret(ctx, pod.Namespace, ref.Name)
		if err == nil {
			err = ring.add(s)
		}
		if err != nil && ctx.Err() == nil {
			m.event(pod, "", v1.EventTypeWarning, "FailedToRetrieveImagePullSecret", fmt.Sprintf(
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name))
			m.cfg.Logger.Warn("Failed to read image pull secret", logkey.Pod, pod.Namespace+"/"+pod.Name, logkey.Err, err)
		}
	}
	creds := ring.lookup(domain, repo)
	if len(creds) == 0 {
		creds = []*runtimeapi.AuthConfig{nil}
	}
	var errs []error
	for _, c := range creds {
		start := time.Now()
		err := m.pull(ctx, spec, c)
		if err == nil {
			return time.Since(start), nil
		}
		errs = append(errs, err)
	}
	return 0, errors.Join(errs...)
}

// pull joins the pull of the same image with the same credentials if one runs, else starts it. The pull itself goes on
// when this caller gives up: another may want it, and layers already here are not fetched twice.
func (m *Manager) pull(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig) error {
	key := spec.Image + "\x00" + auth.GetUsername() + "\x00" + auth.GetPassword() + "\x00" + auth.GetIdentityToken()
	m.mu.Lock()
	p := m.pulls[key]
	if p == nil {
		p = &pull{done: make(chan struct{})}
		m.pulls[key] = p
		bg, cancel := context.WithTimeout(context.WithoutCancel(ctx), pullTimeout)
		go func() {
			defer cancel()
			if m.slots != nil {
				m.slots <- struct{}{}
				defer func() { <-m.slots }()
			}
			start := time.Now()
			p.ref, p.err = m.cfg.Service.PullImage(bg, spec, auth, nil)
			if p.err == nil {
				m.seconds.WithLabelValues("N/A").Observe(time.Since(start).Seconds())
			}
			m.mu.Lock()
			delete(m.pulls, key)
			m.mu.Unlock()
			close(p.done)
		}()
	}
	m.mu.Unlock()
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *Manager) event(pod *v1.Pod, name, kind, reason, msg string) {
	if m.cfg.Event != nil {
		m.cfg.Event(pod, name, kind, reason, msg)
	}
}
