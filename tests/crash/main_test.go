package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/reevehq/reeve/cni"
	"github.com/reevehq/reeve/cri/native"
	"github.com/reevehq/reeve/cri/server"
	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/internal/testns"
)

// asRuntime, set in the environment, makes the test binary be the runtime's process.
const asRuntime = "REEVE_CRASH_RUNTIME"

// childConfig is what the runtime's process must know.
type childConfig struct {
	Address, Dir, Endpoint, Logpump string
	Images                          []string
}

func TestMain(m *testing.M) {
	if c := os.Getenv(asRuntime); c != "" {
		if err := beRuntime(c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testns.Main(m)
}

// beRuntime is what `reeve cri --network=cni` does, on the test's folders. It ends with its standard input, so that a
// killed test leaves none behind.
func beRuntime(config string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	network, err := cni.NewConflist(cni.ConflistConfig{
		ConfDir: filepath.Join(c.Dir, "net.d"), BinDirs: []string{filepath.Join(c.Dir, "bin"), pluginDir}, CacheDir: filepath.Join(c.Dir, "cni"),
		NetNSDir: filepath.Join(c.Dir, "netns"), Logger: log,
	})
	if err != nil {
		return err
	}
	defer network.Close()
	host, err := cgroup.Detect()
	if err != nil {
		return err
	}
	cfg := native.Config{
		Address: c.Address, StateDir: filepath.Join(c.Dir, "cri"), LogpumpDir: filepath.Join(c.Dir, "pump"), LogpumpBinary: c.Logpump,
		DetachLogpump: func(pid int) error { return host.Join(testenv.CgroupOf(c.Dir)+"/logpump", pid) },
		Network:       network, RegistryDir: filepath.Join(c.Dir, "certs.d"), Logger: log, DefaultHandler: "crash",
		Handlers: map[string]native.Handler{
			"crash": {Binary: filepath.Join(c.Dir, "bin", "crash-runc")},
			"shim":  {Type: "io.containerd.crash.v2"},
		},
	}
	for _, path := range c.Images {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		cfg.Images = append(cfg.Images, b)
	}
	rt, err := native.New(ctx, cfg)
	if err != nil {
		return err
	}
	defer rt.Close(context.Background())
	go func() { // for the test to read
		for ctx.Err() == nil {
			tmp := filepath.Join(c.Dir, "goroutines.new")
			if os.WriteFile(tmp, fmt.Append(nil, runtime.NumGoroutine()), 0o644) == nil {
				os.Rename(tmp, filepath.Join(c.Dir, "goroutines"))
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	return server.Run(ctx, rt, c.Endpoint, log)
}
