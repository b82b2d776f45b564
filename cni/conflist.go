package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/fsnotify/fsnotify"

	"github.com/reevehq/reeve/cni/netns"
	"github.com/reevehq/reeve/internal/logkey"
)

// newExec is what libcni would make itself, at its first call and without a lock.
func newExec() invoke.Exec {
	return &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: os.Stderr}, PluginDecoder: version.PluginDecoder{}}
}

// ConflistConfig says where the node's CNI configuration and plugins are.
type ConflistConfig struct {
	// ConfDir holds the configuration; the first usable file in name order is the pods' network. Default: /etc/cni/net.d.
	ConfDir string
	// BinDirs are searched for plugins in order. Default: /opt/cni/bin, /usr/lib/cni, /usr/libexec/cni.
	BinDirs []string
	// CacheDir keeps the results that CHECK and DEL hand back to the plugins. Required.
	CacheDir string
	// NetNSDir holds the namespaces, each under its sandbox's ID. Required.
	NetNSDir string
	// Changed is called when another configuration, or none, is in use, so that readiness is looked at again at once; from
	// the watch's goroutine, and once inside NewConflist when one is found. It must not block. May be nil.
	Changed func()
	// Logger. Default: slog.Default().
	Logger *slog.Logger
}

const (
	// addTimeout bounds one ADD: daemons behind plugins (Calico, Cilium) may wait for their API server. kubelet gives up on
	// a sandbox after 4 min.
	addTimeout = 90 * time.Second
	// delTimeout bounds one DEL, CHECK or STATUS.
	delTimeout = 60 * time.Second
	// rescanPeriod is the safety net under the folder watch, and how a folder that is made later is found.
	rescanPeriod = 10 * time.Second
	// settleTime lets a burst of file events end.
	settleTime = 50 * time.Millisecond
)

// Conflist runs the node's CNI plugins through libcni. Safe for concurrent use.
type Conflist struct {
	cfg  ConflistConfig
	log  *slog.Logger
	cni  *libcni.CNIConfig
	stop context.CancelFunc
	done chan struct{}

	adding sync.RWMutex // held for reading by each ADD; see gcPlugins

	mu      sync.Mutex
	list    *libcni.NetworkConfigList // nil until one loads
	loadErr error                     // why it is nil, or why the newest file was passed over
	fresh   map[string]time.Time
	settled map[string]bool // sandboxes whose ADD this process saw succeed: none of its plugins runs any more
}

