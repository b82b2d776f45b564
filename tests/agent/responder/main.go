// Responder is what probes and hooks of the tests talk to: HTTP on 8080, HTTPS on 8443, TCP on 9000, gRPC health on 9090.
//
//	/healthz        200, or what /set said; counted by path
//	/set?path=P&code=N   what P answers from now on; P "grpc" with 0 or 1 sets the health of gRPC
//	/slow?ms=N      answers after N milliseconds
//	/seen           the requests so far, one a line: path, host, user agent, the header X-Test
//	/redirect       302 to /healthz
//	/away           302 to another host
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

type server struct {
	mu     sync.Mutex
	codes  map[string]int
	seen   []string
	health *health.Server
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, fmt.Sprintf("%s host=%s agent=%s x-test=%s tls=%v", r.URL.Path, r.Host, r.UserAgent(), r.Header.Get("X-Test"), r.TLS != nil))
	if len(s.seen) > 500 {
		s.seen = s.seen[250:]
	}
	code, set := s.codes[r.URL.Path]
	s.mu.Unlock()
	switch {
	case r.URL.Path == "/set":
		q := r.URL.Query()
		n, err := strconv.Atoi(q.Get("code"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if q.Get("path") == "grpc" {
			s.health.SetServingStatus("", healthpb.HealthCheckResponse_ServingStatus(n))
			return
		}
		s.mu.Lock()
		s.codes[q.Get("path")] = n
		s.mu.Unlock()
	case r.URL.Path == "/seen":
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, l := range s.seen {
			fmt.Fprintln(w, l)
		}
	case r.URL.Path == "/slow":
		ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
		case <-r.Context().Done():
		}
	case r.URL.Path == "/redirect":
		http.Redirect(w, r, "/healthz", http.StatusFound)
	case r.URL.Path == "/away":
		http.Redirect(w, r, "http://192.0.2.1/healthz", http.StatusFound)
	case set:
		w.WriteHeader(code)
	}
}

func main() {
	s := &server{codes: map[string]int{}, health: health.NewServer()}
	s.health.SetServingStatus("named", healthpb.HealthCheckResponse_SERVING)
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, s.health)
	go serve(":9090", g.Serve)
	go serve(":9000", func(l net.Listener) error {
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			c.Close()
		}
	})
	go serve(":8443", func(l net.Listener) error {
		srv := &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0)}
		return srv.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate()}}))
	})
	go serve(":8080", func(l net.Listener) error { return http.Serve(l, s) })
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

func serve(addr string, f func(net.Listener) error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(f(l))
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
