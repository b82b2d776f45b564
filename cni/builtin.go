package cni

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/reevehq/reeve/cni/ipam"
	"github.com/reevehq/reeve/cni/netns"
	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/podnet"
	"github.com/reevehq/reeve/internal/xtables"
)

// BuiltinConfig describes the built-in network of one node.
type BuiltinConfig struct {
	// StateDir holds one record a sandbox; made 0700. Required.
	StateDir string
	// NetNSDir holds the namespaces, each under its sandbox's ID; made 0755. Required.
	NetNSDir string
	// PodCIDRs are this node's ranges, at most one a family. They may come later, through SetPodCIDRs; Status is an error
	// until they do.
	PodCIDRs []netip.Prefix
	// ClusterCIDRs are all pods' ranges: what a pod sends to them keeps its source address. Empty: the node's own ranges.
	ClusterCIDRs []netip.Prefix
	// MTU of the pods' interfaces. 0: that of the node's default route's device, else 1500.
	MTU int
	// LinkPrefix begins the name of every veth on the node. Default: rv. At most 3 lower-case letters.
	LinkPrefix string
	// ChainPrefix begins the name of every iptables chain. Default: REEVE. At most 8 capital letters, digits or dashes.
	ChainPrefix string
	// IPTables chooses "nft" or "legacy"; empty takes what the host's iptables is.
	IPTables string
	// Logger. Default: slog.Default().
	Logger *slog.Logger
}

const (
	podInterface = "eth0"
	// gcGrace protects sandboxes younger than this from GC, whose list may have been made before them.
	gcGrace = 2 * time.Minute
	// teardownTimeout bounds an undo, which must not end with its caller's context.
	teardownTimeout = 20 * time.Second
	defaultMTU      = 1500
)

var (
	linkPrefixPattern  = regexp.MustCompile(`^[a-z]{1,3}$`)
	chainPrefixPattern = regexp.MustCompile(`^[A-Z][A-Z0-9-]{0,7}$`)
	sandboxIDPattern   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
)

// Builtin is the built-in routed network. Safe for concurrent use.
type Builtin struct {
	cfg   BuiltinConfig
	log   *slog.Logger
	store recordStore

	mu      sync.Mutex
	ranges  []*ipam.Range        // this node's pod CIDRs, IPv4 first
	records map[string]*record   // by sandbox ID
	fresh   map[string]time.Time // sandboxes that this process began to set up

	rules rules // has a lock of its own
}

// NewBuiltin reads what earlier processes left in the state folder and, with pod CIDRs (configured, or the last ones that
// were set), sets the node up: forwarding, chains and jumps. It starts nothing.
func NewBuiltin(cfg BuiltinConfig) (*Builtin, error) {
	var errs []error
	if cfg.StateDir == "" {
		errs = append(errs, errors.New("StateDir is required"))
	}
	if cfg.NetNSDir == "" {
		errs = append(errs, errors.New("NetNSDir is required"))
	}
	if cfg.LinkPrefix == "" {
		cfg.LinkPrefix = "rv"
	}
	if !linkPrefixPattern.MatchString(cfg.LinkPrefix) {
		errs = append(errs, fmt.Errorf("LinkPrefix %q: use one to three lower-case letters", cfg.LinkPrefix))
	}
	if cfg.ChainPrefix == "" {
		cfg.ChainPrefix = "REEVE"
	}
	if !chainPrefixPattern.MatchString(cfg.ChainPrefix) {
		errs = append(errs, fmt.Errorf("ChainPrefix %q: use a capital letter and up to 7 capital letters, digits or dashes", cfg.ChainPrefix))
	}
	if cfg.MTU != 0 && (cfg.MTU < 576 || cfg.MTU > 65535) {
		errs = append(errs, fmt.Errorf("MTU %d: use 576 to 65535, or 0 to find it", cfg.MTU))
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("check network configuration: %w", err)
	}

	b := &Builtin{
		cfg:   cfg,
		log:   cfg.Logger,
		store: recordStore{dir: cfg.StateDir},
		fresh: map[string]time.Time{},
	}
	b.rules.init(cfg.ChainPrefix, xtables.Flavor(cfg.IPTables))
	records, err := b.store.load()
	if records == nil {
		return nil, err
	}
	if err != nil {
		b.log.Warn("Skipped unreadable network records", logkey.Err, err)
	}
	b.records = records
	if len(cfg.PodCIDRs) > 0 {
		if err := b.SetPodCIDRs(cfg.PodCIDRs); err != nil {
			return nil, err
		}
		return b, nil
	}
	last, err := b.store.loadRanges()
	if err == nil && len(last) > 0 {
		err = b.SetPodCIDRs(last)
	}
	if err != nil {
		b.log.Warn("Failed to take over the last pod CIDRs, waiting to be told", logkey.Err, err)
	}
	return b, nil
}

