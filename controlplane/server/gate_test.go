package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func TestRequestsWaitUntilRightsAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{}), token: "loopback"}
		handler := g.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
		do := func(r *http.Request) (code int, took time.Duration) {
			at := time.Now()
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			return w.Code, time.Since(at)
		}
		list := func() *http.Request { return httptest.NewRequest("GET", "/api/v1/pods", nil) }

		if code, took := do(list()); code != http.StatusServiceUnavailable || took != holdFor {
			t.Errorf("held request: %d after %s, want 503 after %s", code, took, holdFor)
		}
		own := list()
		own.Header.Set("Authorization", "Bearer loopback")
		admin := list()
		admin.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{Organization: []string{"system:masters"}}}}}
		for name, r := range map[string]*http.Request{
			"own": own, "admin": admin, "health": httptest.NewRequest("GET", "/readyz", nil), "part": httptest.NewRequest("GET", "/livez/etcd", nil),
		} {
			if code, took := do(r); code != http.StatusOK || took != 0 {
				t.Errorf("%s: %d after %s, want 200 at once", name, code, took)
			}
		}
		go func() {
			time.Sleep(time.Second)
			close(g.open)
		}()
		if code, took := do(list()); code != http.StatusOK || took != time.Second {
			t.Errorf("request held until the gate opened: %d after %s", code, took)
		}
		if code, took := do(list()); code != http.StatusOK || took != 0 {
			t.Errorf("request after it: %d after %s", code, took)
		}
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		g2 := &gate{open: make(chan struct{})}
		g2.wrap(nil).ServeHTTP(httptest.NewRecorder(), list().WithContext(gone)) // must not reach the nil handler
	})
}
