package native

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/reevehq/reeve/internal/embedded"
	"github.com/reevehq/reeve/internal/podnet"
)

// Network connects pod sandboxes. Namespaces are bind mounts that outlive every process; Add and Del follow CNI's rules:
// Del is idempotent and succeeds for what was never added.
type Network interface {
	// NewNamespace makes a network namespace and returns its path.
	NewNamespace(ctx context.Context, sandboxID string) (path string, err error)
	// RemoveNamespace removes it; a path that is gone is fine.
	RemoveNamespace(ctx context.Context, path string) error
	Add(ctx context.Context, req podnet.Request) (podnet.Result, error)
	Del(ctx context.Context, req podnet.Request) error
	Check(ctx context.Context, req podnet.Request, prev podnet.Result) error
	// Status returns an error, which says why, until sandboxes can be connected.
	Status(ctx context.Context) error
	// GC removes the networks and namespaces of all sandboxes but these.
	GC(ctx context.Context, keepSandboxIDs []string) error
}

// Handler is one runtime handler of a RuntimeClass.
type Handler struct {
	// Type is the shim: "io.containerd.runc.v2" when empty.
	Type string
	// Binary is the OCI runtime for the runc shim: "runc" in containerd's PATH when empty.
	Binary string
}

// Config configures New. Address, StateDir and LogpumpDir are required.
type Config struct {
	// Address is containerd's socket.
	Address string
	// Namespace is containerd's. Empty: the one recorded in StateDir, else "k8s.io" where containerd's CRI plugin is off
	// and "reeve" where it is on.
	Namespace string
	// StateDir holds our files, <data-dir>/cri; mode 0711.
	StateDir string
	// LogpumpDir is logpump's folder; LogpumpBinary its program, extracted from the embedded one when empty.
	LogpumpDir, LogpumpBinary string
	// DetachLogpump, if set, moves a fresh logpump out of our cgroup.
	DetachLogpump func(pid int) error
	// LogpumpWrap, if set, gives the command that starts logpump; for tests.
	LogpumpWrap func(name string, args ...string) *exec.Cmd
	// Network is required unless every pod uses the host's.
	Network Network
	// CgroupDriver is "cgroupfs" (default) or "systemd".
	CgroupDriver string
	// CgroupRoot is where sandboxes go that name no cgroup parent (crictl's), with the cgroupfs driver; "/" when empty.
	CgroupRoot string
	// Snapshotter is "overlayfs" where containerd has it, else "native", when empty.
	Snapshotter string
	// Handlers by name; DefaultHandler ("runc" when empty) is also the one for the empty name. "runc" always exists.
	Handlers       map[string]Handler
	DefaultHandler string
	// PauseImage is the sandbox image; the embedded one when empty.
	PauseImage string
	// Images are OCI archives to import at start when missing: the embedded pause and demo images when nil.
	Images [][]byte
	// ImageDir is a folder of archives (*.tar) that are imported at start when their content is new; "" for none.
	ImageDir string
	// RegistryDir holds hosts files, containerd's format; "/etc/containerd/certs.d" when empty.
	RegistryDir string
	// CDIDirs hold the vendors' specifications of devices; "/etc/cdi" and "/var/run/cdi" when nil.
	CDIDirs []string
	// MaxPulls bounds how many images are pulled at once; 5 when zero.
	MaxPulls int
	// StreamAddress is where exec, attach and port-forward are served; "127.0.0.1:0" when empty.
	StreamAddress string
	Logger        *slog.Logger
}

// Deadlines of calls to others. A hung shim or plugin then blocks only its own pod, and not for ever.
const (
	callTimeout     = 30 * time.Second // a metadata call to containerd; milliseconds unless its disk is stuck
	statusTimeout   = 5 * time.Second  // "is it there?": longer than a restart of containerd takes
	createTimeout   = 2 * time.Minute  // making a task: a cold page cache and 80 pods at once
	networkTimeout  = 2 * time.Minute  // ADD or DEL of a plugin, as the kubelet allows a sandbox
	cleanupTimeout  = 2 * time.Minute  // undoing a failed set-up
	pauseEnd        = 2 * time.Second  // from SIGKILL to pause's exit event
	killTimeout     = 30 * time.Second // from SIGKILL to the exit event
	drainTimeout    = 2 * time.Second  // from exit to the last line in the log, when something else holds the output
	recoverTimeout  = 2 * time.Minute  // rebuilding at start
	pullIdleTimeout = 5 * time.Minute  // a pull that makes no progress
	gcFirst         = time.Second      // to the first look for what a crash left, then ever longer
	gcInterval      = 10 * time.Minute // between looks in the end
	collectTimeout  = 30 * time.Second // removing what a look has found; the next one tries again
	shimLookEvery   = 5 * time.Second  // two small files a pod
	probeTimeout    = 3 * time.Second  // what becomes of a task: containerd itself gives a shim 2 s
	probeParallel   = 32               // shims asked at once
	erasedKeep      = 5 * time.Minute  // longer than containerd can be busy with what nobody waits for
	undoRetryMin    = 500 * time.Millisecond
	undoRetryMax    = time.Minute
	verifyRetryMax  = 5 * time.Second
	eventRetryMin   = 50 * time.Millisecond
	eventRetryMax   = 2 * time.Second
)

func (c *Config) setDefaults() error {
	if c.Address == "" || c.StateDir == "" || c.LogpumpDir == "" {
		return errors.New("native runtime: Address, StateDir and LogpumpDir are required")
	}
	if !filepath.IsAbs(c.StateDir) || !filepath.IsAbs(c.LogpumpDir) {
		return fmt.Errorf("native runtime: StateDir %q and LogpumpDir %q must be absolute", c.StateDir, c.LogpumpDir)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch c.CgroupDriver {
	case "":
		c.CgroupDriver = "cgroupfs"
	case "cgroupfs", "systemd":
	default:
		return fmt.Errorf("cgroup driver %q is invalid: use cgroupfs or systemd", c.CgroupDriver)
	}
	handlers := map[string]Handler{"runc": {}}
	for name, h := range c.Handlers {
		handlers[name] = h
	}
	if c.DefaultHandler == "" {
		c.DefaultHandler = "runc"
	}
	def, ok := handlers[c.DefaultHandler]
	if !ok {
		return fmt.Errorf("default runtime handler %q is not configured", c.DefaultHandler)
	}
	handlers[""] = def
	for name, h := range handlers {
		if h.Type == "" {
			h.Type = runcType
			handlers[name] = h
		}
	}
	c.Handlers = handlers
	if c.PauseImage == "" {
		c.PauseImage = embedded.PauseRef
	}
	if c.Images == nil {
		for _, get := range []func() ([]byte, error){embedded.PauseArchive, embedded.HelloArchive} {
			if b, err := get(); err == nil {
				c.Images = append(c.Images, b)
			}
		}
	}
	if c.RegistryDir == "" {
		c.RegistryDir = "/etc/containerd/certs.d"
	}
	if c.CDIDirs == nil {
		c.CDIDirs = []string{"/etc/cdi", "/var/run/cdi"}
	}
	if c.MaxPulls == 0 {
		c.MaxPulls = 5
	}
	if c.StreamAddress == "" {
		c.StreamAddress = "127.0.0.1:0"
	}
	if c.LogpumpBinary == "" {
		p, err := embedded.ExtractLogpump(filepath.Join(c.LogpumpDir, "bin"))
		if err != nil {
			return err
		}
		c.LogpumpBinary = p
	}
	return nil
}

const runcType = "io.containerd.runc.v2"
