package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

const (
	// readyTimeout bounds opening the database and the election of the only member. A large write-ahead log on a slow
	// disk takes tens of seconds to replay.
	readyTimeout = 2 * time.Minute
	// quotaBytes is the database size at which etcd refuses writes: 2 GiB, etcd's own default. Memory-mapped.
	quotaBytes = 2 << 30
	// snapshotCount is how many writes are kept in memory for slow followers before a snapshot. There are none, and
	// each entry holds its value: kept small.
	snapshotCount = 1000
	// slowRequest is when etcd warns of a request, its own default for clients.
	slowRequest = 300 * time.Millisecond
	// maxSocketPath is the longest path a unix socket address holds.
	maxSocketPath = 107
)

// Config of the embedded member.
type Config struct {
	// Dir holds the data and the socket. Created 0700; its socket path must stay below 108 bytes.
	Dir    string
	Logger *slog.Logger
}

// Server is a running member.
type Server struct {
	etcd     *embed.Etcd
	socket   string
	stopping *atomic.Bool
}

// Start opens or creates the database under c.Dir and returns once it serves, or an error that names the folder: the
// folder is not usable, another process has the database open, the data is damaged. It blocks for as long as the log
// takes to replay, and ends early when ctx does.
func Start(ctx context.Context, c Config) (*Server, error) {
	socket := filepath.Join(c.Dir, "etcd.sock")
	if len(socket) > maxSocketPath {
		return nil, fmt.Errorf("start etcd: socket path %q is %d bytes long, more than the %d a unix socket can have: use a shorter data directory",
			socket, len(socket), maxSocketPath)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create etcd folder %q: %w", c.Dir, err)
	}
	// The folder may have been made by hand with a wider mode.
	if err := os.Chmod(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("close etcd folder %q to others: %w", c.Dir, err)
	}
	if err := checkUnused(socket); err != nil {
		return nil, err
	}

	stopping := &atomic.Bool{}
	cfg := embed.NewConfig()
	cfg.Name = "reeve"
	cfg.Dir = filepath.Join(c.Dir, "data")
	cfg.ListenClientUrls = []url.URL{{Scheme: "unix", Path: socket}}
	// A lone member talks to no peer, so it listens for none. The advertised addresses must look like host:port and
	// are dialled by nobody.
	cfg.ListenPeerUrls = nil
	nobody := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg.AdvertisePeerUrls = []url.URL{nobody}
	cfg.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2379"}}
	cfg.InitialCluster = cfg.Name + "=" + nobody.String()
	cfg.EnableGRPCGateway = false
	cfg.Metrics = "basic"
	cfg.QuotaBackendBytes = quotaBytes
	cfg.SnapshotCount = snapshotCount
	cfg.SnapshotCatchUpEntries = snapshotCount
	// The freelist as a map: no long scans when the database has grown and shrunk.
	cfg.BackendFreelistType = "map"
	// The API server compacts every five minutes and wants old revisions until then.
	cfg.AutoCompactionRetention = "0"
	cfg.WarningUnaryRequestDuration = slowRequest
	cfg.WarningApplyDuration = slowRequest
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(bridge(c.Logger, stopping))

	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %q: %w", c.Dir, err)
	}
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	select {
	case <-e.Server.ReadyNotify():
		return &Server{e, socket, stopping}, nil
	case err = <-e.Err():
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-timeout.C:
		err = fmt.Errorf("not ready after %s", readyTimeout)
	}
	e.Close()
	return nil, fmt.Errorf("start etcd in %q: %w", c.Dir, err)
}

// checkUnused removes a socket that a killed process left behind, and refuses when someone answers on it.
func checkUnused(socket string) error {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("start etcd: another process serves %q: stop the other control plane of this data directory first", socket)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale etcd socket: %w", err)
	}
	return nil
}

// Endpoints are what a client dials.
func (s *Server) Endpoints() []string { return []string{"unix://" + s.socket} }

// Err delivers an error when etcd stops by itself, such as on a full disk.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Stop closes the database and blocks until everything has ended. Clients should be gone: their requests fail.
func (s *Server) Stop() {
	s.stopping.Store(true)
	s.etcd.Close()
}
