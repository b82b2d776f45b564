package native

import (
	"context"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// link is the connection to containerd as calls see it. One that meets a containerd being restarted waits for it, so that
// no pod fails; but containerd that stays away for linkPatience is stopped, and calls fail at once until it is back.
type link struct {
	address string

	mu   sync.Mutex
	down time.Time // since when; zero while it is up
}

// linkPatience is several times what containerd takes to be back on a busy node.
const linkPatience = 5 * time.Second

func (l *link) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := l.wait(ctx, cc); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The connection may break before the call is on its way, which then waits as long as its context allows.
	t := time.AfterFunc(linkPatience, func() {
		for {
			if err := l.wait(ctx, cc); err != nil {
				cancel(err)
				return
			}
			if !cc.WaitForStateChange(ctx, connectivity.Ready) {
				return
			}
		}
	})
	defer t.Stop()
	err := invoke(ctx, method, req, reply, cc, opts...)
	switch {
	case err == nil || ctx.Err() == nil && status.Code(err) != codes.Unavailable:
	case ctx.Err() != nil && status.Code(context.Cause(ctx)) == codes.Unavailable:
		return context.Cause(ctx)
	case status.Code(err) == codes.Unavailable && (cc.GetState() != connectivity.Ready || strings.Contains(err.Error(), "error reading from server")):
		return status.Errorf(codes.Unavailable, "containerd at %q went away: %s", l.address, status.Convert(err).Message())
	}
	return err
}

func (l *link) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if err := l.wait(ctx, cc); err != nil {
		return nil, err
	}
	return open(ctx, desc, cc, method, opts...)
}

// wait returns when the connection is up, or Unavailable when it has been down for too long.
func (l *link) wait(ctx context.Context, cc *grpc.ClientConn) error {
	state := cc.GetState()
	if state == connectivity.Ready {
		l.up()
		return nil
	}
	ctx, cancel := context.WithDeadline(ctx, l.since().Add(linkPatience))
	defer cancel()
	for ; state != connectivity.Ready; state = cc.GetState() {
		if state == connectivity.Idle {
			cc.Connect()
		}
		if !cc.WaitForStateChange(ctx, state) {
			return status.Errorf(codes.Unavailable, "containerd at %q does not answer: is it running?", l.address)
		}
	}
	l.up()
	return nil
}

// stopped says that containerd was away for longer than patience when last asked.
func (l *link) stopped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.down.IsZero() && time.Since(l.down) >= linkPatience
}

func (l *link) up() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = time.Time{}
}

// since notes that the connection is down, and tells since when.
func (l *link) since() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down.IsZero() {
		l.down = time.Now()
	}
	return l.down
}
