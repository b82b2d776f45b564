package podruntime

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/image"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/internal/logkey"
)

// afterHook is what a container gets between TERM and KILL at least when its preStop hook used up the grace (upstream: 2 s).
const afterHook = 2 * time.Second

func nameOf(ref string) (full, domain, repo string, err error) { return image.Name(ref) }

// KillContainer implements podworker.Runtime.
func (r *Runtime) KillContainer(ctx context.Context, pod *v1.Pod, state *podstate.Pod, k podworker.Kill) error {
	deadline := time.Now().Add(k.Grace)
	c, _ := podspec.Find(&pod.Spec, k.Name)
	r.event(pod, k.Name, v1.EventTypeNormal, "Killing", "%s", k.Message)
	left := k.Grace
	if hook, err := r.preStop(ctx, c, k.ID); err != nil {
		r.cfg.Logger.Warn("Failed to find preStop hook", logkey.ContainerID, k.ID, logkey.Err, err)
	} else if hook != nil {
		hctx, cancel := context.WithDeadline(ctx, deadline)
		err := r.hook(hctx, pod, c, k.ID, podIP(pod, state, r.cfg.HostIPs), hook)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.event(pod, k.Name, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			r.cfg.Logger.Warn("Failed to run preStop hook", logkey.Pod, pod.Namespace+"/"+pod.Name, logkey.ContainerName, k.Name, logkey.Err, err)
		}
		left = max(time.Until(deadline), afterHook)
	}
	sctx, cancel := context.WithTimeout(ctx, left+killSlack)
	defer cancel()
	seconds := int64((left + time.Second - 1) / time.Second)
	start := time.Now()
	err := r.cfg.CRI.StopContainer(sctx, k.ID, seconds)
	r.metrics.op("stop_container", start, err)
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("stop container %s: %w", k.ID, err)
	}
	return nil
}

// preStop returns the hook of the container: of the spec it was made from, kept in its annotations when the pod object is
// gone.
func (r *Runtime) preStop(ctx context.Context, c *v1.Container, id string) (*v1.LifecycleHandler, error) {
	if c != nil {
		if c.Lifecycle == nil {
			return nil, nil
		}
		return c.Lifecycle.PreStop, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	st, err := r.cfg.CRI.ContainerStatus(ctx, id, false)
	if err != nil {
		return nil, err
	}
	return container.PreStopFromAnnotations(st.GetStatus().GetAnnotations())
}

// hook runs one lifecycle handler. An exec that fails, an HTTP status of 400 and above, and the end of ctx are errors.
func (r *Runtime) hook(ctx context.Context, pod *v1.Pod, c *v1.Container, id, podIP string, h *v1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		timeout := time.Duration(0)
		if d, ok := ctx.Deadline(); ok {
			timeout = time.Until(d)
		}
		code, out, err := r.Exec(ctx, id, h.Exec.Command, timeout)
		if err != nil {
			return fmt.Errorf("exec lifecycle hook %v: %w", h.Exec.Command, err)
		}
		if code != 0 {
			return fmt.Errorf("exec lifecycle hook %v: exited with %d: %.512q", h.Exec.Command, code, out)
		}
		return nil
	case h.HTTPGet != nil:
		return httpHook(ctx, c, podIP, h.HTTPGet)
	case h.Sleep != nil:
		t := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return nil // cut short by the end of the grace, which is no failure of the hook
		}
	}
	return fmt.Errorf("lifecycle hook of container %s: none of exec, httpGet and sleep is set", id)
}

func httpHook(ctx context.Context, c *v1.Container, podIP string, g *v1.HTTPGetAction) error {
	port, err := hookPort(c, g.Port)
	if err != nil {
		return err
	}
	host := g.Host
	if host == "" {
		host = podIP
	}
	scheme := strings.ToLower(string(g.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	u, err := url.Parse(g.Path)
	if err != nil {
		u = &url.URL{Path: g.Path}
	}
	u.Scheme, u.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("make request of HTTP lifecycle hook: %w", err)
	}
	req.Header.Set("User-Agent", "kube-lifecycle/1.36")
	req.Header.Set("Accept", "*/*")
	for _, h := range g.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
		}
		req.Header.Add(h.Name, h.Value)
	}
	// Hooks talk to the pod itself, whose certificate nobody vouches for.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil && scheme == "https" && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		// Before 1.25 kubelet ignored the scheme, and manifests live long.
		u.Scheme = "http"
		req.URL = u
		resp, err = client.Do(req)
	}
	if err != nil {
		return fmt.Errorf("call HTTP lifecycle hook: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 10<<10)
	if resp.StatusCode >= 400 {
		return fmt.Errorf("HTTP lifecycle hook %s: status %s", u.Path, resp.Status)
	}
	return nil
}

func hookPort(c *v1.Container, p intstr.IntOrString) (int, error) {
	if p.Type == intstr.Int {
		if p.IntVal == 0 {
			return 80, nil
		}
		return int(p.IntVal), nil
	}
	if n, err := strconv.Atoi(p.StrVal); err == nil {
		return n, nil
	}
	if c != nil {
		for _, x := range c.Ports {
			if x.Name == p.StrVal {
				return int(x.ContainerPort), nil
			}
		}
	}
	return 0, fmt.Errorf("HTTP lifecycle hook: the container has no port named %q", p.StrVal)
}

// execExtra is what ExecSync may take beyond the command's own timeout.
const execExtra = 5 * time.Second

// Exec runs cmd in the container and returns its exit code and output, both streams joined. A command that outlives
// timeout (0: none) is killed, with an error matching context.DeadlineExceeded. A runtime that has not answered some time
// after that is an error which does not: nobody knows whether the command ran.
func (r *Runtime) Exec(ctx context.Context, id string, cmd []string, timeout time.Duration) (int, []byte, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+execExtra)
		defer cancel()
	}
	stdout, stderr, err := r.cfg.CRI.ExecSync(ctx, id, cmd, timeout)
	out := append(stdout, stderr...)
	if err == nil {
		return 0, out, nil
	}
	var exit interface{ ExitStatus() int }
	if errors.As(err, &exit) {
		return exit.ExitStatus(), out, nil
	}
	if errors.Is(err, cri.ErrExecTimedOut) {
		return 0, out, errors.Join(context.DeadlineExceeded, err)
	}
	if timeout > 0 && ctx.Err() != nil {
		return 0, out, fmt.Errorf("the runtime does not answer: %v", err) // nothing that matches DeadlineExceeded
	}
	return 0, out, err
}
