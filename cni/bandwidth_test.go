package cni

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/podnet"
)

// TestBuiltinBandwidth: a pod with the annotations receives and sends no faster; what it asks for wrongly is told.
func TestBuiltinBandwidth(t *testing.T) {
	b := newBuiltin(t, t.TempDir(), "10.244.3.0/24")
	ctx := t.Context()
	path, err := b.NewNamespace(ctx, "slow")
	if err != nil {
		t.Fatal(err)
	}
	req := podnet.Request{SandboxID: "slow", NetNS: path, PodName: "slow"}
	for _, bad := range []string{"fast", "-1", "10", "2P"} {
		req.Annotations = map[string]string{egressBandwidth: bad}
		if _, err := b.Add(ctx, req); err == nil || !strings.Contains(err.Error(), egressBandwidth) || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	req.Annotations = map[string]string{ingressBandwidth: "16M", egressBandwidth: "16M"}
	res, err := b.Add(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	const size = 4 << 20
	// At 16 Mbit/s 4 MiB take 2.1 s, less what the bucket lets through at once. A limit can only be missed downwards.
	const least = 1500 * time.Millisecond
	var in, out net.Listener // in the pod: one reads, one writes
	if err := do(path, func() (err error) {
		if in, err = net.Listen("tcp", ":1"); err == nil {
			out, err = net.Listen("tcp", ":2")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	got := make(chan int64, 1)
	go func() {
		if c, err := in.Accept(); err == nil {
			n, _ := io.Copy(io.Discard, c)
			got <- n
		}
	}()
	go func() {
		if c, err := out.Accept(); err == nil {
			c.Write(make([]byte, size))
			c.Close()
		}
	}()
	dial := func(port string) net.Conn {
		c, err := net.Dial("tcp", net.JoinHostPort(res.IPs[0].String(), port))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	began := time.Now()
	c := dial("1")
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if n := <-got; n != size || time.Since(began) < least {
		t.Errorf("the pod received %d bytes in %s", n, time.Since(began))
	}
	began = time.Now()
	if n, err := io.Copy(io.Discard, dial("2")); err != nil || n != size || time.Since(began) < least {
		t.Errorf("the pod sent %d bytes in %s, %v", n, time.Since(began), err)
	}
	if err := b.Check(ctx, req, res); err != nil {
		t.Error(err)
	}
	if err := b.Del(ctx, req); err != nil {
		t.Error(err)
	}
}