// SetPodCIDRs tells the node's ranges, at most one a family, and prepares the node for them. Repeating it is cheap; pods
// that have addresses keep them when the ranges change.
func (b *Builtin) SetPodCIDRs(cidrs []netip.Prefix) error {
	if len(cidrs) == 0 {
		return errors.New("set pod CIDRs: none given")
	}
	var v4, v6 *ipam.Range
	for _, c := range cidrs {
		r, err := ipam.New(c)
		if err != nil {
			return err
		}
		at := &v4
		if r.Prefix().Addr().Is6() {
			at = &v6
		}
		if *at != nil {
			return fmt.Errorf("set pod CIDRs: %s and %s are of one family; give one of each", (*at).Prefix(), r.Prefix())
		}
		*at = r
	}
	var ranges []*ipam.Range
	for _, r := range []*ipam.Range{v4, v6} {
		if r != nil {
			ranges = append(ranges, r)
		}
	}

	b.mu.Lock()
	same := len(ranges) == len(b.ranges)
	for i := 0; same && i < len(ranges); i++ {
		same = ranges[i].Prefix() == b.ranges[i].Prefix()
	}
	b.mu.Unlock()
	if same {
		return nil
	}
	if err := enableForwarding(v4 != nil, v6 != nil); err != nil {
		return err
	}

	b.mu.Lock()
	for _, rec := range b.records {
		for _, ip := range rec.IPs {
			for _, r := range ranges {
				if !r.Reserve(ip, rec.SandboxID) {
					b.log.Warn("Found an address that two sandboxes claim", logkey.SandboxID, rec.SandboxID, "ip", ip.String())
				}
			}
		}
	}
	b.ranges = ranges
	b.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), teardownTimeout)
	defer cancel()
	if err := b.EnsureRules(ctx); err != nil {
		b.mu.Lock()
		b.ranges = nil // Status stays an error, and the next call tries again
		b.mu.Unlock()
		return err
	}
	b.log.Info("Set up the pod network", "podCIDRs", fmt.Sprint(cidrs))
	return b.store.writeRanges(cidrs)
}

// Status is an error until the node has a pod CIDR and its rules are in place.
func (b *Builtin) Status(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ranges) == 0 {
		return errors.New("pod network not ready: this node has no pod CIDR yet")
	}
	return nil
}

// NewNamespace makes the sandbox's network namespace, loopback up. What an earlier attempt left under this ID is removed.
func (b *Builtin) NewNamespace(_ context.Context, sandboxID string) (string, error) {
	b.touch(sandboxID)
	return newNamespace(b.cfg.NetNSDir, sandboxID)
}

// RemoveNamespace removes a namespace that NewNamespace made. Nothing there is no error.
func (b *Builtin) RemoveNamespace(_ context.Context, path string) error {
	return netns.Remove(path)
}

// Run looks every period for flushed rules and makes them again, until ctx ends. It returns ctx's error.
func (b *Builtin) Run(ctx context.Context, period time.Duration) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if b.Status(ctx) != nil {
			continue
		}
		if err := b.EnsureRules(ctx); err != nil {
			b.log.Warn("Failed to look after the network's rules", logkey.Err, err)
		}
	}
}

// touch notes that this process is setting the sandbox up.
func (b *Builtin) touch(sandboxID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fresh[sandboxID] = time.Now()
}

// hostLink is the name of the sandbox's veth on the node: prefix and 12 hex digits, at most 15 bytes as the kernel wants.
func (b *Builtin) hostLink(sandboxID string) string {
	sum := sha256.Sum256([]byte(sandboxID))
	return b.cfg.LinkPrefix + hex.EncodeToString(sum[:6])
}

func newNamespace(dir, sandboxID string) (string, error) {
	if !sandboxIDPattern.MatchString(sandboxID) {
		return "", fmt.Errorf("create network namespace: sandbox ID %q is not letters, digits, dots, dashes and underscores", sandboxID)
	}
	if err := netns.Remove(filepath.Join(dir, sandboxID)); err != nil {
		return "", err
	}
	return netns.Create(dir, sandboxID)
}

func checkRequest(req podnet.Request) error {
	if !sandboxIDPattern.MatchString(req.SandboxID) {
		return fmt.Errorf("sandbox ID %q is not letters, digits, dots, dashes and underscores", req.SandboxID)
	}
	if !filepath.IsAbs(req.NetNS) {
		return fmt.Errorf("network namespace path %q is not absolute", req.NetNS)
	}
	return nil
}
