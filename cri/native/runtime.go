package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/containerd/containerd/v2/pkg/dialer"

	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/cri/native/spec"
	"github.com/reevehq/reeve/cri/stream"
	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/logpump"
)

var _ cri.Runtime = (*Runtime)(nil)

// Runtime is a cri.Runtime on one containerd.
type Runtime struct {
	cfg     Config
	log     *slog.Logger
	host    *spec.Host
	cgroups *cgroup.Host

	client  *containerd.Client
	link    *link
	version string // containerd's, at start
	tasks   tasks.TasksClient
	conts   containers.Store
	snaps   snapshots.Snapshotter

	pump     pumpClient
	pumpSup  *logpump.Supervisor
	stream   *stream.Server
	images   *imageStore
	snapRoot string
	events   fanout
	pause    pauseImage
	gate     *gate
	oci      featureSet

	store     store
	gcKick    chan struct{}
	troubles  map[string]string  // what is wrong with sandboxes' shims; under store.mu
	verifying map[string]bool    // IDs whose shims are being asked; under store.mu
	erased    map[string]erasure // what was removed lately; under store.mu

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New connects to containerd, makes sure that logpump runs, imports the images that come with reeve, rebuilds the
// sandboxes and containers, and removes what was half made. It returns once calls can be served.
func New(ctx context.Context, cfg Config) (_ *Runtime, err error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	for _, d := range []string{"", "sandboxes", "containers", "exec"} {
		if err := os.MkdirAll(filepath.Join(cfg.StateDir, d), 0o711); err != nil {
			return nil, fmt.Errorf("make runtime folder: %w", err)
		}
	}
	r := &Runtime{cfg: cfg, log: cfg.Logger, store: newStore(), gcKick: make(chan struct{}, 1), erased: map[string]erasure{}, troubles: map[string]string{}, gate: newGate(gateSlots(), gateHold)}
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	defer func() {
		if err != nil {
			r.Close(context.WithoutCancel(ctx))
		}
	}()
	ctx, cancelStart := context.WithTimeout(ctx, recoverTimeout)
	defer cancelStart()

	r.pumpSup = &logpump.Supervisor{Dir: cfg.LogpumpDir, Binary: cfg.LogpumpBinary, Detach: cfg.DetachLogpump, Wrap: cfg.LogpumpWrap, Logger: cfg.Logger}
	r.pump = pumpClient{logpump.Client{Dir: cfg.LogpumpDir}}
	pumpReady := make(chan error, 1)
	go func() { pumpReady <- r.pumpSup.Ensure(ctx) }()

	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	if err := r.inspectHost(ctx); err != nil {
		return nil, err
	}
	r.images = newImageStore(r.client, r.cfg, r.log)
	r.images.fs.path = r.snapRoot
	if err := r.images.load(ctx); err != nil {
		return nil, err
	}
	if err := r.images.importBundled(ctx); err != nil {
		return nil, err
	}
	if r.stream, err = stream.Listen(cfg.StreamAddress, streams{r}); err != nil {
		return nil, err
	}
	if err := <-pumpReady; err != nil {
		return nil, err
	}
	// Events first, so that nothing that happens while we look is missed; they are handled after the look.
	sub := r.subscribe(runCtx)
	if err := r.recover(ctx, runCtx); err != nil {
		return nil, err
	}
	r.wg.Go(func() { r.eventLoop(runCtx, sub) })
	r.wg.Go(func() { r.pumpSup.Run(runCtx, nil) })
	r.wg.Go(func() { r.stream.Serve() })
	r.wg.Go(func() { r.gcLoop(runCtx) })
	r.wg.Go(func() { r.watchShims(runCtx) })
	r.wg.Go(func() { r.checkNetworks(runCtx) })
	return r, nil
}

// connect dials containerd, waits for it, and settles the namespace and snapshotter.
func (r *Runtime) connect(ctx context.Context) error {
	address := strings.TrimPrefix(r.cfg.Address, "unix://")
	r.link = &link{address: address}
	// A dead containerd is back within a tenth of a second; grpc's own back-off of a second would be ten times that.
	params := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: eventRetryMin, Multiplier: 1.5, Jitter: 0.2, MaxDelay: eventRetryMax},
		MinConnectTimeout: callTimeout,
	}
	dial := containerd.WithDialOpts([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(params),
		grpc.WithContextDialer(dialer.ContextDialer),
		// Many small calls: containerd's client default of 32 KiB buffers each way is for layers.
		grpc.WithReadBufferSize(8 << 10), grpc.WithWriteBufferSize(8 << 10),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), grpc.WithChainUnaryInterceptor(r.link.unary), grpc.WithChainStreamInterceptor(r.link.stream),
	})
	probe, err := containerd.New(address, dial)
	if err != nil {
		return fmt.Errorf("connect to containerd at %q: %w", address, err)
	}
	defer probe.Close()
	cctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	v, err := probe.Version(cctx)
	if err != nil {
		return fmt.Errorf("containerd at %q does not answer: %w", address, err)
	}
	// Debian's build says "1.6.20~ds1"; clients parse a semantic version.
	r.version, _, _ = strings.Cut(strings.TrimPrefix(v.Version, "v"), "~")
	plugins, err := probe.IntrospectionService().Plugins(cctx)
	if err != nil {
		return fmt.Errorf("ask containerd for its plugins: %w", err)
	}
	criOn, snapshotters := false, map[string]string{}
	for _, p := range plugins.Plugins {
		switch {
		case p.InitErr != nil:
		case p.Type == "io.containerd.grpc.v1" && p.ID == "cri":
			criOn = true
		case p.Type == "io.containerd.snapshotter.v1":
			snapshotters[p.ID] = p.Exports["root"]
			if p.Exports["root"] == "" {
				snapshotters[p.ID] = "/"
			}
		}
	}
	if r.cfg.Namespace, err = chooseNamespace(r.cfg.StateDir, r.cfg.Namespace, criOn); err != nil {
		return err
	}
	if r.cfg.Snapshotter == "" {
		r.cfg.Snapshotter = "overlayfs"
		if snapshotters["overlayfs"] == "" {
			r.cfg.Snapshotter = "native"
		}
	}
	if snapshotters[r.cfg.Snapshotter] == "" {
		return fmt.Errorf("containerd at %q has no working snapshotter %q", address, r.cfg.Snapshotter)
	}
	r.snapRoot = snapshotters[r.cfg.Snapshotter]
	if r.client, err = containerd.New(address, dial, containerd.WithDefaultNamespace(r.cfg.Namespace)); err != nil {
		return fmt.Errorf("connect to containerd at %q: %w", address, err)
	}
	r.tasks, r.conts, r.snaps = r.client.TaskService(), r.client.ContainerService(), r.client.SnapshotService(r.cfg.Snapshotter)
	return nil
}

