package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	forwardDialTimeout = 10 * time.Second // loopback answers or refuses at once
	forwardHalfClosed  = time.Minute      // the other direction, once one has ended
)

// PortForward connects stream to a port of the pod's loopback, IPv4 first. Its error ends this stream only.
func (a streams) PortForward(ctx context.Context, sandboxID string, port int32, stream io.ReadWriteCloser) error {
	s, err := a.r.store.sandbox(sandboxID)
	if err != nil {
		return err
	}
	a.r.store.mu.RLock()
	ready, netns := s.state == sandboxReady, s.rec.NetNS
	a.r.store.mu.RUnlock()
	if !ready {
		return status.Errorf(codes.FailedPrecondition, "sandbox %q is not ready", s.id)
	}
	conn, err := dialIn(ctx, netns, port)
	if err != nil {
		return fmt.Errorf("connect to port %d in pod: %w", port, err)
	}
	defer conn.Close()
	done := make(chan error, 2)
	go func() { // client to pod; ends with its stream
		_, err := io.Copy(conn, stream)
		conn.CloseWrite()
		done <- err
	}()
	go func() { // pod to client; ends with its connection
		_, err := io.Copy(stream, conn)
		stream.Close()
		done <- err
	}()
	var first error
	select {
	case first = <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	t := time.NewTimer(forwardHalfClosed)
	defer t.Stop()
	select {
	case second := <-done:
		return errors.Join(ignoreClosed(first), ignoreClosed(second))
	case <-ctx.Done():
	case <-t.C:
	}
	return ignoreClosed(first)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return nil
	}
	return err
}

// dialIn dials loopback inside a network namespace. A socket belongs to the namespace of the thread that makes it, so one
// thread goes there and comes back.
func dialIn(ctx context.Context, netns string, port int32) (*net.TCPConn, error) {
	dial := func() (*net.TCPConn, error) {
		var errs []error
		d := net.Dialer{Timeout: forwardDialTimeout}
		for _, host := range []string{"127.0.0.1", "::1"} {
			c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
			if err == nil {
				return c.(*net.TCPConn), nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}
	if netns == "" {
		return dial()
	}
	// Dial by hand: net.Dialer races addresses on other goroutines, hence other threads.
	var conn *net.TCPConn
	err := onThread(func() (err error) {
		if err = enter(netns, unix.CLONE_NEWNET); err == nil {
			conn, err = dialHere(port)
		}
		return err
	})
	if err != nil && conn != nil {
		conn.Close()
		conn = nil
	}
	return conn, err
}

// dialHere connects on the calling thread.
func dialHere(port int32) (*net.TCPConn, error) {
	var errs []error
	for _, sa := range []unix.Sockaddr{
		&unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}},
		&unix.SockaddrInet6{Port: int(port), Addr: [16]byte{15: 1}},
	} {
		family := unix.AF_INET
		if _, six := sa.(*unix.SockaddrInet6); six {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// SO_SNDTIMEO bounds connect(2), which on loopback answers at once anyway.
		tv := unix.NsecToTimeval(forwardDialTimeout.Nanoseconds())
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
		if err := unix.Connect(fd, sa); err != nil {
			unix.Close(fd)
			errs = append(errs, err)
			continue
		}
		return tcpConn(fd)
	}
	return nil, errors.Join(errs...)
}
