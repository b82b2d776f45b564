package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// steps are the calls to containerd that change something there; between two of them lie the moments of a crash.
var steps = []string{
	"/containerd.services.snapshots.v1.Snapshots/Prepare", "/containerd.services.snapshots.v1.Snapshots/Remove",
	"/containerd.services.containers.v1.Containers/Create", "/containerd.services.containers.v1.Containers/Delete",
	"/containerd.services.tasks.v1.Tasks/Create", "/containerd.services.tasks.v1.Tasks/Start",
	"/containerd.services.tasks.v1.Tasks/Kill", "/containerd.services.tasks.v1.Tasks/Delete",
}

// proxy stands between the runtime and containerd and knows nothing of the messages that it passes on.
type proxy struct {
	conn *grpc.ClientConn
	srv  *grpc.Server

	mu   sync.Mutex
	trap *trap
	seen []string // steps since the last reset, as "Service/Method"
}

// trap stops the nth call of a method, before containerd has it or after it was answered.
type trap struct {
	method  string
	nth     int
	after   bool
	hit     chan struct{}
	release chan struct{}
}

type raw []byte

type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*raw), nil }
func (rawCodec) Unmarshal(b []byte, v any) error {
	*v.(*raw) = slices.Clone(b)
	return nil
}
func (rawCodec) Name() string { return "proto" }

func newProxy(t testing.TB, upstream, listen string) *proxy {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///containerd", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", upstream)
		}), grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second}, MinConnectTimeout: patience,
		}), grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.ForceCodec(rawCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", listen)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{conn: conn}
	p.srv = grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(p.pass), grpc.MaxRecvMsgSize(64<<20))
	go p.srv.Serve(l)
	t.Cleanup(func() { p.srv.Stop(); conn.Close() })
	return p
}

func short(method string) string {
	parts := strings.Split(method, ".")
	return parts[len(parts)-1]
}

// set arms one trap; the zero nth means the first call.
func (p *proxy) set(method string, nth int, after bool) *trap {
	t := &trap{method: method, nth: max(nth, 1), after: after, hit: make(chan struct{}), release: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = t
	return t
}

func (p *proxy) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trap = nil
}

// reset forgets and returns the steps seen.
func (p *proxy) reset() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.seen
	p.seen = nil
	return seen
}

func (p *proxy) match(method string) *trap {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(steps, method) {
		return nil
	}
	p.seen = append(p.seen, short(method))
	t := p.trap
	if t == nil || t.method != short(method) {
		return nil
	}
	if t.nth--; t.nth > 0 {
		return nil
	}
	p.trap = nil
	return t
}

func (t *trap) wait(ctx context.Context) error {
	close(t.hit)
	select {
	case <-t.release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *proxy) pass(_ any, ss grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(ss)
	t := p.match(method)
	if t != nil && !t.after {
		if err := t.wait(ss.Context()); err != nil {
			return err
		}
	}
	ctx := ss.Context()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	cs, err := p.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	go func() {
		for {
			var m raw
			if err := ss.RecvMsg(&m); err != nil {
				if errors.Is(err, io.EOF) {
					cs.CloseSend()
				}
				return
			}
			if cs.SendMsg(&m) != nil {
				return
			}
		}
	}()
	for {
		var m raw
		err := cs.RecvMsg(&m)
		if t != nil && t.after {
			if werr := t.wait(ss.Context()); werr != nil {
				return werr
			}
			t = nil
		}
		if errors.Is(err, io.EOF) {
			ss.SetTrailer(cs.Trailer())
			return nil
		}
		if err != nil {
			return err
		}
		if err := ss.SendMsg(&m); err != nil {
			return fmt.Errorf("answer %s: %w", method, err)
		}
	}
}
