package etcd

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestKeepsDataAndRefusesASecondOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	logger := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	s, err := Start(ctx, Config{Dir: dir, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder mode = %v, %v; want 0700", info.Mode(), err)
	}
	if _, err := Start(ctx, Config{Dir: dir, Logger: logger}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second start: err = %v, want one that says another process has it", err)
	}
	put(ctx, t, s, "/a", "1")
	s.Stop()

	s, err = Start(ctx, Config{Dir: dir, Logger: logger})
	if err != nil {
		t.Fatalf("start again: %v", err)
	}
	defer s.Stop()
	c := client(t, s)
	got, err := c.Get(ctx, "/a")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "1" {
		t.Errorf("after restart: %v, %v; want /a=1", got, err)
	}
}

func TestRefusesAPathTooLongForASocket(t *testing.T) {
	_, err := Start(context.Background(), Config{Dir: "/tmp/" + strings.Repeat("x", 120), Logger: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "shorter data directory") {
		t.Errorf("err = %v, want one that asks for a shorter data directory", err)
	}
}

func client(t *testing.T, s *Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: s.Endpoints(), DialTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func put(ctx context.Context, t *testing.T, s *Server, key, value string) {
	t.Helper()
	c := client(t, s)
	if _, err := c.Put(ctx, key, value); err != nil {
		t.Fatal(err)
	}
	c.Close()
}