// NewConflist loads the configuration, if there is any, and watches its folder with one goroutine until Close. A folder
// that is missing or has no usable file is no error here, but one of Status.
func NewConflist(cfg ConflistConfig) (*Conflist, error) {
	if cfg.ConfDir == "" {
		cfg.ConfDir = "/etc/cni/net.d"
	}
	if len(cfg.BinDirs) == 0 {
		cfg.BinDirs = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	var errs []error
	if cfg.CacheDir == "" {
		errs = append(errs, errors.New("CacheDir is required"))
	}
	if cfg.NetNSDir == "" {
		errs = append(errs, errors.New("NetNSDir is required"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("check CNI configuration: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	c := &Conflist{
		cfg: cfg, log: cfg.Logger, stop: stop, done: make(chan struct{}),
		cni:   libcni.NewCNIConfigWithCacheDir(cfg.BinDirs, cfg.CacheDir, newExec()),
		fresh: map[string]time.Time{}, settled: map[string]bool{},
	}
	c.reload()
	go c.watch(ctx)
	return c, nil
}

// Close stops the watch and waits for it. Pods keep their networks.
func (c *Conflist) Close() error {
	c.stop()
	<-c.done
	return nil
}

// watch reloads after every change of the folder.
func (c *Conflist) watch(ctx context.Context) {
	defer close(c.done)
	var events <-chan fsnotify.Event
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		c.log.Warn("Failed to watch the CNI configuration, looking at it periodically", logkey.Path, c.cfg.ConfDir, logkey.Err, err)
	} else {
		defer watcher.Close()
		events = watcher.Events
	}
	rescan := time.NewTicker(rescanPeriod)
	defer rescan.Stop()
	settle := time.NewTimer(0)
	defer settle.Stop()
	for {
		if watcher != nil && !slices.Contains(watcher.WatchList(), c.cfg.ConfDir) {
			if watcher.Add(c.cfg.ConfDir) == nil {
				settle.Reset(0) // what came between the last look and the watch
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-events:
			settle.Reset(settleTime)
		case <-rescan.C:
			c.reload()
		case <-settle.C:
			c.reload()
		}
	}
}

// reload takes the first file that parses. A folder that has become empty or broken keeps no network: pods that need one
// wait, as they do for upstream's runtimes.
func (c *Conflist) reload() {
	list, err := loadFirst(c.cfg.ConfDir)
	c.mu.Lock()
	before, beforeErr := c.list, c.loadErr
	c.list, c.loadErr = list, err
	c.mu.Unlock()
	if c.cfg.Changed != nil && ((list == nil) != (before == nil) || (list != nil && string(before.Bytes) != string(list.Bytes))) {
		c.cfg.Changed()
	}
	switch {
	case list != nil && (before == nil || string(before.Bytes) != string(list.Bytes)):
		c.log.Info("Loaded the CNI configuration", "network", list.Name, logkey.Path, c.cfg.ConfDir)
	case list == nil && (before != nil || beforeErr == nil || beforeErr.Error() != err.Error()):
		c.log.Warn("Found no usable CNI configuration", logkey.Path, c.cfg.ConfDir, logkey.Err, err)
	}
}

// loadFirst reads the folder's files (.conflist, .conf, .json) in name order until one is usable. Without any, the error
// says what was wrong with each.
func loadFirst(dir string) (*libcni.NetworkConfigList, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("read CNI configuration folder: %w", err)
	}
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration folder %q: %w", dir, err)
	}
	slices.Sort(files)
	var errs []error
	for _, file := range files {
		list, err := loadFile(file)
		if err == nil {
			return list, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", file, err))
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("no CNI configuration (*.conflist, *.conf, *.json) in %q", dir)
	}
	return nil, fmt.Errorf("no usable CNI configuration: %w", errors.Join(errs...))
}

func loadFile(file string) (*libcni.NetworkConfigList, error) {
	var list *libcni.NetworkConfigList
	var err error
	if filepath.Ext(file) == ".conflist" {
		list, err = libcni.ConfListFromFile(file)
	} else {
		var conf *libcni.PluginConfig
		if conf, err = libcni.ConfFromFile(file); err == nil {
			if conf.Network.Type == "" {
				return nil, errors.New(`field "type" is missing: a .conf file is one plugin; name a list .conflist`)
			}
			list, err = libcni.ConfListFromConf(conf)
		}
	}
	if err != nil {
		return nil, err
	}
	if len(list.Plugins) == 0 {
		return nil, errors.New(`field "plugins" is empty`)
	}
	return list, nil
}

// network answers the list in use.
func (c *Conflist) network() (*libcni.NetworkConfigList, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list == nil {
		return nil, c.loadErr
	}
	return c.list, nil
}

// NewNamespace makes the sandbox's network namespace, loopback up. What an earlier attempt left under this ID is removed.
func (c *Conflist) NewNamespace(_ context.Context, sandboxID string) (string, error) {
	c.touch(sandboxID)
	return newNamespace(c.cfg.NetNSDir, sandboxID)
}

// RemoveNamespace removes a namespace that NewNamespace made. Nothing there is no error.
func (c *Conflist) RemoveNamespace(_ context.Context, path string) error { return netns.Remove(path) }

func (c *Conflist) touch(sandboxID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fresh[sandboxID] = time.Now()
}