// chooseNamespace returns the containerd namespace and records it: once pods live in one, it never changes by itself.
func chooseNamespace(stateDir, wanted string, criOn bool) (string, error) {
	path := filepath.Join(stateDir, "namespace")
	b, err := os.ReadFile(path)
	have := strings.TrimSpace(string(b))
	switch {
	case err == nil && have != "":
		if wanted != "" && wanted != have {
			return "", fmt.Errorf("containerd namespace %q: this node's pods live in %q, as %s says; remove them and that file first", wanted, have, path)
		}
		return have, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("read the node's containerd namespace: %w", err)
	}
	if wanted == "" {
		wanted = "k8s.io"
		if criOn {
			wanted = "reeve" // the CRI plugin would take our containers for its own
		}
	}
	return wanted, writeAtomic(path, []byte(wanted+"\n"), true)
}

// Close stops serving. Containers, logpump and containerd go on.
func (r *Runtime) Close(ctx context.Context) error {
	r.cancel()
	if r.stream != nil {
		r.stream.Close()
	}
	r.store.stopPausers()
	done := make(chan struct{})
	go func() { r.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	case <-time.After(callTimeout):
	}
	r.store.closeHolds()
	if r.client != nil {
		return r.client.Close()
	}
	return nil
}

// Namespace returns the containerd namespace in use.
func (r *Runtime) Namespace() string { return r.cfg.Namespace }
