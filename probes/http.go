package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// maxRedirects within the probed host, as kubelet.
const maxRedirects = 10

func newHTTPClient(d *net.Dialer) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:        d.DialContext,
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // core/v1: scheme HTTPS skips verification
			DisableKeepAlives:  true,
			DisableCompression: true, // so that Accept-Encoding is the user's
			Proxy:              nil,
			ForceAttemptHTTP2:  false,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse // never follow a pod to somebody else's host
			}
			if len(via) >= maxRedirects {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
}

func (p *netProber) probeHTTP(ctx context.Context, t target, a *corev1.HTTPGetAction, timeout time.Duration) (answer, error) {
	req, err := newHTTPRequest(t, a)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	res, err := p.http.Do(req.WithContext(ctx))
	if err != nil {
		f := failure("%v", err)
		f.timedOut = errors.Is(err, context.DeadlineExceeded)
		return f, nil
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxOutput))
	if err != nil {
		f := failure("read the answer of %s: %v", req.URL, err)
		f.timedOut = errors.Is(err, context.DeadlineExceeded)
		return f, nil
	}
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 300:
		return answer{result: Success, message: string(body)}, nil
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return answer{result: Success, warning: true, message: fmt.Sprintf("Probe terminated redirects, Response body: %s", body)}, nil
	}
	return failure("HTTP probe failed with statuscode: %d", res.StatusCode), nil
}

// newHTTPRequest builds the request that core/v1's HTTPGetAction describes. The headers that it names replace the
// default User-Agent and Accept; an empty one removes them; "Host" sets the virtual host.
func newHTTPRequest(t target, a *corev1.HTTPGetAction) (*http.Request, error) {
	port, err := portOf(a.Port, t.container)
	if err != nil {
		return nil, err
	}
	host := a.Host
	if host == "" {
		host = t.ip
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		u = &url.URL{Path: a.Path} // a path that is no URL is taken literally
	}
	u.Scheme = strings.ToLower(string(a.Scheme))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	u.Host = net.JoinHostPort(host, port)
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req := &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	for _, h := range a.HTTPHeaders {
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", t.userAgent)
	}
	if _, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if req.Header.Get("Accept") == "" {
		req.Header.Del("Accept")
	}
	return req, nil
}
