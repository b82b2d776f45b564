package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// maxMessageBytes is what kubelet's client accepts.
	maxMessageBytes = 16 << 20
	// stopTimeout bounds the wait for calls under way when the server stops; streams of events would wait for ever.
	stopTimeout = 2 * time.Second
)

// Run serves rt on the unix socket at path until ctx ends. A socket that nobody listens on is replaced; one that
// somebody does is an error that names it.
func Run(ctx context.Context, rt cri.Runtime, path string, log *slog.Logger) error {
	l, err := listen(path)
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxSendMsgSize(maxMessageBytes), grpc.ReadBufferSize(8<<10), grpc.WriteBufferSize(8<<10))
	runtimeapi.RegisterRuntimeServiceServer(s, &runtimeServer{rt: rt})
	runtimeapi.RegisterImageServiceServer(s, &imageServer{rt: rt})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	log.Info("Served CRI", logkey.Path, path)
	select {
	case err := <-served:
		return fmt.Errorf("serve CRI on %q: %w", path, err)
	case <-ctx.Done():
	}
	stopped := make(chan struct{})
	go func() {
		s.GracefulStop()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(stopTimeout):
		s.Stop()
		<-stopped
	}
	<-served
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove CRI socket %q: %w", path, err)
	}
	return nil
}

// listen makes the socket in a folder that nobody else can enter, gives it its mode, and only then moves it to its
// place: between bind and chmod nobody can connect.
func listen(path string) (_ net.Listener, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("listen on CRI socket %q: %w", path, err)
		}
	}()
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, errors.New("another program listens on it; stop it or give another path")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(filepath.Dir(path), ".cri-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	made := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would unlink the name of its birth
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
