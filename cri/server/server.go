package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	maxMessage  = 16 << 20 // both ways, as containerd's CRI
	stopTimeout = 5 * time.Second
	maxSocket   = 107 // bytes of a unix socket path that the kernel takes
)

// Run listens on endpoint ("unix:///run/reeve/cri.sock" or a path) and answers for rt until ctx ends; then it lets
// calls under way finish for a moment. A stale socket is replaced; one that answers is an error.
func Run(ctx context.Context, rt cri.Runtime, endpoint string, log *slog.Logger) error {
	l, err := Listen(endpoint)
	if err != nil {
		return err
	}
	return ServeListener(ctx, l, rt, log)
}

// Listen opens the socket with mode 0600.
func Listen(endpoint string) (net.Listener, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	switch {
	case strings.Contains(path, "://") || !filepath.IsAbs(path):
		return nil, fmt.Errorf("CRI endpoint %q is invalid: use unix:///absolute/path", endpoint)
	case len(path)+len(".new") > maxSocket:
		return nil, fmt.Errorf("CRI endpoint %q: the path has %d bytes, a unix socket takes %d", endpoint, len(path), maxSocket-len(".new"))
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("CRI endpoint %q: there is a file that is no socket, move it away", endpoint)
		}
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, fmt.Errorf("CRI endpoint %q is in use by another process", endpoint)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("CRI endpoint %q: %w", endpoint, err)
	}
	os.Remove(path + ".new")
	// Bound under another name, and renamed once its mode is right.
	l, err := net.Listen("unix", path+".new")
	if err != nil {
		return nil, fmt.Errorf("CRI endpoint %q: %w", endpoint, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(path+".new", 0o600), os.Rename(path+".new", path)); err != nil {
		l.Close()
		return nil, fmt.Errorf("CRI endpoint %q: %w", endpoint, err)
	}
	return &unlinker{Listener: l, path: path}, nil
}

type unlinker struct {
	net.Listener
	path string
}

func (u *unlinker) Close() error {
	os.Remove(u.path)
	return u.Listener.Close()
}

// ServeListener is Run on a listener of the caller's.
func ServeListener(ctx context.Context, l net.Listener, rt cri.Runtime, log *slog.Logger) error {
	g := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.ReadBufferSize(8<<10), grpc.WriteBufferSize(8<<10), grpc.SharedWriteBuffer(true))
	s := &service{rt: rt, ctx: ctx}
	runtimeapi.RegisterRuntimeServiceServer(g, s)
	runtimeapi.RegisterImageServiceServer(g, s)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		t := time.AfterFunc(stopTimeout, g.Stop)
		defer t.Stop()
		g.GracefulStop()
	})
	log.Info("Serving CRI", logkey.Path, l.Addr().String())
	err := g.Serve(l)
	if !stop() {
		<-stopped
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}
