package cni

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/reevehq/reeve/cni/netns"
	"github.com/reevehq/reeve/internal/podnet"
	"github.com/reevehq/reeve/internal/testns"
)

func TestMain(m *testing.M) { testns.Main(m) }

// network is what the runtime asks of a network (cri/native declares the same).
type network interface {
	NewNamespace(ctx context.Context, sandboxID string) (string, error)
	RemoveNamespace(ctx context.Context, path string) error
	Add(ctx context.Context, req podnet.Request) (podnet.Result, error)
	Del(ctx context.Context, req podnet.Request) error
	Check(ctx context.Context, req podnet.Request, prev podnet.Result) error
	Status(ctx context.Context) error
	GC(ctx context.Context, keepSandboxIDs []string) error
}

var (
	_ network = (*Builtin)(nil)
	_ network = (*Conflist)(nil)
)

// sh runs a command and fails the test with its output when it fails.
func sh(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// pod is one sandbox of a test with a greeting server on TCP 8080.
type pod struct {
	req podnet.Request
	res podnet.Result
	ip  netip.Addr
}

func addPod(t testing.TB, n network, id string, ports ...podnet.PortMapping) pod {
	t.Helper()
	ctx := t.Context()
	path, err := n.NewNamespace(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	p := pod{req: podnet.Request{SandboxID: id, NetNS: path, PodNamespace: "default", PodName: id, PodUID: "uid-" + id, Ports: ports}}
	if p.res, err = n.Add(ctx, p.req); err != nil {
		t.Fatal(err)
	}
	p.ip = p.res.IPs[0]
	return p
}

// serve answers every connection to port in a namespace ("" is the node) with "name remoteIP\n" until the test ends.
func serve(t testing.TB, netNS, name, address string) {
	t.Helper()
	var l net.Listener
	in(t, netNS, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "%s %s\n", name, host)
			_ = c.Close()
		}
	}()
}

// ask connects from a namespace and answers what the server said.
func ask(t testing.TB, netNS, address string) (string, error) {
	t.Helper()
	var said string
	err := do(netNS, func() error {
		c, err := net.DialTimeout("tcp", address, 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		said, err = bufio.NewReader(c).ReadString('\n')
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	return strings.TrimSpace(said), err
}

func mustSay(t testing.TB, from, netNS, address, want string) {
	t.Helper()
	got, err := ask(t, netNS, address)
	if err != nil || got != want {
		t.Errorf("%s asked %s: got %q, %v; want %q", from, address, got, err, want)
	}
}

func do(netNS string, fn func() error) error {
	if netNS == "" {
		return fn()
	}
	return netns.Do(netNS, fn)
}

func in(t testing.TB, netNS string, fn func() error) {
	t.Helper()
	if err := do(netNS, fn); err != nil {
		t.Fatal(err)
	}
}

func leaks(t *testing.T) {
	t.Helper()
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
}

func newBuiltin(t testing.TB, dir string, cidrs ...string) *Builtin {
	t.Helper()
	testns.Need(t)
	testns.NeedBinary(t, "iptables")
	var prefixes []netip.Prefix
	for _, c := range cidrs {
		prefixes = append(prefixes, netip.MustParsePrefix(c))
	}
	b, err := NewBuiltin(BuiltinConfig{
		StateDir: filepath.Join(dir, "state"), NetNSDir: filepath.Join(dir, "netns"), PodCIDRs: prefixes,
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")},
		Logger:       slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Cleanup(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
