package stream

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
)

// readHeaderTimeout bounds how long a client may take to ask; what follows may last for hours.
const readHeaderTimeout = 30 * time.Second

// Runtime does the work behind the streams.
type Runtime = streaming.Runtime

// Server hands out URLs and serves them.
type Server struct {
	inner streaming.Server
	http  *http.Server
	l     net.Listener
}

// Listen opens address ("127.0.0.1:0" picks a port) for rt's streams.
func Listen(address string, rt Runtime) (*Server, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for streams on %q: %w", address, err)
	}
	cfg := streaming.DefaultConfig
	cfg.Addr = l.Addr().String()
	cfg.BaseURL = &url.URL{Scheme: "http", Host: l.Addr().String(), Path: "/"}
	inner, err := streaming.NewServer(cfg, rt)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("make stream server: %w", err)
	}
	return &Server{inner: inner, l: l, http: &http.Server{Handler: inner, ReadHeaderTimeout: readHeaderTimeout}}, nil
}

// Serve answers until Close.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends the listener and the streams.
func (s *Server) Close() error { return s.http.Close() }

// Exec returns the one-time URL of a request; a bad request is codes.InvalidArgument.
func (s *Server) Exec(req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return s.inner.GetExec(req)
}

// Attach is Exec for attaching.
func (s *Server) Attach(req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return s.inner.GetAttach(req)
}

// PortForward is Exec for port forwarding.
func (s *Server) PortForward(req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return s.inner.GetPortForward(req)
}
