package probes

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func (p *netProber) probeTCP(ctx context.Context, t target, a *corev1.TCPSocketAction, timeout time.Duration) (answer, error) {
	port, err := portOf(a.Port, t.container)
	if err != nil {
		return answer{}, err
	}
	host := a.Host
	if host == "" {
		host = t.ip
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := p.dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		f := failure("%v", err)
		f.timedOut = errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
		return f, nil
	}
	_ = conn.Close() // the connection was the question; how it ends says nothing
	return answer{result: Success}, nil
}
