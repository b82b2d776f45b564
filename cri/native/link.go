package native

import (
	"context"
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
	return invoke(ctx, method, req, reply, cc, opts...)
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
